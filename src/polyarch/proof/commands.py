"""What a RUN executes, as far as its text tells: simple commands, each as its words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from polyarch.dockerfile.instructions import Command, Run

_SEPARATOR = re.compile(r"&&|\|\||[;|&\n(){}`]|\$\(|\b(?:then|do|else|elif|if|while|until)\b")
_COMMENT = re.compile(r"(?:^|(?<=\s))#[^\n]*")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")
_WRAPPERS = frozenset(
    "sudo env time exec nice ionice nohup xvfb-run stdbuf eatmydata ccache sccache !".split()
)
_QUOTED = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")
_SHELLS = re.compile(r"#!\s*\S*?(?:/|env\s+)(?:sh|bash|dash|ash|zsh)\b")


def text_of(run: Run) -> str:
    """The text a shell executes, comments and continuations taken out; "" when another program gets it."""
    command = run.command
    if command.heredocs and _is_script(command):
        content = "\n".join(heredoc.content for heredoc in command.heredocs)
        if content.startswith("#!") and not _SHELLS.match(content):
            return ""
        return _COMMENT.sub("", content)
    if not command.shell:
        return " ".join(command.words)
    parts = [*command.words, *(heredoc.content for heredoc in command.heredocs)]
    return _COMMENT.sub("", re.sub(r"\\\n", " ", "\n".join(parts)))


def _is_script(command: Command) -> bool:
    return command.shell and all(re.fullmatch(r"\s*<<-?\S+\s*", word) for word in command.words)


def commands_of(text: str) -> Iterator[list[str]]:
    """The simple commands in ``text``: the program first, without assignments and wrappers before it.
    Separators in quotes do not count, so that arguments stay arguments."""
    kept: list[str] = []

    def keep(match: re.Match[str]) -> str:
        kept.append(match[0])
        return f"\0{len(kept) - 1}\0"

    for piece in _SEPARATOR.split(_QUOTED.sub(keep, text)):
        words = [
            re.sub(r"\0(\d+)\0", lambda match: kept[int(match[1])].strip("'\""), word)
            for word in piece.split()
        ]
        words = _program(words)
        if words:
            yield words


def _program(words: list[str]) -> list[str]:
    while words and (_ASSIGNMENT.match(words[0]) or words[0] in _WRAPPERS):
        words = words[1:]
    return words


def is_asking(words: list[str]) -> bool:
    """Whether a command only asks for a version or help."""
    return any(word in ("--version", "-version", "--help", "-v", "-V", "version") for word in words[1:3])
