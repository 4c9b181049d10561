"""``--if-tag-is``: a tag that somebody else has moved is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest

import polyarch
from polyarch.cli.main import main
from polyarch.content.state import State
from polyarch.proof.tag_guard import NONE, parse


def build(folder: Path, name: str, expected: str, content: str) -> int:
    folder.mkdir(exist_ok=True)
    (folder / "a").write_text(content)
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY a /\n")
    return main(["build", str(folder), "-t", name, "--push", "--if-tag-is", expected, "-q"])


def test_a_tag_moves_only_from_where_it_is_said_to_be(
    state: State, registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{registry}/team/app:1"
    assert build(tmp_path / "c", name, "sha256:" + "0" * 64, "1") == 1
    assert "does not exist" in capsys.readouterr().err
    assert build(tmp_path / "c", name, NONE, "1") == 0
    first = polyarch.inspect(name, remote=True).digest
    assert build(tmp_path / "c", name, NONE, "2") == 1
    assert f"names {first}" in capsys.readouterr().err
    assert polyarch.inspect(name, remote=True).digest == first
    assert build(tmp_path / "c", name, first, "2") == 0
    assert polyarch.inspect(name, remote=True).digest != first


def test_what_is_no_digest(state: State, registry: str, tmp_path: Path) -> None:
    assert build(tmp_path / "c", f"{registry}/x:1", "latest", "1") == 2
    assert parse(NONE) == NONE


def test_the_other_verbs_that_tag(state: State, registry: str, tmp_path: Path) -> None:
    name = f"{registry}/team/app:1"
    assert build(tmp_path / "c", name, NONE, "1") == 0
    first = polyarch.inspect(name, remote=True).digest
    assert main(["build", str(tmp_path / "c"), "-t", name, "-q", "--label", "a=b"]) == 0
    for words in (["push", name], ["imagetools", "create", "-t", name, polyarch.inspect(name).digest]):
        assert main([*words, "--if-tag-is", NONE]) == 1
        assert main([*words, "--if-tag-is", "sha256:" + "0" * 64]) == 1
        assert polyarch.inspect(name, remote=True).digest == first
        assert main([*words, "--if-tag-is", first]) == 0
        first = polyarch.inspect(name, remote=True).digest
        assert main([*words, "--if-tag-is", "latest"]) == 2


def test_from_python(state: State, registry: str, tmp_path: Path) -> None:
    name = f"{registry}/team/app:1"
    build(tmp_path / "c", name, NONE, "1")
    with pytest.raises(polyarch.PolyarchError) as caught:
        polyarch.build(tmp_path / "c", tags=[name], push=True, if_tag_is=NONE)
    assert caught.value.reason == "tag-moved"
