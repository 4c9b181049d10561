"""The syntax tree of a Dockerfile: instructions as they stand in the text, nothing interpreted yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from polyarch.errors import Location


@dataclass(frozen=True)
class Heredoc:
    """``<<-"NAME"`` and what follows it: ``expand`` unless the word was quoted, ``chomp`` for ``<<-``."""

    name: str
    content: str
    expand: bool = True
    chomp: bool = False
    file_descriptor: int = 0


@dataclass(frozen=True)
class Node:
    """One instruction. ``keyword`` is upper case; ``start`` and ``end`` are 1-based lines, inclusive.

    ``flags`` are the raw ``--name=value`` words; ``rest`` what follows them with continuations joined and
    comments removed; ``json`` the array when ``rest`` is a valid JSON array of strings. ``comments`` are the
    comment lines directly above, without ``#`` (they document ARGs and stages). ``arguments`` is ``rest`` cut
    as the keyword wants it, quotes kept: words, or the whole text in one, or (ENV and LABEL) a key, a value
    and what stood between them (``=`` or nothing), three for each pair.
    """

    keyword: str
    original: str
    flags: tuple[str, ...]
    rest: str
    json: tuple[str, ...] | None
    heredocs: tuple[Heredoc, ...]
    start: int
    end: int
    comments: tuple[str, ...] = ()
    spelling: str = ""  # the keyword as written, for the check of consistent casing
    arguments: tuple[str, ...] = ()
    trigger: Node | None = None  # what ONBUILD holds
    empty_continuation: int = 0  # the last line of an instruction with blank lines inside, else 0


@dataclass(frozen=True)
class Dockerfile:
    """A parsed Dockerfile: its directives (``syntax``, ``escape``, ``check``) and instructions in order.

    ``directive_lines`` says on which line each directive stands.
    """

    nodes: tuple[Node, ...]
    directives: dict[str, str] = field(default_factory=dict)
    escape: str = "\\"
    file: str = "Dockerfile"
    source: str = field(default="", repr=False)
    directive_lines: dict[str, int] = field(default_factory=dict)

    def location(self, node: Node) -> Location:
        """Where ``node`` stands, for errors and excerpts."""
        return Location(self.file, node.start, node.end, source=self.source)
