"""SOURCE_DATE_EPOCH: numbers, the context, stages and named contexts."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from polyarch.dockerfile import parse
from polyarch.dockerfile.program import instructions
from polyarch.errors import DockerfileError, PolyarchError
from polyarch.graph.epoch import with_epoch
from polyarch.graph.stages import NamedContext, Options
from polyarch.oci.platform import host

SOURCE = "FROM scratch AS source\nADD http://host/src.tar /\n"
TIMES = {"http://host/src.tar": 17, "http://host/context.git": 23}


def settled(
    text: str,
    given: str = "",
    *,
    context: str = "",
    args: Mapping[str, str] | None = None,
    contexts: Mapping[str, NamedContext] | None = None,
) -> tuple[int | None, str | None]:
    """The time, and what the stages are given as the argument."""
    options = Options(host(), build_args=args or {}, contexts=contexts or {})
    found = with_epoch(options, given, instructions(parse(text)), context, TIMES.get)
    return found.epoch, found.build_args.get("SOURCE_DATE_EPOCH")


def test_numbers() -> None:
    assert settled("FROM scratch\n") == (None, None)
    assert settled("FROM scratch\n", "5") == (5, None)
    assert settled("ARG SOURCE_DATE_EPOCH=7\nFROM scratch\n") == (7, None)
    assert settled("ARG SOURCE_DATE_EPOCH=7\nFROM scratch\n", "5") == (5, None)
    assert settled("ARG now=7\nARG SOURCE_DATE_EPOCH=$now\nFROM scratch\n", args={"now": "9"}) == (9, None)
    assert settled("FROM scratch\nARG SOURCE_DATE_EPOCH=7\n") == (None, None)  # of that stage alone


def test_the_context() -> None:
    assert settled("FROM scratch\n", "context", context="http://host/context.git") == (23, "23")
    assert settled("FROM scratch\n", "context", context="http://host/other.tar") == (None, "")
    assert settled("FROM scratch\n", "context") == (None, "")
    assert settled("ARG SOURCE_DATE_EPOCH=context\nFROM scratch\n") == (None, "")


def test_a_stage_that_is_a_source() -> None:
    assert settled("ARG SOURCE_DATE_EPOCH=source\n" + SOURCE + "FROM scratch\n") == (17, "17")
    assert settled(SOURCE + "FROM scratch\n", "Source") == (17, "17")
    url = "ARG SOURCE_DATE_EPOCH=s\nARG where=http://host\nFROM scratch AS s\nADD $where/src.tar /\n"
    assert settled(url) == (17, "17")


def test_a_named_context() -> None:
    named = NamedContext("mine", "http", "http://host/src.tar")
    assert settled("FROM scratch\n", "mine", contexts={"mine": named}) == (17, "17")


@pytest.mark.parametrize(
    "stage",
    [
        "FROM scratch AS s\nCOPY a /\n",
        "FROM scratch AS s\nADD a /\n",
        "FROM scratch AS s\nADD http://a http://b /\n",
        "FROM scratch AS s\nADD http://a /\nADD http://b /\n",
        "FROM base AS s\nADD http://a /\n",
        "FROM scratch AS s\n",
    ],
)
def test_a_stage_that_is_no_source(stage: str) -> None:
    with pytest.raises(DockerfileError, match="source-only") as caught:
        settled(stage, "s")
    assert caught.value.location is not None and caught.value.location.start == 1


@pytest.mark.parametrize("word", ["not-a-timestamp", "-1", "1e9", "٣", "scratch"])
def test_a_word_that_names_nothing(word: str) -> None:
    with pytest.raises(PolyarchError, match="invalid SOURCE_DATE_EPOCH"):
        settled("FROM scratch\n", word)
