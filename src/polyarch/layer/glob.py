"""Matching names against patterns as Go's ``filepath.Match`` does, one path component at a time."""

from __future__ import annotations

import re
from functools import lru_cache

from polyarch.errors import UsageError


def has_wildcard(pattern: str) -> bool:
    """Whether ``pattern`` can match anything but its own text (a backslash quotes the next character)."""
    return any(character in pattern for character in "*?[\\")


def split(pattern: str) -> tuple[str, list[str]]:
    """The part of a path pattern before its first component with a wildcard; the components from there."""
    components = [component for component in pattern.split("/") if component not in ("", ".")]
    first = next((n for n, component in enumerate(components) if has_wildcard(component)), len(components))
    return "/".join(components[:first]), components[first:]


@lru_cache(maxsize=1024)
def compile_component(pattern: str) -> re.Pattern[str]:
    """A regular expression for one component; UsageError (``bad-pattern``) where Go gives ErrBadPattern.

    ``*`` is any run of characters, ``?`` any one, ``[a-c]`` one of a class, ``[^a-c]`` one not in it, and a
    backslash takes the next character literally.
    """
    out: list[str] = []
    at = 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "*":
            out.append("[^/]*")
        elif character == "?":
            out.append("[^/]")
        elif character == "[":
            text, at = _class(pattern, at)
            out.append(text)
        elif character == "\\":
            if at == len(pattern):
                raise _bad(pattern)
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(character))
    return re.compile("".join(out), re.DOTALL)


def matches(name: str, pattern: str) -> bool:
    """Whether the whole of ``name``, one component, matches."""
    return compile_component(pattern).fullmatch(name) is not None


def _class(pattern: str, at: int) -> tuple[str, int]:
    negated = pattern[at : at + 1] == "^"
    at += negated
    parts: list[str] = []
    while True:
        if parts and pattern[at : at + 1] == "]":
            break
        low, at = _member(pattern, at)
        high = low
        if pattern[at : at + 1] == "-":
            high, at = _member(pattern, at + 1)
        # An inverted range matches nothing in Go; it is an error in a regular expression.
        parts.append(f"{re.escape(low)}-{re.escape(high)}" if low <= high else "")
    inner = "".join(parts)
    if not inner:
        return ("[^/]" if negated else r"(?!)"), at + 1
    return (f"(?!/)[^{inner}]" if negated else f"(?!/)[{inner}]"), at + 1


def _member(pattern: str, at: int) -> tuple[str, int]:
    character = pattern[at : at + 1]
    if character in ("", "-", "]"):
        raise _bad(pattern)
    if character == "\\":
        at += 1
        character = pattern[at : at + 1]
        if not character:
            raise _bad(pattern)
    if at + 1 >= len(pattern):
        raise _bad(pattern)
    return character, at + 1


def _bad(pattern: str) -> UsageError:
    return UsageError(
        f"syntax error in pattern {pattern!r}",
        hint="a class looks like [a-z] or [^a-z]; a backslash takes the next character literally",
        reason="bad-pattern",
    )
