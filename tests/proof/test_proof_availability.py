"""``polyarch base check``: the table image × platform, as text and as JSON."""

from __future__ import annotations

import json

import pytest
from proof_store import Listed, store
from proof_workshop import Image, elf

from polyarch import api
from polyarch.cli.main import main
from polyarch.content.layout import Layout
from polyarch.content.state import State


@pytest.fixture
def images(state: State, registry: str) -> tuple[str, str]:
    """An image for two platforms that only the registry has, and one for arm64 alone in the local store."""
    layout = Layout(state.content)
    both = [Listed(f"linux/{name}", Image({"app": elf(name)})) for name in ("amd64", "arm64")]
    store(layout, "docker.io/team/both:1.0", both)
    api.push("team/both:1.0", to=f"{registry}/team/both:1.0", root=state.root)
    store(layout, "docker.io/team/one:latest", both[1:])
    return f"{registry}/team/both:1.0", "team/one"


def test_what_there_is(images: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["base", "check", *images]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["IMAGE", "linux/amd64", "linux/arm64"],
        [images[0], "yes", "yes"],
        [images[1], "no", "yes"],
    ]


def test_what_is_missing(images: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["base", "check", *images, "--platform", "linux/arm64,linux/amd64/v2"]) == 1
    shown = capsys.readouterr()
    assert [line.split()[1:] for line in shown.out.splitlines()[1:]] == [["yes", "yes"], ["yes", "no"]]
    assert f"{images[1]} lacks linux/amd64/v2; it has linux/arm64" in shown.err
    assert "polyarch base create" in shown.err
    assert main(["base", "check", images[0], "--platform", "linux/arm64"]) == 0


def test_an_image_that_is_not_there(images: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    wrong = images[0].removesuffix("1.0") + "1.00"
    assert main(["base", "check", wrong, images[0], "--platform", "linux/amd64", "--json"]) == 1
    first, second = json.loads(capsys.readouterr().out)
    assert first["problem"] and first["missing"] == ["linux/amd64"]
    assert first["hint"] == "closest tag that has linux/amd64: 1.0"
    assert second["platforms"] == ["linux/amd64", "linux/arm64"] and "missing" not in second
