"""``--chmod``: octal numbers and the symbols of chmod(1)."""

from __future__ import annotations

import re

_CLAUSE = re.compile(r"([ugoa]*)((?:[-+=](?:[ugo]|[rwxXst]*))+)")
_CHANGE = re.compile(r"([-+=])([ugo]|[rwxXst]*)")
_SHIFTS = {"u": 6, "g": 3, "o": 0}


def apply(spec: str, mode: int, *, directory: bool) -> int:
    """The permission bits that ``spec`` makes of ``mode``; ``spec`` has been validated. No umask applies."""
    if not spec:
        return mode
    if spec[0].isdigit():
        return int(spec, 8)
    for clause in spec.split(","):
        match = _CLAUSE.fullmatch(clause)
        if match is None:
            continue
        who = "ugo" if not match[1] or "a" in match[1] else match[1]
        for operator, what in _CHANGE.findall(match[2]):
            mode = _change(mode, who, operator, what, directory=directory)
    return mode


def _change(mode: int, who: str, operator: str, what: str, *, directory: bool) -> int:
    bits = special = 0
    for person in dict.fromkeys(who):
        bits |= _bits(mode, what, directory=directory) << _SHIFTS[person]
        if "s" in what:
            special |= {"u": 0o4000, "g": 0o2000, "o": 0}[person]
    if "t" in what:
        special |= 0o1000
    if operator == "-":
        return mode & ~(bits | special)
    if operator == "+":
        return mode | bits | special
    kept = mode
    for person in dict.fromkeys(who):
        kept &= ~(7 << _SHIFTS[person])
        kept &= ~{"u": 0o4000, "g": 0o2000, "o": 0o1000}[person]
    return kept | bits | special


def _bits(mode: int, what: str, *, directory: bool) -> int:
    if what in _SHIFTS and what:
        return mode >> _SHIFTS[what] & 7
    bits = 0
    for letter in what:
        bits |= {"r": 4, "w": 2, "x": 1}.get(letter, 0)
        if letter == "X" and (directory or mode & 0o111):
            bits |= 1
    return bits
