"""Dockerfiles with very many stages: nothing may follow a dependency twice, or deeper than Python's stack."""

from __future__ import annotations

import pytest

from polyarch import dockerfile
from polyarch.cli.refusal import refusal
from polyarch.dockerfile.lint import lint
from polyarch.dockerfile.outline import outline
from polyarch.dockerfile.program import Program, instructions
from polyarch.errors import DockerfileError
from polyarch.graph.stages import Options, plan_stages
from polyarch.oci.platform import Platform

PLATFORM = Platform.parse("linux/amd64")
OPTIONS = Options(build_platform=PLATFORM)


def program(first: str, each: str, count: int) -> Program:
    text = first + "".join(each.format(number=n, before=n - 1) for n in range(1, count))
    return instructions(dockerfile.parse(text))


@pytest.mark.parametrize(
    ("each", "count"),
    [
        ("FROM s{before} AS s{number}\nRUN x\n", 1500),
        ("FROM scratch AS s{number}\nCOPY --from=s{before} / /\n", 1500),
        ("FROM s{before} AS s{number}\nCOPY --from=s{before} / /\nCOPY --from=s{before} / /b\n", 60),
    ],
)
def test_long_and_wide_chains(each: str, count: int) -> None:
    found = program("FROM scratch AS s0\nARG first=1\n", each, count)
    assert refusal(found, OPTIONS, PLATFORM) is None
    assert [argument["name"] for argument in outline(found)["args"]] == ["first"]


def test_a_long_circle() -> None:
    found = program("FROM scratch AS s0\nCOPY --from=s1499 / /\n", "FROM s{before} AS s{number}\n", 1500)
    with pytest.raises(DockerfileError, match="circular dependency"):
        plan_stages(found, OPTIONS, PLATFORM)


def test_values_that_double_themselves() -> None:
    parsed = dockerfile.parse("FROM scratch\nENV a=0123456789\n" + "ENV a=$a$a\n" * 60)
    with pytest.raises(DockerfileError, match="more than"):
        lint(parsed, instructions(parsed))
