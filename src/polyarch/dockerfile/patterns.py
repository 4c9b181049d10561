"""Shell patterns inside ``${name#pattern}`` and its relatives: ``*``, ``?``, escapes; no brackets."""

from __future__ import annotations

import re
from functools import lru_cache


class BadPattern(ValueError):
    """The pattern has an escape that means nothing."""


@lru_cache(maxsize=256)
def compile_pattern(pattern: str, *, greedy: bool) -> re.Pattern[str]:
    """``pattern`` as a regular expression; ``*`` takes as much as it can when ``greedy``, else as little.

    A backslash makes ``*``, ``?`` and itself literal, and is dropped before ``}`` and ``/`` (which end the
    substitution). BadPattern for any other escape.
    """
    out: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*":
            out.append(".*" if greedy else ".*?")
        elif char == "?":
            out.append(".")
        elif char == "\\":
            follower = pattern[position : position + 1]
            if follower and follower in "}/":
                continue
            if not follower or follower not in "*?\\":
                raise BadPattern(f"'\\{follower}' is not an escape in a pattern; only \\*, \\? and \\\\ are")
            out.append("\\" + follower)
            position += 1
        else:
            out.append(re.escape(char))
    return re.compile("".join(out))


def without_prefix(value: str, pattern: str, *, longest: bool) -> str:
    """``value`` less the shortest or longest start that ``pattern`` matches."""
    match = compile_pattern(pattern, greedy=longest).match(value)
    return value[match.end() :] if match else value


def without_suffix(value: str, pattern: str, *, longest: bool) -> str:
    """``value`` less the shortest or longest end that ``pattern`` matches.

    Searching from the left cannot find the shortest end, so both are read backwards.
    """
    return without_prefix(value[::-1], _backwards(pattern), longest=longest)[::-1]


def _backwards(pattern: str) -> str:
    """The pattern from its end, each escape kept before what it escapes."""
    units = re.findall(r"\\.|.", pattern, re.DOTALL)
    return "".join(reversed(units))


def replaced(value: str, pattern: str, replacement: str, *, every: bool) -> str:
    """``value`` with the first match of ``pattern`` replaced, or all of them.

    With ``every`` the replacement is a template, as in the reference implementation: ``$0`` is the match,
    any other ``$name`` or ``${name}`` is empty, ``$$`` is a dollar sign.
    """
    compiled = compile_pattern(pattern, greedy=True)
    if not every:
        match = compiled.search(value)
        return value[: match.start()] + replacement + value[match.end() :] if match else value
    out: list[str] = []
    end, previous = 0, -1
    for match in compiled.finditer(value):
        if match.start() == match.end() == previous:
            continue  # an empty match directly after another one does not count
        out += [value[end : match.start()], _fill(replacement, match[0])]
        end = previous = match.end()
    return "".join(out) + value[end:]


_TEMPLATE = re.compile(r"\$(?:(\$)|\{(\w+)\}|(\w+))")


def _fill(template: str, matched: str) -> str:
    def value(part: re.Match[str]) -> str:
        if part[1]:
            return "$"
        name = part[2] or part[3]
        return matched if name == "0" else ""

    return _TEMPLATE.sub(value, template) if "$" in template else template
