"""Heredocs: how their words are recognised, and how a RUN with heredocs is executed."""

from __future__ import annotations

import re

from polyarch.dockerfile.ast import Heredoc
from polyarch.dockerfile.instructions import Command
from polyarch.dockerfile.shell import Style, process
from polyarch.errors import DockerfileError

# Where a heredoc that is a script of its own is mounted while it runs.
SCRIPT_FOLDER = "/dev/pipes"

_WORD = re.compile(r"([0-9]*)<<(-?)[\t\n\f\r ]*([^<]*)")
_LEADING_TABS = re.compile(r"^\t+", re.MULTILINE)
_PLAIN = Style(keep_unset=True)
_QUOTED = Style(keep_unset=True, keep_quotes=True)
_LINE = Style(keep_unset=True, keep_quotes=True, keep_escapes=True)


def heredoc_word(word: str) -> Heredoc | None:
    """The heredoc that ``word`` (``<<EOF``, ``3<<-"EOF"``) opens, without content; None if it opens none.

    DockerfileError when its quotes do not match.
    """
    match = _WORD.fullmatch(word)
    if match is None or not match[3]:
        return None
    plain = process(match[3], {}, _PLAIN).words
    if len(plain) != 1:
        return None
    quoted = process(match[3], {}, _QUOTED).words
    # Whoever quotes any part of the name does not want the body expanded.
    expand = _quotes(plain[0]) == _quotes("".join(quoted))
    return Heredoc(plain[0], "", expand=expand, chomp=bool(match[2]), file_descriptor=int(match[1][:9] or 0))


def _quotes(text: str) -> int:
    return text.count("'") + text.count('"')


def as_heredoc(word: str) -> Heredoc | None:
    """``heredoc_word``, with None also for words that are broken."""
    try:
        return heredoc_word(word)
    except DockerfileError:
        return None


def heredocs_in(line: str) -> list[Heredoc]:
    """The heredocs that an instruction opens, in the order in which their bodies follow."""
    try:
        words = process(line, {}, _LINE).words
    except DockerfileError:
        return []  # a quote that is never closed: the shell may know what it means
    return [heredoc for word in words if (heredoc := heredoc_word(word)) is not None]


def chomped(content: str) -> str:
    """``content`` without the tabs that start its lines, as ``<<-`` asks."""
    return _LEADING_TABS.sub("", content)


def body(heredoc: Heredoc) -> str:
    """The heredoc's content as its reader gets it."""
    return chomped(heredoc.content) if heredoc.chomp else heredoc.content


def run_script(
    command: Command, shell: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, str, int] | None]:
    """What RUN executes: the argument vector, and the script (name, content, mode) to mount read-only.

    A command that is one heredoc and nothing else is a script: with ``#!`` in its first line it is mounted in
    ``SCRIPT_FOLDER`` and run by path, else the shell runs its text. Any other heredocs are put back behind
    the command for the shell to read. Bodies are never expanded here: that is the shell's work.
    """
    if not command.shell:
        return command.words, None
    text = " ".join(command.words)
    if not command.heredocs:
        return (*shell, text), None
    first = command.heredocs[0]
    if as_heredoc(text) is None:
        bodies = "".join(f"\n{heredoc.content}{heredoc.name}" for heredoc in command.heredocs)
        return (*shell, text + bodies), None
    if not first.content.startswith("#!"):
        return (*shell, body(first)), None
    if "/" in first.name or first.name in (".", ".."):
        raise DockerfileError(
            f"the heredoc {first.name!r} is a script and cannot have a path as its name",
            hint="give it a plain name, such as <<EOF",
            reason="heredoc",
        )
    return (*shell, f"{SCRIPT_FOLDER}/{first.name}"), (first.name, body(first), 0o755)
