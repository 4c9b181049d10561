"""Words: a table of expansions, splitting, styles, and what is recorded of variables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyarch.dockerfile import shell
from polyarch.errors import DockerfileError

_LINES = (Path(__file__).parent / "words.jsonl").read_text().splitlines()
ENVIRONMENT: dict[str, str] = json.loads(_LINES[1])
TABLE: list[tuple[str, str | None]] = [(word, result) for word, result in map(json.loads, _LINES[2:])]


def test_the_table_is_large() -> None:
    assert len(TABLE) >= 200


@pytest.mark.parametrize(("word", "result"), TABLE)
def test_expansion(word: str, result: str | None) -> None:
    if result is None:
        with pytest.raises(DockerfileError) as caught:
            shell.expand(word, ENVIRONMENT)
        assert caught.value.reason in ("bad-substitution", "unset-variable")
    else:
        assert shell.expand(word, ENVIRONMENT) == result


@pytest.mark.parametrize(
    ("word", "result"),
    [
        ("a`$v", "a$v"),
        ("\\$v", "\\value"),
        ("``", "`"),
        ('"`$v"', "$v"),
        ('"\\$v"', "\\value"),
        ('"`a"', "`a"),
        ("C:\\dir\\$v", "C:\\dir\\value"),
        ("${v#`*}", "value"),
        ("`'$v`'", "'value'"),
    ],
)
def test_the_other_escape_character(word: str, result: str) -> None:
    assert shell.expand(word, ENVIRONMENT, escape="`") == result


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("", []),
        ("   ", []),
        ("a", ["a"]),
        (" a  b\tc ", ["a", "b", "c"]),
        ("'a b' c", ["a b", "c"]),
        ('"a b"c d', ["a bc", "d"]),
        ("a\\ b c", ["a b", "c"]),
        ("$sp", ["a", "b", "c"]),
        ('"$sp"', ["a b  c"]),
        ("x$sp", ["xa", "b", "c"]),
        ("'' a", ["a"]),
        ("a '' b", ["a", "b"]),
        ("$empty", []),
        ("${unset:-a b} c", ["a", "b", "c"]),
        ("${unset:-'a b'}", ["a", "b"]),
        ("a\u00a0b", ["a", "b"]),
        ("a\u2003b", ["a", "b"]),
        ("a\x1cb", ["a\x1cb"]),
        ("a\nb", ["a", "b"]),
        ("a << b c", ["a", "<< b", "c"]),
        ("a < b", ["a", "<", "b"]),
    ],
)
def test_splitting(word: str, words: list[str]) -> None:
    assert shell.split(word, ENVIRONMENT) == words


def test_which_variables_a_word_uses() -> None:
    expansion = shell.expand_tracked("$v ${unset:-$empty}", ENVIRONMENT)
    assert expansion.text == "value "
    assert expansion.used == {"v", "empty"}
    assert expansion.unmatched == {"unset"}


def test_a_word_that_is_not_taken_counts_as_used() -> None:
    assert shell.expand_tracked("${v:-$unset}", ENVIRONMENT).unmatched == {"unset"}


@pytest.mark.parametrize(
    ("style", "word", "result"),
    [
        (shell.Style(keep_quotes=True), "'$v' \"$v\"", "'$v' \"value\""),
        (shell.Style(keep_escapes=True), "a\\b\\$v", "a\\b\\$v"),
        (
            shell.Style(keep_unset=True),
            "$v $no ${no} ${no:-a} ${no/a/b}",
            "value $no ${no} ${no:-a} ${no/a/b}",
        ),
        (shell.Style(quotes=False), "'$v' \"$v\" \\$v", "'value' \"value\" $v"),
    ],
)
def test_styles(style: shell.Style, word: str, result: str) -> None:
    assert shell.process(word, ENVIRONMENT, style).text == result


def test_errors_say_what_is_needed() -> None:
    with pytest.raises(DockerfileError, match="TOKEN: set it with --build-arg"):
        shell.expand("${TOKEN:?set it with --build-arg}", {})
    with pytest.raises(DockerfileError, match="double quote is never closed"):
        shell.expand('"abc', {})


def test_nesting_has_a_limit() -> None:
    deep = "${a:-" * 5000 + "}" * 5000
    with pytest.raises(DockerfileError, match="nested"):
        shell.expand(deep, {})


def test_long_words_are_read_in_linear_time() -> None:
    assert shell.expand("x" * 500_000 + "$v", ENVIRONMENT).endswith("xvalue")
