"""RUN's ``--mount``: comma-separated options to a typed mount, with every check that needs no build."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from polyarch.dockerfile.characters import did_you_mean
from polyarch.dockerfile.instructions import RunMount
from polyarch.errors import DockerfileError

TYPES = ("bind", "cache", "tmpfs", "secret", "ssh")
SHARING = ("shared", "private", "locked")
_BOOLEANS = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}
_UNITS = {"": 0, "b": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_SIZE = re.compile(r"([0-9]*\.?[0-9]*) ?(?:([kmgtp])(?:i?b)?|b)?", re.IGNORECASE)

# Every spelling of a key, and the field it sets.
_KEYS = {
    "type": "type",
    "from": "from_",
    "source": "source",
    "src": "source",
    "target": "target",
    "dst": "target",
    "destination": "target",
    "readonly": "read_only",
    "ro": "read_only",
    "readwrite": "read_write",
    "rw": "read_write",
    "id": "id",
    "sharing": "sharing",
    "required": "required",
    "size": "size",
    "mode": "mode",
    "uid": "uid",
    "gid": "gid",
    "env": "env",
}
_WITHOUT_VALUE = frozenset({"read_only", "read_write", "required"})


def split_fields(text: str) -> list[str]:
    """The fields of one line of CSV (RFC 4180): a field in double quotes may hold commas."""
    if not text:
        raise _bad("it is empty", "write --mount=type=cache,target=/path")
    fields: list[str] = []
    position = 0
    while True:
        if text.startswith('"', position):
            value, position = _quoted(text, position + 1)
        else:
            end = text.find(",", position)
            end = len(text) if end < 0 else end
            value, position = text[position:end], end
            if '"' in value:
                raise _bad(
                    f"{value[:100]!r} has a quote in the middle", "quote the whole option, or none of it"
                )
        fields.append(value)
        if position >= len(text):
            return fields
        position += 1  # the comma


def _quoted(text: str, position: int) -> tuple[str, int]:
    out: list[str] = []
    while True:
        end = text.find('"', position)
        if end < 0:
            raise _bad("a double quote is never closed", "close the quote")
        out.append(text[position:end])
        position = end + 1
        if text.startswith('"', position):
            out.append('"')
            position += 1
        elif position == len(text) or text[position] == ",":
            return "".join(out), position
        else:
            raise _bad("a quoted option goes on behind its quote", "quote the whole option")


def mount_from(flag: str) -> str:
    """The stage, image or context a raw ``--mount`` value names; "" for none.

    This is needed before any variable has a value, so ``from`` cannot use one. DockerfileError (without a
    location) when it does, or when the flag is malformed.
    """
    found = ""
    for option in split_fields(flag):
        key, equals, value = option.partition("=")
        if key.lower() != "from" or not equals:
            continue
        if 0 <= value.find("$") != len(value) - 1:
            raise _bad(
                f"from={value[:100]} cannot use a variable",
                "name a stage that starts FROM the variable, and mount from that stage",
            )
        found = value
    return found


def parse_mount(flag: str, expander: Callable[[str], str]) -> RunMount:
    """A ``--mount`` value with its variables expanded by ``expander``, checked.

    DockerfileError (without a location) names the option that is wrong. A relative or empty target is left to
    the caller, who knows the working directory.
    """
    reader = _Reader({"type": "bind"})
    for option in split_fields(flag):
        reader.option(option, expander)
    return reader.mount()


@dataclass
class _Reader:
    found: dict[str, Any]

    def option(self, option: str, expander: Callable[[str], str]) -> None:
        key, equals, value = option.partition("=")
        name = _KEYS.get(key.lower())
        if not equals:
            if name not in _WITHOUT_VALUE:
                hint = did_you_mean(key, _KEYS) if name is None else ""
                raise _bad(f"{option[:100]!r} must be a key=value pair", hint or f"write {key[:50]}=value")
            value = "true"
        else:
            value = expander(value)
        if name is None:
            raise _bad(
                f"unknown option {key[:100]!r}",
                did_you_mean(key, _KEYS) or "the options are " + ", ".join(sorted(set(_KEYS))),
            )
        self._set(name, key.lower(), value)

    def _set(self, name: str, key: str, value: str) -> None:
        kind = self.found["type"]
        if name == "required" and kind not in ("secret", "ssh"):
            raise _bad(f"{key!r} does not go with type={kind}", "only secret and ssh can be required")
        if name == "size" and kind != "tmpfs":
            raise _bad(f"{key!r} does not go with type={kind}", "only tmpfs has a size")
        match name:
            case "type":
                self.found["type"] = _choice("type", value, TYPES)
            case "sharing":
                self.found["sharing"] = _choice("sharing", value, SHARING)
            case "read_only" | "required":
                self.found[name] = _boolean(key, value)
            case "read_write":
                self.found["read_only"] = not _boolean(key, value)
            case "mode":
                self.found[name] = _number(key, value, 8)
            case "uid" | "gid":
                self.found[name] = _number(key, value, 10)
            case "size":
                self.found[name] = size_in_bytes(value)
            case _:
                self.found[name] = value

    def mount(self) -> RunMount:
        kind = self.found["type"]
        if kind in ("bind", "tmpfs"):
            for key in ("mode", "uid", "gid"):
                if key in self.found:
                    raise _bad(
                        f"{key} does not go with type={kind}", "secret, ssh and cache have owners and modes"
                    )
        if "sharing" in self.found and kind != "cache":
            raise _bad(f"sharing does not go with type={kind}", "only caches are shared between steps")
        if kind == "secret":
            self._check_secret()
        return RunMount(**self.found)

    def _check_secret(self) -> None:
        given = {key for key in ("from_", "source", "target", "id") if self.found.get(key)}
        if "from_" in given:
            raise _bad("a secret cannot come from a stage", "drop from=")
        if not given:
            raise _bad("a secret needs an id or a target", "write --mount=type=secret,id=NAME")
        if {"source", "id"} <= given:
            raise _bad("source and id of a secret mean the same", "keep id=")


def _choice(key: str, value: str, known: tuple[str, ...]) -> str:
    if value.lower() not in known:
        raise _bad(
            f"{key}={value[:100]} is not supported",
            did_you_mean(value, known) or f"{key} is one of " + ", ".join(known),
        )
    return value.lower()


def _boolean(key: str, value: str) -> bool:
    if value not in _BOOLEANS:
        raise _bad(f"{key}={value[:100]} is neither true nor false", f"write {key}=true or {key}=false")
    return _BOOLEANS[value]


def _number(key: str, value: str, base: int) -> int:
    digits = "01234567" if base == 8 else "0123456789"
    if not value or value.strip(digits) or len(value) > 20 or int(value, base) > 0xFFFFFFFF:
        raise _bad(
            f"{key}={value[:100]} is not a number",
            f"{key} is an octal number such as 0755"
            if base == 8
            else f"{key} is a decimal number such as 1000",
        )
    return int(value, base)


def size_in_bytes(value: str) -> int:
    """``64m``, ``1.5gb``, ``512``, ``1 KiB`` in bytes (powers of 1024). DockerfileError otherwise."""
    match = _SIZE.fullmatch(value)
    if not match or not any(char.isdigit() for char in match[1]) or len(match[1]) > 30:
        raise _bad(f"size={value[:100]} is not a size", "write a number with k, m, g, t or p, such as 64m")
    return int(float(match[1]) * 1024 ** _UNITS[(match[2] or "").lower()])


def _bad(summary: str, hint: str) -> DockerfileError:
    return DockerfileError(f"--mount: {summary}", hint=hint, reason="invalid-mount")
