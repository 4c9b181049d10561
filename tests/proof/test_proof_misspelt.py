"""Names that are nearly right: build arguments that nothing takes, stages that are asked of a registry."""

from __future__ import annotations

import pytest

from polyarch import dockerfile
from polyarch.dockerfile.program import instructions
from polyarch.errors import NotFoundError
from polyarch.graph.stages import Options, plan_stages
from polyarch.oci import platform as platforms
from polyarch.proof.misspelt import misspelt_arguments, suggest_stage

TEXT = "ARG VERSION=1\nFROM scratch\nARG http_proxy\nARG flavour\n"


def found(text: str, *given: str) -> list[tuple[int, str]]:
    parsed = dockerfile.parse(text)
    findings = misspelt_arguments(parsed, instructions(parsed), dict.fromkeys(given, ""))
    return [(finding.location.start, finding.message.rpartition("; ")[2]) for finding in findings]


def test_near_names_are_told() -> None:
    assert found(TEXT, "VERSOIN") == [(1, "did you mean VERSION?")]
    assert found(TEXT, "flavor") == [(4, "did you mean flavour?")]


@pytest.mark.parametrize("name", ["VERSION", "COMMIT", "HTTP_PROXY", "TARGETARCH", "BUILDKIT_INLINE_CACHE"])
def test_others_are_no_mistake(name: str) -> None:
    assert found(TEXT, name) == []


def test_a_skip_and_an_argument_given_beside() -> None:
    assert found("# check=skip=MisspeltBuildArgument\n" + TEXT, "VERSOIN") == []
    assert found(TEXT, "VERSION", "VERSIONS") == []


@pytest.mark.parametrize("use", ["FROM bulider", "FROM scratch\nCOPY --from=bulider / /"])
def test_a_base_that_is_nearly_a_stage(use: str) -> None:
    program = instructions(dockerfile.parse(f"FROM scratch AS builder\n{use}\n"))
    host = platforms.host()
    states = plan_stages(program, Options(build_platform=host), host).states
    error = NotFoundError("bulider: not found", hint="look again", location=states[-1].location)
    assert suggest_stage(error, states).hint == "did you mean builder? (a stage); look again"
