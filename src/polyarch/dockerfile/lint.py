"""Checks: what is legal in a Dockerfile but probably not meant.

The 22 rules, the lines they point at and the ways to turn them off are BuildKit's; one more way is a comment
``# check=skip=RULE`` directly above an instruction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from polyarch.dockerfile.ast import Dockerfile, Node
from polyarch.dockerfile.lint_options import (
    CheckOptions,
    chosen_options,
    options_of,
    parse_options,
    skipped_at,
)
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
    "chosen_options",
    "lint",
    "lint_before",
    "lint_until_error",
    "lint_violation",
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
    rules that depend on it keep silent. ``options`` replace those of the ``check`` directive and of the build
    argument BUILDKIT_DOCKERFILE_CHECK. Whether findings are errors is for the caller (``options.error``).
    DockerfileError for what can only fail, such as a bad substitution.
    """
    findings, error = lint_until_error(
        dockerfile, program, inputs=inputs, ignore=ignore, target_platform=target_platform, options=options
    )
    if error is not None:
        raise error
    return findings


# What is found while the instructions are read one by one, before all of them are known.
_WHILE_READING = frozenset(
    {"StageNameCasing", "FromAsCasing", "NoEmptyContinuation", "MaintainerDeprecated", "LegacyKeyValueFormat"}
)


def lint_before(dockerfile: Dockerfile, line: int, inputs: Inputs | None = None) -> tuple[Finding, ...]:
    """What can be said of the instructions above ``line``, where one cannot be read."""
    from polyarch.dockerfile.program import instructions

    above = replace(dockerfile, nodes=tuple(node for node in dockerfile.nodes if node.end < line))
    if not above.nodes:
        return ()
    try:
        found, _ = lint_until_error(above, instructions(above), inputs=inputs)
    except DockerfileError:
        return ()
    return tuple(finding for finding in found if finding.rule in _WHILE_READING)


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

    inputs = inputs or Inputs()
    chosen = chosen_options(dockerfile, inputs.build_args) if options is None else options
    findings: list[Finding] = []

    def report(name: str, message: str, node: Node, location: Location | None) -> None:
        rule = RULES[name]
        if chosen.wants(rule) and name not in skipped_at(node):
            where = location or dockerfile.location(node)
            findings.append(Finding(name, message, rule.description, rule.url, where))

    context = Context(dockerfile, program, inputs, report, ignore, target_platform)
    stopped: DockerfileError | None = None
    try:
        lint_text.check(context)
        lint_stages.check(context)
    except DockerfileError as error:
        stopped = error
    return tuple(sorted(findings, key=lambda finding: finding.location.start)), stopped


def lint_violation(findings: Sequence[Finding]) -> DockerfileError:
    """The error that ``findings``, of which there are some, are where the Dockerfile wants them to be one."""
    rules = ", ".join(dict.fromkeys(finding.rule for finding in findings))
    return DockerfileError(
        f"lint violation found for rules: {rules}",
        detail="\n".join(f"{f.location.start}: {f.rule}: {f.message}" for f in findings),
        hint="mend them, or leave a rule out with a line `# check=skip=RULE;error=true`",
        location=findings[0].location,
        reason="check-failed",
    )
