"""--iidfile, --metadata-file, and what ``build`` prints where."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyarch.cli.main import main
from polyarch.content.state import State


@pytest.fixture
def context(state: State, tmp_path: Path) -> str:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    return str(tmp_path / "c")


def test_the_image_id_is_printed_and_written(
    context: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    iid, meta = tmp_path / "iid", tmp_path / "meta.json"
    assert main(["build", "-q", f"--iidfile={iid}", f"--metadata-file={meta}", "-t", "a:1", context]) == 0
    printed = capsys.readouterr()
    assert printed.out.strip() == iid.read_text() and printed.err == ""
    found = json.loads(meta.read_text())
    assert found["containerimage.config.digest"] == iid.read_text()
    assert found["image.name"] == "docker.io/library/a:1"
    assert main(["build", "--progress=quiet", context]) == 0
    assert capsys.readouterr().out.strip().startswith("sha256:")


def test_rawjson_prints_nothing_else(context: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["build", "--progress=rawjson", context]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines and all(json.loads(line) for line in lines)


def test_files_that_cannot_be_written_are_found_before_the_build(
    context: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "missing" / "file"
    for option in ("--iidfile", "--metadata-file"):
        assert main(["build", option, str(missing), context]) == 1
        assert "mkdir -p" in capsys.readouterr().err
    out = f"type=local,dest={tmp_path / 'out'}"
    assert main(["build", "-o", out, "--iidfile", str(tmp_path / "iid"), context]) == 2
    assert "no image ID" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "iid").exists()


def test_a_containerfile_stands_in_for_a_dockerfile(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("Containerfile", "Dockerfile"):
        (tmp_path / name).write_text(f"FROM scratch AS {name.lower()}\n")
        assert main(["build", "--call=targets", str(tmp_path)]) == 0
        assert name.lower() in capsys.readouterr().out
