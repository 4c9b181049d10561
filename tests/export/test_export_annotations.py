"""--annotation in all its forms."""

from __future__ import annotations

import pytest

from polyarch.errors import UsageError
from polyarch.export.annotations import Annotation, parse, parse_all, select
from polyarch.oci.platform import Platform

ARM = Platform.parse("linux/arm64")


def test_levels_and_platforms() -> None:
    assert parse("a=b") == (Annotation("a", "b"),)
    assert parse("a=b:c=d") == (Annotation("a", "b:c=d"),)
    assert parse("index:a=b") == (Annotation("a", "b", "index"),)
    assert parse("index,manifest[linux/arm64]:a=") == (
        Annotation("a", "", "index"),
        Annotation("a", "", "manifest", ARM),
    )


@pytest.mark.parametrize("text", ["a", "=b", "index:=x", "nope:a=b", "manifest[:a=b", "in_dex:a=b", ",:a=b"])
def test_refuses(text: str) -> None:
    with pytest.raises(UsageError):
        parse(text)


def test_says_what_was_meant() -> None:
    with pytest.raises(UsageError, match="did you mean 'manifest'"):
        parse("manifst:a=b")


def test_one_platform_wins_over_all() -> None:
    found = parse_all(["manifest[linux/arm64]:a=arm", "a=all", "b=2", "index:c=3"])
    assert select(found, "manifest", ARM) == {"a": "arm", "b": "2"}
    assert select(found, "manifest", Platform.parse("linux/amd64")) == {"a": "all", "b": "2"}
    assert select(found, "index") == {"c": "3"}
