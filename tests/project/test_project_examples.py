"""The examples say what they mean: no check has anything against them, and each has its README."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyarch.cli.main import main
from polyarch.content.state import State

EXAMPLES = sorted(path.parent for path in (Path(__file__).parents[2] / "examples").glob("*/Dockerfile"))


def test_there_are_three() -> None:
    assert [example.name for example in EXAMPLES] == ["c-cross", "go-cross", "python-emulated"]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_no_check_complains(state: State, example: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--check", str(example)]) == 0
    assert "no warnings" in capsys.readouterr().out
    assert (example / "README.md").is_file()
