"""Which checks run: the ``check`` directive, the build argument of the same form, skips at instructions."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from polyarch.dockerfile.ast import Dockerfile, Node
from polyarch.dockerfile.characters import did_you_mean
from polyarch.dockerfile.lint_rules import RULES, Rule
from polyarch.errors import DockerfileError, Location

_AROUND_SIGNS = re.compile(r"\s*([,;=])\s*")
_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


@dataclass(frozen=True)
class CheckOptions:
    """``error``: a finding makes the build fail. ``skip_all`` spares experimental rules asked for by name."""

    skip: frozenset[str] = frozenset()
    skip_all: bool = False
    error: bool = False
    experimental: frozenset[str] = frozenset()
    experimental_all: bool = False

    def wants(self, rule: Rule) -> bool:
        """Whether ``rule`` is to be checked."""
        if rule.experimental:
            return self.experimental_all or rule.name in self.experimental
        return not self.skip_all and rule.name not in self.skip


def parse_options(text: str, *, location: Location | None = None) -> CheckOptions:
    """``skip=RULE,RULE;error=true;experimental=RULE``; ``all`` stands for every rule.

    DockerfileError, at ``location``, for anything else. Names of rules that do not exist are let pass: a
    newer frontend may know them.
    """
    values: dict[str, str] = {}
    # White space may stand around the signs; where else it stands, a remark begins.
    words = _AROUND_SIGNS.sub(r"\1", text).split()
    for part in words[0].split(";") if words else ():
        name, equals, value = part.partition("=")
        if not equals or name not in ("skip", "error", "experimental"):
            raise DockerfileError(
                f"check: {part[:100]!r} is not an option",
                hint=did_you_mean(name, ("skip", "error", "experimental"))
                or "write # check=skip=RULE,RULE;error=true",
                location=location,
                reason="check-options",
            )
        values[name] = value
    error = values.get("error", "false")
    if error not in _TRUE | _FALSE:
        raise DockerfileError(
            f"check: error={error[:100]} is neither true nor false",
            hint="write error=true",
            location=location,
            reason="check-options",
        )
    skip, experimental = values.get("skip", ""), values.get("experimental", "")
    return CheckOptions(
        skip=frozenset() if skip == "all" else _names(skip),
        skip_all=skip == "all",
        error=error in _TRUE,
        experimental=frozenset() if experimental == "all" else _names(experimental),
        experimental_all=experimental == "all",
    )


def _names(text: str) -> frozenset[str]:
    return frozenset(name.strip() for name in text.split(",") if name.strip())


def options_of(dockerfile: Dockerfile) -> CheckOptions:
    """What the ``check`` directive of ``dockerfile`` says."""
    line = dockerfile.directive_lines.get("check", 1)
    location = Location(dockerfile.file, line, line, source=dockerfile.source)
    return parse_options(dockerfile.directives.get("check", ""), location=location)


def chosen_options(dockerfile: Dockerfile, build_args: Mapping[str, str]) -> CheckOptions:
    """What is in effect: the build argument BUILDKIT_DOCKERFILE_CHECK, else the ``check`` directive; rules
    of BUILDKIT_DOCKERFILE_CHECK_EXPERIMENTAL are added to either."""
    text = build_args.get("BUILDKIT_DOCKERFILE_CHECK")
    chosen = options_of(dockerfile) if text is None else parse_options(text)
    more = build_args.get("BUILDKIT_DOCKERFILE_CHECK_EXPERIMENTAL", "")
    return replace(
        chosen,
        experimental=chosen.experimental | _names(more),
        experimental_all=chosen.experimental_all or more == "all",
    )


def skipped_at(node: Node) -> frozenset[str]:
    """The rules that a comment directly above an instruction (``# check=skip=RULE``) turns off for it."""
    found: set[str] = set()
    for comment in node.comments:
        name, equals, value = comment.partition("=")
        words = _AROUND_SIGNS.sub(r"\1", value).split()  # what follows white space is a remark
        if equals and name.strip() == "check" and words and words[0].startswith("skip="):
            names = _names(words[0].removeprefix("skip=").partition(";")[0])
            found |= set(RULES) if "all" in names else names
    return frozenset(found)
