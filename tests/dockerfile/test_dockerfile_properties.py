"""Whatever the text: it parses or is refused at a place in it; and what parses survives printing."""

from __future__ import annotations

import dataclasses

from hypothesis import given, settings
from hypothesis import strategies as st

from polyarch.dockerfile import parse, shell
from polyarch.dockerfile.arguments import KEYWORDS
from polyarch.dockerfile.ast import Dockerfile
from polyarch.dockerfile.lint import lint
from polyarch.dockerfile.printer import text
from polyarch.dockerfile.program import instructions
from polyarch.errors import DockerfileError

_PIECES = st.sampled_from(
    [
        *KEYWORDS,
        *(keyword.lower() for keyword in ("FROM", "RUN", "COPY", "ENV")),
        *"\\`'\"$#=<>-{}[]:/%!?*, \t\r\n\ufeff\u00a0é",
        *("\n", "\n", "\n", " ", "\\\n", "`\n", "\r\n", "# escape=`\n", "# syntax=x\n", "# check=skip=all\n"),
        *(
            "<<EOF",
            "<<-EOF",
            "EOF",
            "\nEOF\n",
            "<<'X'",
            "\nX\n",
            "3<<X",
            "--mount=type=cache",
            "--from=a",
            "AS",
        ),
        *("scratch", "debian", "a", "b=c", "$a", "${a", "${a:-b}", '["a", "b"]', "CMD", "NONE", "1/tcp"),
    ]
)
TEXTS = st.one_of(
    st.text(max_size=80),
    st.lists(_PIECES, max_size=40).map("".join),
    st.lists(_PIECES, max_size=40).map(" ".join),
    st.lists(_PIECES, max_size=20).map(lambda pieces: "FROM scratch\n" + " ".join(pieces)),
)


def _checked(source: str | bytes) -> Dockerfile | None:
    try:
        return parse(source)
    except DockerfileError as error:
        location = error.location
        assert location is not None
        shown = location.source
        assert 1 <= location.start <= location.end <= shown.count("\n") + 1
        assert error.summary and error.reason != "error"
        return None


@given(TEXTS)
@settings(max_examples=400, deadline=None)
def test_any_text_parses_or_is_refused_at_a_place(source: str) -> None:
    dockerfile = _checked(source)
    if dockerfile is None:
        return
    try:
        program = instructions(dockerfile)
        lint(dockerfile, program)
    except DockerfileError as error:
        assert error.location is not None
        assert 1 <= error.location.start <= error.location.end


@given(st.binary(max_size=100))
@settings(deadline=None)
def test_any_bytes_parse_or_are_refused_at_a_place(source: bytes) -> None:
    _checked(source)


def _bare(dockerfile: Dockerfile) -> object:
    nodes = [
        dataclasses.replace(node, start=0, end=0, empty_continuation=0, trigger=None)
        for node in dockerfile.nodes
    ]
    return nodes, dockerfile.directives, dockerfile.escape


@given(TEXTS)
@settings(max_examples=400, deadline=None)
def test_printing_and_parsing_gives_the_same_tree(source: str) -> None:
    dockerfile = _checked(source)
    if dockerfile is not None:
        assert _bare(parse(text(dockerfile))) == _bare(dockerfile)


_WORDS = st.lists(
    st.sampled_from(
        ["$a", "${a", "${b:-", "${c/", "}", "/", "'", '"', "\\", "x", " ", "*", "?", "#", "%", "é", "{"]
    )
).map("".join)


@given(_WORDS, st.sampled_from("\\`"))
@settings(max_examples=400, deadline=None)
def test_words_expand_or_are_refused(word: str, escape: str) -> None:
    env = {"a": "x y", "b": ""}
    try:
        text_, words = shell.expand(word, env, escape=escape), shell.split(word, env, escape=escape)
    except DockerfileError:
        return
    assert all(words)
    assert "".join("".join(words).split()) == "".join(text_.split())


@given(st.text(alphabet=st.characters(exclude_characters="$'\"\\\ufeff", exclude_categories=["Cs"])))
def test_text_without_meaning_stays_as_it_is(word: str) -> None:
    assert shell.expand(word, {}) == word
