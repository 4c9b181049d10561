"""The ``--flags`` of instructions: which there are, and reading their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from polyarch.dockerfile.characters import did_you_mean
from polyarch.errors import DockerfileError


class Kind(Enum):
    """How often a flag may stand, and whether it takes a value."""

    SWITCH = "switch"
    VALUE = "value"
    VALUES = "values"


FLAGS: Mapping[str, Mapping[str, Kind]] = {
    "FROM": {"platform": Kind.VALUE},
    "RUN": {
        "mount": Kind.VALUES,
        "network": Kind.VALUE,
        "security": Kind.VALUE,
        "device": Kind.VALUES,
    },
    "COPY": {
        "from": Kind.VALUE,
        "chown": Kind.VALUE,
        "chmod": Kind.VALUE,
        "link": Kind.SWITCH,
        "parents": Kind.SWITCH,
        "exclude": Kind.VALUES,
    },
    "ADD": {
        "chown": Kind.VALUE,
        "chmod": Kind.VALUE,
        "link": Kind.SWITCH,
        "exclude": Kind.VALUES,
        "checksum": Kind.VALUE,
        "keep-git-dir": Kind.SWITCH,
        "unpack": Kind.SWITCH,
    },
    "HEALTHCHECK": {
        "interval": Kind.VALUE,
        "timeout": Kind.VALUE,
        "start-period": Kind.VALUE,
        "start-interval": Kind.VALUE,
        "retries": Kind.VALUE,
    },
}


@dataclass
class Flags:
    """The flags that an instruction was given."""

    values: dict[str, list[str]] = field(default_factory=dict)

    def value(self, name: str, default: str = "") -> str:
        return self.values[name][0] if name in self.values else default

    def all(self, name: str) -> tuple[str, ...]:
        return tuple(self.values.get(name, ()))

    def switch(self, name: str) -> bool | None:
        """None when the flag was not given."""
        return self.values[name][0] == "true" if name in self.values else None


def read_flags(keyword: str, words: tuple[str, ...]) -> Flags:
    """The flags of one instruction. DockerfileError for one that ``keyword`` has not, or with a bad value."""
    known = FLAGS.get(keyword, {})
    found = Flags()
    for word in words:
        name, equals, value = word.removeprefix("--").partition("=")
        kind = known.get(name)
        if kind is None:
            raise _unknown(keyword, name, known)
        if name in found.values and kind is not Kind.VALUES:
            raise DockerfileError(f"{keyword}: --{name} is given twice", hint="keep one", reason="flag")
        if kind is Kind.SWITCH:
            value = _boolean(keyword, name, value, given=bool(equals))
        elif not equals:
            raise DockerfileError(
                f"{keyword}: --{name} needs a value", hint=f"write --{name}=value, with '='", reason="flag"
            )
        found.values.setdefault(name, []).append(value)
    return found


def _boolean(keyword: str, name: str, value: str, *, given: bool) -> str:
    if not given:
        return "true"
    if value.lower() not in ("true", "false"):
        raise DockerfileError(
            f"{keyword}: --{name} is true or false, not {value[:100]!r}",
            hint=f"write --{name}",
            reason="flag",
        )
    return value.lower()


def _unknown(keyword: str, name: str, known: Mapping[str, Kind]) -> DockerfileError:
    if known:
        hint = did_you_mean(f"--{name}", [f"--{flag}" for flag in known])
        hint = hint or f"{keyword} takes " + ", ".join(f"--{flag}" for flag in known)
    else:
        hint = f"{keyword} takes no flags"
    return DockerfileError(f"{keyword} has no flag --{name[:100]}", hint=hint, reason="unknown-flag")
