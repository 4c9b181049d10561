"""Ignore rules: files, patterns, and walks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyarch.context.ignore import Matcher, ParentState, clean, read_patterns
from polyarch.errors import UsageError


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ("", ()),
        ("a\nb", ("a", "b")),
        ("a\r\nb\r\n", ("a", "b")),
        ("\ufeffa", ("a",)),
        (b"\xef\xbb\xbfa\n", ("a",)),
        ("# comment\n#another\n \n\n  a  \n", ("a",)),
        (" # not a comment", ("# not a comment",)),
        ("/a\n/a/b/\n//a\n/", ("a", "a/b", "a", "/")),
        ("./a\na//b\na/./b/../c\n../x\n.\n", ("a", "a/b", "a/c", "../x", ".")),
        ("!a\n! /a\n!  b/ \n!", ("!a", "!a", "!b", "!")),
        ("**/*.md\n!README.md", ("**/*.md", "!README.md")),
        ("a\x1c", ("a\x1c",)),
    ],
)
def test_files(text: str | bytes, patterns: tuple[str, ...]) -> None:
    assert read_patterns(text) == patterns


@pytest.mark.parametrize(
    ("path", "result"),
    [
        ("", "."),
        (".", "."),
        ("./", "."),
        ("a/", "a"),
        ("/", "/"),
        ("//a", "/a"),
        ("a/..", "."),
        ("../a", "../a"),
        ("/../a", "/a"),
        ("a/../../b", "../b"),
        ("a/./b//c", "a/b/c"),
    ],
)
def test_clean(path: str, result: str) -> None:
    assert clean(path) == result


@pytest.mark.parametrize(
    ("patterns", "path", "ignored"),
    [
        # plain names, and what is below them
        ("a", "a", True),
        ("a", "a/b/c", True),
        ("a/b", "a", False),
        ("a/b", "a/b", True),
        ("a/b", "a/bc", False),
        ("a", "b/a", False),
        ("a/", "a/b", True),
        ("./a", "a", True),
        ("a b", "a b", True),
        (" a ", "a", True),
        # * and ? stop at a slash, but a directory takes its content along
        ("*", "a", True),
        ("*", "a/b", True),
        ("*.go", "a.go", True),
        ("*.go", "x/a.go", False),
        ("a/*.txt", "a/b/c.txt", False),
        ("a*/b", "abc/b", True),
        ("a*/b", "a/c/b", False),
        ("a*", "ab/c", True),
        ("*c", "abc", True),
        ("a*b*c*d*e*/f", "axbxcxdxexxx/f", True),
        ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", False),
        ("a*b?c*x", "abxbbxdbxebxczzx", True),
        ("a*b?c*x", "abxbbxdbxebxczzy", False),
        ("a?b", "a☺b", True),
        ("a?b", "a/b", False),
        ("a???b", "a☺b", False),
        (".*", ".git", True),
        (".*", "git", False),
        # **
        ("**", "a", True),
        ("**", "a/b/c", True),
        ("**/", "a/b", True),
        ("**/**", "a", True),
        ("a/**", "a", False),
        ("a/**", "a/b", True),
        ("a/**", "a/b/c", True),
        ("**/a", "a", True),
        ("**/a", "b/c/a", True),
        ("**/a", "b/a/c", True),
        ("**/a", "ba", False),
        ("**a", "b/ba", True),
        ("**/a*", "x/y/ab.txt", True),
        ("**/a*.txt*", "x/ab.txt2", True),
        ("**/**/*.txt", "f.txt", True),
        ("**/**/*.txt2", "x/f.txt", False),
        ("a**/*.txt", "a/b/c/d.txt", True),
        ("a/*.txt**", "a/f.txt", True),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("a/**/b", "a/xb", False),
        ("**/.foo", "bar.foo", False),
        ("**/a/*", "x/a/f", True),
        ("**/a/*", "x/a", False),
        ("**/a/**", "x/a/b/c", True),
        ("***", "a/b", True),
        # brackets
        ("ab[c]", "abc", True),
        ("ab[b-d]", "abc", True),
        ("ab[e-g]", "abc", False),
        ("ab[^c]", "abc", False),
        ("ab[^e-g]", "abc", True),
        ("[a-ζ]*", "α", True),
        ("*[a-ζ]", "A", False),
        ("[\\]a]", "]", True),
        ("[\\-x]", "-", True),
        ("[x\\-]", "z", False),
        ("[*]", "*", True),
        # escapes, and what means nothing
        ("a\\*b", "a*b", True),
        ("a\\*b", "axb", False),
        ("a\\\\", "a\\", True),
        ("a.b", "axb", False),
        ("a(b)c", "a(b)c", True),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", True),
        ("a^b", "a^b", True),
        ("x-1+g0.whl", "x-1+g0.whl", True),
        ("*-1+g0.whl", "x-1+g0.whl", True),
        # the last one that matches wins
        ("a !a/b", "a/b", False),
        ("a !a/b", "a/c", True),
        ("!a *", "a", True),
        ("* !a", "a", False),
        ("* !a", "a/b", False),
        ("* !a a/b", "a/b", True),
        ("** !a/b", "a/b/c", False),
        ("** !a/b a/b/c", "a/b/c", True),
        ("docs/* !docs/README.md", "docs/README.md", False),
        ("*.md !README*.md README-secret.md", "README-secret.md", True),
        ("*.md README-secret.md !README*.md", "README-secret.md", False),
        ("!x", "x", False),
        # the root itself
        ("*", ".", False),
        ("**", "", False),
        ("**", "/", True),
        ("a", "/a", False),
        ("*", "a/", True),
        ("a", "x/../a", True),
    ],
)
def test_matching(patterns: str, path: str, ignored: bool) -> None:
    words = [patterns] if patterns in ("a b", " a ") else patterns.split(" ")
    assert Matcher(words).matches(path) is ignored


@pytest.mark.parametrize(
    "pattern",
    [
        "!",
        "[",
        "a[",
        "[^",
        "[^bc",
        "[]a]",
        "[-]",
        "[x-]",
        "[-x]",
        "[a-b-c]",
        "\\",
        "a\\",
        "[\\",
        "[z-a]",
        "![",
    ],
)
def test_patterns_that_are_refused(pattern: str) -> None:
    with pytest.raises(UsageError) as caught:
        Matcher([pattern])
    assert caught.value.reason == "invalid-pattern"


def test_empty_patterns_are_skipped() -> None:
    assert Matcher(["", "  ", "a"]).patterns == ("a",)
    assert not Matcher([""])
    assert not Matcher([]).matches("a")


@pytest.mark.parametrize(
    ("patterns", "directory", "skip"),
    [
        (["a"], "a", True),
        (["a"], "b", False),
        (["a", "!b"], "a", True),
        (["a", "!a/b"], "a", False),
        (["a", "!a/b"], "a/c", True),
        (["a", "!a/b"], "a/b", False),
        (["a", "!a/*/c"], "a/b", False),
        (["a", "!a/*/c"], "a/b/d", True),
        (["a", "!**/c"], "a/b", False),
        (["a", "!x/**/c"], "a", True),
        (["a", "!a*/c"], "a", False),
        (["*", "!src"], "node_modules", True),
        (["*", "!src"], "src", False),
        (["*", "!src/main"], "src", False),
        (["**/node_modules"], "x/node_modules", True),
    ],
)
def test_directories_a_walk_need_not_enter(patterns: list[str], directory: str, skip: bool) -> None:
    assert Matcher(patterns).can_skip_directory(directory) is skip


_NAMES = st.sampled_from(["a", "b", "ab", "c.txt"])
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map("/".join)
_PATTERNS = st.lists(
    st.tuples(
        st.sampled_from(["", "!"]),
        st.lists(st.sampled_from(["a", "b", "a*", "*", "**", "?", "[ab]", "c.txt"]), min_size=1, max_size=3),
    ).map(lambda parts: parts[0] + "/".join(parts[1])),
    max_size=5,
)


@given(_PATTERNS, _PATHS)
def test_without_exceptions_a_walk_comes_to_the_same_answers(patterns: list[str], path: str) -> None:
    matcher = Matcher(patterns)
    answers = _walk(matcher, path)
    if not any(pattern.startswith("!") for pattern in patterns):
        assert answers == [matcher.matches(here) for here in _levels(path)]


def _levels(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]


def _walk(matcher: Matcher, path: str) -> list[bool]:
    answers: list[bool] = []
    state: ParentState | None = None
    for here in _levels(path):
        excluded, state = matcher.excluded(here, state)
        answers.append(excluded)
    return answers


def test_a_walk_does_not_ask_what_takes_back_a_directory_that_is_not_ignored() -> None:
    matcher = Matcher(["**/node_modules", "!web"])
    assert not matcher.matches("web/node_modules")
    assert _walk(matcher, "web/node_modules/x") == [False, True, True]
    assert _walk(Matcher(["*", "!web"]), "web/node_modules") == [False, False]


@given(_PATTERNS, _PATHS, _PATHS)
def test_nothing_is_kept_below_a_directory_that_can_be_skipped(
    patterns: list[str], directory: str, below: str
) -> None:
    matcher = Matcher(patterns)
    if matcher.can_skip_directory(directory):
        assert matcher.matches(f"{directory}/{below}")


def test_hostile_patterns_do_not_take_forever() -> None:
    matcher = Matcher(["**/" * 30 + "x", "*a" * 12 + "b"])
    assert not matcher.matches("/".join(["aaaa"] * 12))
