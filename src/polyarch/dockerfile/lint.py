"""Checks: what is legal in a Dockerfile but probably not meant.

The 22 rules, the lines they point at and the ways to turn them off are BuildKit's; one more way is a comment
``# check=skip=RULE`` directly above an instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from polyarch.dockerfile.ast import Dockerfile, Node
from polyarch.dockerfile.lint_options import CheckOptions, options_of, parse_options, skipped_at
from polyarch.dockerfile.lint_rules import RULES, Rule
from polyarch.dockerfile.program import Program
from polyarch.dockerfile.scope import BaseImage, Inputs
from polyarch.errors import DockerfileError, Location
from polyarch.oci.platform import Platform

__all__ = [
    "RULES",
    "BaseImage",
    "CheckOptions",
    "Finding",
    "IgnoreMatcher",
    "Inputs",
    "Rule",
    "lint",
    "lint_until_error",
    "options_of",
    "parse_options",
]


class IgnoreMatcher(Protocol):
    """What CopyIgnoredFile needs of the context's ignore rules (``context.ignore.Matcher``)."""

    @property
    def patterns(self) -> Sequence[str]: ...

    def matches(self, path: str) -> bool: ...


@dataclass(frozen=True)
class Finding:
    """One thing that a rule has to say of one place."""

    rule: str
    message: str
    description: str
    url: str
    location: Location


# Adds a finding: rule name, message, the node it is about, and the place if that is another.
Report = Callable[[str, str, Node, Location | None], None]


@dataclass(frozen=True)
class Context:
    """Everything a check may look at."""

    dockerfile: Dockerfile
    program: Program
    inputs: Inputs
    report: Report
    ignore: IgnoreMatcher | None = None
    target_platform: Platform | None = None

    def body(self) -> list[tuple[Node, list[Node]]]:
        """Each FROM's node with those of the instructions under it."""
        stages: list[tuple[Node, list[Node]]] = []
        for node in self.dockerfile.nodes:
            if node.keyword == "FROM":
                stages.append((node, []))
            elif stages:
                stages[-1][1].append(node)
        return stages


def lint(
    dockerfile: Dockerfile,
    program: Program,
    *,
    inputs: Inputs | None = None,
    ignore: IgnoreMatcher | None = None,
    target_platform: Platform | None = None,
    options: CheckOptions | None = None,
) -> tuple[Finding, ...]:
    """What the rules find in ``dockerfile``, whose ``program`` this is, in the order of its lines.

    All stages are checked, or those that ``inputs.target`` needs. Where nothing is known of a base image,
    rules that depend on it keep silent. ``options`` replace those of the ``check`` directive. Whether
    findings are errors is for the caller (``options.error``). DockerfileError for what can only fail, such as
    a bad substitution.
    """
    findings, error = lint_until_error(
        dockerfile, program, inputs=inputs, ignore=ignore, target_platform=target_platform, options=options
    )
    if error is not None:
        raise error
    return findings


def lint_until_error(
    dockerfile: Dockerfile,
    program: Program,
    *,
    inputs: Inputs | None = None,
    ignore: IgnoreMatcher | None = None,
    target_platform: Platform | None = None,
    options: CheckOptions | None = None,
) -> tuple[tuple[Finding, ...], DockerfileError | None]:
    """As ``lint``, but with an error come the findings that were made before it."""
    from polyarch.dockerfile import lint_stages, lint_text

    chosen = options_of(dockerfile) if options is None else options
    findings: list[Finding] = []

    def report(name: str, message: str, node: Node, location: Location | None) -> None:
        rule = RULES[name]
        if chosen.wants(rule) and name not in skipped_at(node):
            where = location or dockerfile.location(node)
            findings.append(Finding(name, message, rule.description, rule.url, where))

    context = Context(dockerfile, program, inputs or Inputs(), report, ignore, target_platform)
    stopped: DockerfileError | None = None
    try:
        lint_text.check(context)
        lint_stages.check(context)
    except DockerfileError as error:
        stopped = error
    return tuple(sorted(findings, key=lambda finding: finding.location.start)), stopped
