"""Options as scripts written for docker give them."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from polyarch.cli.docker_flags import DockerCommand


@click.command(cls=DockerCommand)
@click.argument("context", default=".")
@click.option("-q", "--quiet", is_flag=True)
@click.option("--push", is_flag=True)
@click.option("--build-arg", "arguments", multiple=True)
def build(**options: object) -> None:
    """Print what was understood."""
    click.echo(repr(sorted(options.items())))


def understood(*words: str) -> dict[str, object]:
    result = CliRunner().invoke(build, words)
    assert result.exit_code == 0, result.output
    return dict(eval(result.stdout))  # what `build` printed


@pytest.mark.parametrize(("word", "value"), [("--push=true", True), ("--push=T", True), ("--push=0", False)])
def test_flags_may_have_a_value(word: str, value: bool) -> None:
    assert understood(word)["push"] is value


def test_what_only_looks_like_a_flag_stays() -> None:
    assert understood("--build-arg", "--push=true") == {
        "arguments": ("--push=true",),
        "context": ".",
        "push": False,
        "quiet": False,
    }
    assert understood("--", "--push=true")["context"] == "--push=true"


def test_a_flag_that_is_neither() -> None:
    result = CliRunner().invoke(build, ["--push=maybe"])
    assert result.exit_code == 2 and "neither true nor false" in result.output


def test_options_of_older_builders() -> None:
    assert understood("--rm", "--force-rm=true", "--compress", "--layers", "--jobs", "2")["context"] == "."
    result = CliRunner().invoke(build, ["--isolation=default", "."])
    assert result.exit_code == 0 and "--isolation has no effect" in result.output
