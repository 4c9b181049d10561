"""Ignore rules: ``.dockerignore`` files and the matcher for their patterns.

The semantics are moby/patternmatcher's: patterns are anchored at the context's root; ``*`` and ``?`` stop at
a slash, ``**`` does not; a pattern that matches a directory matches everything below it; the last pattern
that matches decides, and one that starts with ``!`` takes back what was ignored before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

TYPE_CHECKING = False  # type checkers take it for true; an unchanged build should import next to nothing

if TYPE_CHECKING:
    from polyarch.errors import UsageError

# White space as Unicode's property has it (str.strip would also take U+001C to U+001F).
_SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
_SPACES += "\u2028\u2029\u202f\u205f\u3000"
_MAGIC = re.compile(r"[*?\[\\]")


def read_patterns(text: str | bytes) -> tuple[str, ...]:
    """The patterns of an ignore file, cleaned, in order.

    Lines that start with ``#`` and empty ones are skipped; white space around a pattern, a leading slash and
    a byte order mark are dropped.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    patterns: list[str] = []
    for line in text.removeprefix("\ufeff").split("\n"):
        if line.startswith("#"):
            continue
        pattern = line.strip(_SPACES)
        if not pattern:
            continue
        negated = pattern.startswith("!")
        if negated:
            pattern = pattern[1:].strip(_SPACES)
        if pattern:
            pattern = clean(pattern)
            if len(pattern) > 1:
                pattern = pattern.removeprefix("/")
        patterns.append("!" + pattern if negated else pattern)
    return tuple(patterns)


def clean(path: str) -> str:
    """``path`` without ``.``, empty and needless ``..`` components, lexically; "." for nothing."""
    rooted = path.startswith("/")
    out: list[str] = []
    for part in path.split("/"):
        if part in ("", "."):
            continue
        if part != "..":
            out.append(part)
        elif out and out[-1] != "..":
            out.pop()
        elif not rooted:
            out.append(part)
    return ("/" if rooted else "") + "/".join(out) or "."


class _Rule:
    """One pattern. ``components`` are those of its text."""

    __slots__ = ("components", "matches", "negated", "text")

    def __init__(self, negated: bool, text: str, matches: Callable[[str], bool]) -> None:  # noqa: FBT001
        self.negated = negated
        self.text = text
        self.matches = matches
        self.components = tuple(text.split("/"))

    def may_match_below(self, directory: Sequence[str]) -> bool:
        """Whether some path below ``directory`` could match (never False when one could)."""
        for name, component in zip(directory, self.components, strict=False):
            if "**" in component or "[" in component:
                return True
            if not _compiled(component)(name):
                return False
        return len(self.components) > len(directory)


# Which patterns match a path or one of its parents; what a walk hands down to the next level.
ParentState = tuple[bool, ...]


class Matcher:
    """Says of paths whether the patterns ignore them.

    Paths are relative to the context's root, with ``/`` between components. UsageError names a pattern that
    is malformed (an unclosed ``[``, a lone ``!``).
    """

    def __init__(self, patterns: Sequence[str]) -> None:
        self._rules = tuple(rule for pattern in patterns if (rule := _rule(pattern)) is not None)
        self._negated = tuple(rule for rule in self._rules if rule.negated)

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns in effect, cleaned."""
        return tuple(("!" if rule.negated else "") + rule.text for rule in self._rules)

    def matches(self, path: str) -> bool:
        """Whether ``path`` is ignored, because of itself or of a directory above it.

        >>> Matcher(["docs", "!docs/README.md"]).matches("docs/guide.md")
        True
        """
        path = clean(path)
        if path == "." or not self._rules:
            return False
        parents = _parents(path)
        matched = False
        for rule in self._rules:
            # A rule that cannot change the answer need not be asked.
            if rule.negated == matched and (rule.matches(path) or any(map(rule.matches, parents))):
                matched = not rule.negated
        return matched

    def excluded(self, path: str, parent: ParentState | None = None) -> tuple[bool, ParentState]:
        """What a walk from the top down makes of ``path``: BuildKit's answer for what it sends of a context.

        ``parent`` is the state that was returned for the directory which holds ``path``; None at the root.
        It is ``matches`` but for one thing: of a directory that is not ignored, nobody asks whether a ``!``
        matches it. Thus ``**/node_modules`` is ignored in ``web`` even if ``!web`` follows.
        """
        matched = False
        state: list[bool] = []
        for position, rule in enumerate(self._rules):
            hit = parent is not None and parent[position]
            if not hit and rule.negated == matched:
                hit = rule.matches(path)
            if hit:
                matched = not rule.negated
            state.append(hit)
        return matched, tuple(state)

    def can_skip_directory(self, path: str) -> bool:
        """Whether a walk need not enter ``path``: it is ignored and nothing below it can be taken back."""
        path = clean(path)
        if not self.matches(path):
            return False
        parts = path.split("/")
        return not any(rule.may_match_below(parts) for rule in self._negated)

    def __bool__(self) -> bool:
        return bool(self._rules)


def _parents(path: str) -> list[str]:
    parents: list[str] = []
    end = path.rfind("/")
    while end >= 0:
        parents.append(path[:end])
        end = path.rfind("/", 0, end)
    return parents


def _rule(pattern: str) -> _Rule | None:
    text = pattern.strip(_SPACES)
    if not text:
        return None
    text = clean(text)
    negated = text.startswith("!")
    if negated:
        text = text[1:]
        if not text:
            raise _bad(pattern, "'!' must be followed by what is not to be ignored")
    return _Rule(negated, text, _compiled(text))


def _bad(pattern: str, why: str) -> UsageError:
    from polyarch.errors import UsageError

    return UsageError(
        f"invalid ignore pattern {pattern[:200]!r}: {why}",
        hint="escape a character that is meant literally with a backslash",
        reason="invalid-pattern",
    )


def _compiled(pattern: str) -> Callable[[str], bool]:
    """A predicate for paths. The common shapes need no regular expression."""
    if not _MAGIC.search(pattern):
        return pattern.__eq__
    if pattern == "**":
        return _always
    head, tail = pattern[:-2], pattern[2:]
    if pattern.endswith("**") and not _MAGIC.search(head):
        return lambda path: path.startswith(head)
    if pattern.startswith("**") and not _MAGIC.search(tail):
        bare = tail.removeprefix("/")
        return lambda path: path.endswith(tail) or path == bare
    return _expression(pattern)


def _always(path: str) -> bool:
    return True


def _expression(pattern: str) -> Callable[[str], bool]:
    out: list[str] = []
    position = 0
    while position < len(pattern):
        char = pattern[position]
        position += 1
        if char == "*" and pattern.startswith("*", position):
            position += 1
            position += pattern.startswith("/", position)  # "**/" is "**"
            piece = "(?:.*/)?" if position < len(pattern) else ".*"
            if out[-1:] != [piece]:  # one after another says nothing new, and would be slow
                out.append(piece)
        elif char == "*":
            out.append("[^/]*")
        elif char == "?":
            out.append("[^/]")
        elif char == "[":
            text, position = _class(pattern, position)
            out.append(text)
        elif char == "\\":
            if position == len(pattern):
                raise _bad(pattern, "it ends with a backslash")
            out.append(re.escape(pattern[position]))
            position += 1
        else:
            out.append(re.escape(char))
    try:
        whole = re.compile("".join(out)).fullmatch
    except re.error as error:
        raise _bad(pattern, str(error)) from None
    return lambda path: whole(path) is not None


def _class(pattern: str, position: int) -> tuple[str, int]:
    """A bracket expression that starts behind its ``[``, and where it ends."""
    out = ["["]
    if pattern.startswith("^", position):
        out.append("^")
        position += 1
    empty = True
    while empty or not pattern.startswith("]", position):
        low, position = _member(pattern, position)
        high = low
        if pattern.startswith("-", position):
            high, position = _member(pattern, position + 1)
        if high < low:
            raise _bad(pattern, f"the range {low}-{high} is the wrong way round")
        out.append(re.escape(low) if low == high else f"{re.escape(low)}-{re.escape(high)}")
        empty = False
    return "".join(out) + "]", position + 1


def _member(pattern: str, position: int) -> tuple[str, int]:
    char = pattern[position : position + 1]
    if char and char in "-]":
        raise _bad(pattern, f"{char!r} inside brackets must be escaped")
    if char == "\\":
        position += 1
        char = pattern[position : position + 1]
    if position + 1 >= len(pattern):
        raise _bad(pattern, "a '[' is never closed")
    return char, position + 1
