"""Text to syntax tree: lines, continuations, comments, directives and heredocs.

The language is that of the Dockerfile reference. Nothing is interpreted here; whether an instruction exists
and has the right flags is for ``program``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

from polyarch.dockerfile.arguments import arguments, split_flags
from polyarch.dockerfile.ast import Dockerfile, Heredoc, Node
from polyarch.dockerfile.characters import BLANKS, SPACES
from polyarch.dockerfile.directives import Directives
from polyarch.dockerfile.heredoc import heredocs_in
from polyarch.errors import DockerfileError, Location

MAXIMUM_LINE = 65535  # bytes, the line feed not counted
_MAXIMUM_TRIGGERS = 20
_BOM = "\ufeff"
_HEREDOC_KEYWORDS = frozenset({"ADD", "COPY", "RUN"})
_CONTINUATION = {
    "\\": re.compile(r"(?:(?<!\\)|^)\\[ \t]*\Z"),
    "`": re.compile(r"(?:(?<!`)|^)`[ \t]*\Z"),
}


def parse(text: str | bytes, *, file: str = "Dockerfile") -> Dockerfile:
    """The syntax tree of a Dockerfile.

    ``file`` is the name to show in errors. Bytes that are not UTF-8 become U+FFFD. DockerfileError, with its
    place, for text that is no Dockerfile: no instruction at all, a heredoc without end, a pair without ``=``.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    else:
        text = text.encode("utf-8", "replace").decode("utf-8")
    return _Parser(text, file).dockerfile()


def parse_line(line: str, escape: str, *, depth: int = 0) -> Node:
    """One logical line as a node without a place. DockerfileError without a location."""
    if depth > _MAXIMUM_TRIGGERS:
        raise DockerfileError("ONBUILD cannot hold another ONBUILD", reason="onbuild")
    keyword, *rest = BLANKS.split(line.strip(SPACES), maxsplit=1)
    upper = keyword.upper()
    flags, text = split_flags(rest[0]) if rest else ((), "")
    trigger = parse_line(text, escape, depth=depth + 1) if upper == "ONBUILD" and text else None
    found = arguments(upper, text, escape)
    words = (trigger.keyword, *trigger.arguments) if trigger else found.words
    return Node(upper, line, flags, text, found.json, (), 0, 0, (), keyword, words, trigger)


class _Parser:
    def __init__(self, text: str, file: str) -> None:
        self._source = text
        self._file = file
        self._number = 0  # of the line read last
        self._lines = self._read(text)
        self._directives = Directives(file, text)
        self._comments: list[str] = []

    def dockerfile(self) -> Dockerfile:
        nodes: list[Node] = []
        for line in self._lines:
            node = self._instruction(line)
            if node is not None:
                nodes.append(node)
                self._comments = []
        if not nodes:
            raise self._error(
                DockerfileError(
                    f"{self._file} has no instructions" if self._source.strip() else f"{self._file} is empty",
                    hint="a Dockerfile starts with FROM, such as FROM debian",
                    reason="empty-dockerfile",
                ),
                max(1, self._number),
            )
        directives = self._directives
        return Dockerfile(
            tuple(nodes), directives.values, directives.escape, self._file, self._source, directives.lines
        )

    def _read(self, text: str) -> Iterator[str]:
        """The lines with their line feeds."""
        start = 0
        while start < len(text):
            end = text.find("\n", start) + 1 or len(text)
            line = text[start:end]
            self._number += 1
            if len(line) > MAXIMUM_LINE // 4 and len(line.rstrip("\n").encode()) > MAXIMUM_LINE:
                raise self._error(
                    DockerfileError(
                        f"line {self._number} is longer than {MAXIMUM_LINE} bytes",
                        hint="break it with a continuation, or put long content in a file of the context",
                        reason="line-too-long",
                    ),
                    self._number,
                )
            yield line.removeprefix(_BOM) if self._number == 1 else line
            start = end

    def _instruction(self, line: str) -> Node | None:
        """The instruction that starts with ``line``; None for a comment or an empty line."""
        comment = _is_comment(line)
        if comment:
            self._remember(line[1:].strip(SPACES))
        stripped = line.rstrip("\r\n")
        if self._directives.offer(stripped, self._number) and self._comments:
            self._comments.pop()
        if comment:
            return None
        start = self._number
        text, more = self._continued(stripped.lstrip(SPACES))
        if not text and not more:
            return None
        pieces = [text]
        blank = False
        while more and (line := next(self._lines, "")):
            if _is_comment(line):
                continue
            stripped = line.rstrip("\r\n")
            if not stripped.strip(SPACES):
                blank = True
                continue
            text, more = self._continued(stripped)
            pieces.append(text)
        return self._node("".join(pieces), start, blank=blank)

    def _remember(self, comment: str) -> None:
        if comment:
            self._comments.append(comment)
        else:
            self._comments = []  # an empty comment parts what is above from the instruction below

    def _continued(self, line: str) -> tuple[str, bool]:
        """``line`` without its continuation mark, and whether it had one."""
        if self._directives.escape not in line:
            return line, False
        match = _CONTINUATION[self._directives.escape].search(line)
        return (line[: match.start()], True) if match else (line, False)

    def _node(self, line: str, start: int, *, blank: bool) -> Node:
        try:
            node = parse_line(line, self._directives.escape)
            last = self._number
            heredocs = tuple(self._body(heredoc, start) for heredoc in _opened(node, line))
        except DockerfileError as error:
            raise (error if error.location else self._error(error, start)) from None
        return replace(
            node,
            heredocs=heredocs,
            start=start,
            end=self._number,
            comments=tuple(self._comments),
            empty_continuation=last if blank else 0,
        )

    def _body(self, heredoc: Heredoc, start: int) -> Heredoc:
        content: list[str] = []
        for line in self._lines:
            candidate = line.rstrip("\r\n")
            if (candidate.lstrip("\t") if heredoc.chomp else candidate) == heredoc.name:
                return replace(heredoc, content="".join(content))
            content.append(line)
        raise self._error(
            DockerfileError(
                f"the heredoc {heredoc.name!r} is never closed",
                hint=f"end it with a line that holds {heredoc.name} and nothing else",
                reason="heredoc",
            ),
            start,
        )

    def _error(self, error: DockerfileError, start: int) -> DockerfileError:
        location = Location(self._file, start, max(start, self._number), source=self._source)
        return DockerfileError(
            error.summary, detail=error.detail, hint=error.hint, location=location, reason=error.reason
        )


def _is_comment(line: str) -> bool:
    return line.lstrip(SPACES).startswith("#")


def _opened(node: Node, line: str) -> list[Heredoc]:
    """The heredocs that ``node`` may open: RUN, COPY and ADD in shell form, also as a trigger."""
    inner = node.trigger or node
    if "<<" not in line or inner.keyword not in _HEREDOC_KEYWORDS or inner.json is not None:
        return []
    return heredocs_in(line)
