"""The commands of a RUN as they stand in the file, each word with its place, so that lines can be rewritten
and everything else stays as its author wrote it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from polyarch.dockerfile.ast import Dockerfile, Node

_TOKEN = re.compile(
    r"(?P<space>(?:[ \t\r]|\\[ \t]*\r?\n(?:[ \t]*#[^\n]*\n|[ \t]*\r?\n)*)+)|"
    r"(?P<comment>(?<![^\s;|&(])#[^\n]*)|(?P<separator>&&|\|\||;;|\$\(|[;|&\n()`])|"
    r"(?P<word>(?:'[^']*'|\"(?:\\.|[^\"\\])*\"|\$\{[^}]*\}|\$(?!\()|\\.|[^\s;|&()`'\"\\$])+)|(?P<odd>.)",
    re.S,
)
_KEYWORDS = frozenset("then do else elif if while until ! { } time exec fi done esac".split())
_WRAPPERS = frozenset("sudo env nice ionice nohup xvfb-run stdbuf eatmydata ccache sccache".split())
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=")


@dataclass(frozen=True)
class Word:
    """A word: ``text`` without quotes, and where it stands in the file."""

    text: str
    start: int
    end: int


@dataclass
class RawCommand:
    """A simple command. ``assignments`` are before it; ``head`` is where further ones may be put."""

    head: int = -1
    wrapped: bool = False
    assignments: dict[str, Word] = field(default_factory=dict)
    words: list[Word] = field(default_factory=list)

    @property
    def texts(self) -> list[str]:
        """Its words, the program first."""
        return [word.text for word in self.words]

    @property
    def end(self) -> int:
        """Where its last word ends."""
        return self.words[-1].end

    def find(self, *texts: str) -> Word | None:
        """The first word behind the program that is one of ``texts``."""
        return next((word for word in self.words[1:] if word.text in texts), None)


@dataclass(frozen=True)
class Edit:
    """Put ``text`` in place of what stands from ``start`` to ``end``."""

    start: int
    end: int
    text: str


def span_of(parsed: Dockerfile, node: Node) -> tuple[int, int]:
    """Where a node begins and ends in the source, the end without its newline."""
    lines = parsed.source.split("\n")
    start = sum(len(line) + 1 for line in lines[: node.start - 1])
    end = start + sum(len(line) + 1 for line in lines[node.start - 1 : node.end]) - 1
    return start, min(end, len(parsed.source))


def apply(source: str, edits: list[Edit]) -> str:
    """The source with all edits done; of two for the same place the first goes first."""
    done, at = [], 0
    for edit in sorted(edits, key=lambda edit: edit.start):
        if edit.start < at:
            continue
        done += [source[at : edit.start], edit.text]
        at = edit.end
    return "".join([*done, source[at:]])


def raw_commands(source: str, start: int, end: int) -> list[RawCommand]:
    """The commands of the RUN that stands from ``start`` to ``end``, without keyword and flags."""
    found: list[RawCommand] = []
    command = RawCommand()
    opening = True  # still at RUN and its flags
    for match in _TOKEN.finditer(source, start, end):
        kind, token = match.lastgroup, match[0]
        if kind == "word":
            if opening and (token.upper() == "RUN" or token.startswith("--")):
                continue
            opening = False
            _take(command, Word(_unquoted(token), match.start(), match.end()))
        elif kind == "separator":
            if command.words:
                found.append(command)
            command = RawCommand()
    return [*found, command] if command.words else found


def _take(command: RawCommand, word: Word) -> None:
    if not command.words:
        if word.text in _KEYWORDS and command.head < 0:
            return
        command.head = word.start if command.head < 0 else command.head
        if match := _ASSIGNMENT.match(word.text):
            command.assignments[match[1]] = word
            return
        if word.text in _WRAPPERS:
            command.wrapped = True
            return
        if not command.wrapped:
            command.head = word.start
    command.words.append(word)


def _unquoted(token: str) -> str:
    return re.sub(r"'([^']*)'|\"((?:\\.|[^\"\\])*)\"", lambda match: match[1] or match[2] or "", token)
