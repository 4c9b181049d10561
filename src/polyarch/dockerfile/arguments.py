"""How the text behind a keyword is cut into arguments: each instruction has its own syntax."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from polyarch.dockerfile.characters import BLANKS, SPACES
from polyarch.errors import DockerfileError


@dataclass(frozen=True)
class Arguments:
    """The words, and the JSON array when the text was one (None otherwise)."""

    words: tuple[str, ...]
    json: tuple[str, ...] | None = None


def split_flags(text: str) -> tuple[tuple[str, ...], str]:
    """The ``--flags`` that ``text`` starts with, unquoted, and what follows them. A bare ``--`` ends them."""
    flags: list[str] = []
    position = 0
    while True:
        while position < len(text) and text[position] in SPACES:
            position += 1
        if not text.startswith("--", position):
            return tuple(flags), text[position:].strip(SPACES)
        flag, position = _flag(text, position)
        if flag == "--":
            return tuple(flags), text[position:].strip(SPACES)
        flags.append(flag)


def _flag(text: str, position: int) -> tuple[str, int]:
    out: list[str] = []
    quote = ""
    while position < len(text):
        char = text[position]
        if char == "\\":
            out.append(text[position + 1 : position + 2])
            position += 2
            continue
        if char == quote:
            quote = ""
        elif quote:
            out.append(char)
        elif char in SPACES:
            break
        elif char in "'\"":
            quote = char
        else:
            out.append(char)
        position += 1
    return "".join(out), min(position, len(text))


def split_words(text: str, escape: str) -> list[str]:
    """Words of ENV, LABEL and ARG: white space inside quotes or behind ``escape`` does not end them.

    Quotes and escapes stay, to be resolved when the word is expanded.
    """
    words: list[str] = []
    out: list[str] = []
    quote = ""
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if char == escape and quote != "'":
            if position < len(text):
                out += (char, text[position])
                position += 1
            continue
        if not quote and char in SPACES:
            if out:
                words.append("".join(out))
                out.clear()
            continue
        if not quote and char in "'\"":
            quote = char
        elif char == quote:
            quote = ""
        out.append(char)
    if out:
        words.append("".join(out))
    return words


def json_array(text: str) -> tuple[str, ...] | None:
    """``text`` as a JSON array of strings; None when it is not JSON.

    DockerfileError when it is an array of something else: nobody means that as a command line.
    """
    text = text.lstrip(SPACES)
    if not text.startswith("["):
        return None
    import json

    try:
        values = json.loads(text, parse_constant=_no_constant)
    except RecursionError:
        values = [None]
    except ValueError:
        return None
    if not all(isinstance(value, str) for value in values):
        raise DockerfileError(
            "a JSON array of arguments must contain strings only",
            hint='write every argument in double quotes, such as ["nice", "-n", "5"]',
            reason="json-strings",
        )
    return tuple(value.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for value in values)


def _no_constant(name: str) -> object:
    raise ValueError(name)


def _nothing(text: str, escape: str, keyword: str) -> Arguments:
    return Arguments(())


def _whole(text: str, escape: str, keyword: str) -> Arguments:
    return Arguments((text,) if text else ())


def _blanks(text: str, escape: str, keyword: str) -> Arguments:
    return Arguments(tuple(BLANKS.split(text)) if text else ())


def _words(text: str, escape: str, keyword: str) -> Arguments:
    return Arguments(tuple(split_words(text, escape)))


def _json_or_whole(text: str, escape: str, keyword: str) -> Arguments:
    array = json_array(text)
    return _whole(text, escape, keyword) if array is None else Arguments(array, array)


def _json_or_blanks(text: str, escape: str, keyword: str) -> Arguments:
    array = json_array(text)
    return _blanks(text, escape, keyword) if array is None else Arguments(array, array)


def _pairs(text: str, escape: str, keyword: str) -> Arguments:
    words = split_words(text, escape)
    if not words:
        return Arguments(())
    if "=" not in words[0]:
        parts = BLANKS.split(text, maxsplit=1)
        if len(parts) < 2:
            raise DockerfileError(
                f"{keyword} {words[0][:100]} has a name but no value",
                hint=f"write {keyword} name=value",
                reason="missing-value",
            )
        return Arguments((parts[0], parts[1], ""))
    out: list[str] = []
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise DockerfileError(
                f"{keyword}: {word[:100]!r} has no '='",
                hint=f'write {keyword} name=value, with quotes around a value that has spaces: name="a b"',
                reason="missing-equals",
            )
        out += (name, value, "=")
    return Arguments(tuple(out))


def _health(text: str, escape: str, keyword: str) -> Arguments:
    end = next((i for i, char in enumerate(text) if char in SPACES), len(text))
    if not end:
        return Arguments(())
    command = _json_or_whole(text[end:].lstrip(SPACES), escape, keyword)
    return Arguments((text[:end], *command.words), command.json)


_SYNTAX: dict[str, Callable[[str, str, str], Arguments]] = {
    "ADD": _json_or_blanks,
    "ARG": _words,
    "CMD": _json_or_whole,
    "COPY": _json_or_blanks,
    "ENTRYPOINT": _json_or_whole,
    "ENV": _pairs,
    "EXPOSE": _blanks,
    "FROM": _blanks,
    "HEALTHCHECK": _health,
    "LABEL": _pairs,
    "MAINTAINER": _whole,
    "ONBUILD": _nothing,
    "RUN": _json_or_whole,
    "SHELL": _json_or_whole,
    "STOPSIGNAL": _whole,
    "USER": _whole,
    "VOLUME": _json_or_blanks,
    "WORKDIR": _whole,
}

KEYWORDS = tuple(_SYNTAX)


def arguments(keyword: str, text: str, escape: str) -> Arguments:
    """The arguments of ``keyword``; none for a keyword that does not exist (it is refused later)."""
    return _SYNTAX.get(keyword, _nothing)(text, escape, keyword)
