"""Bad input: one clear error that names the object, exit code 1 (2 for usage), nothing lost."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from polyarch.cli.main import main
from polyarch.content.layout import Layout
from polyarch.content.state import State

ALL = ("--platform", "linux/amd64,linux/arm64")


def context(tmp_path: Path, dockerfile: str) -> str:
    folder = tmp_path / "context"
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    return str(folder)


def fails(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    """Run the command line, which must fail without a traceback; its standard error."""
    assert main(["build", "--progress=plain", *arguments]) == code
    shown = capsys.readouterr().err
    assert "Traceback" not in shown, shown
    assert "rror" in shown
    return shown


def test_an_unknown_platform(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = fails(
        capsys, "--platform", "linux/amd46", context(tmp_path, "FROM scratch\nCOPY Dockerfile /\n"), code=2
    )
    assert "linux/amd46" in shown and "did you mean 'amd64'" in shown


def test_a_base_without_the_platform(
    state: State, busybox: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = fails(
        capsys, "--platform", "linux/amd64,linux/s390x", context(tmp_path, f"FROM {busybox}\nRUN false\n")
    )
    assert "linux/s390x" in shown
    assert "linux/amd64" in shown and "linux/arm64" in shown, "the platforms it has are listed"
    assert "polyarch base" in shown
    assert ">>> 1 | FROM" in shown


def test_a_dockerfile_that_does_not_parse(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = fails(capsys, context(tmp_path, "FROM scratch\nCOPPY a b\n"))
    assert "Dockerfile:2" in shown and "COPPY" in shown
    assert "did you mean COPY?" in shown


def test_a_missing_context(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "/does/not/exist" in fails(capsys, "/does/not/exist")


def test_a_missing_dockerfile(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = fails(capsys, str(tmp_path))
    assert "Dockerfile" in shown and "-f" in shown


def test_a_missing_source(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = fails(capsys, context(tmp_path, "FROM scratch\nCOPY nothing /\n"))
    assert "nothing" in shown and "not found" in shown
    assert ">>> 2 | COPY nothing /" in shown


def test_an_unknown_stage(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = context(tmp_path, "FROM scratch AS builder\nCOPY Dockerfile /\n")
    shown = fails(capsys, "--target", "buidler", folder)
    assert "did you mean builder?" in shown


def test_a_registry_that_is_down(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = fails(capsys, context(tmp_path, "FROM 127.0.0.1:1/app\n"))
    assert "127.0.0.1:1" in shown


def test_push_without_a_tag(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "tag" in fails(capsys, "--push", context(tmp_path, "FROM scratch\nCOPY Dockerfile /\n"), code=2)


def test_a_push_that_fails_keeps_the_image(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "127.0.0.1:1/app:1"
    fails(capsys, "--push", "-t", name, context(tmp_path, "FROM scratch\nCOPY Dockerfile /\n"))
    assert Layout(state.content).resolve(name)


@pytest.mark.parametrize("member", ["../escape", "/../../escape", "a/../../escape"])
def test_a_tar_that_climbs_out(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str], member: str
) -> None:
    folder = Path(context(tmp_path, "FROM scratch\nADD bad.tar /app/\n"))
    with tarfile.open(folder / "bad.tar", "w") as archive:
        info = tarfile.TarInfo(member)
        info.size = 1
        archive.addfile(info, io.BytesIO(b"x"))
    shown = fails(capsys, str(folder))
    assert "escape" in shown


def test_an_argument_that_is_no_reference(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = fails(capsys, "-t", "team/APP", context(tmp_path, "FROM scratch\nCOPY . /\n"), code=2)
    assert "team/APP" in shown


@pytest.mark.userns
def test_a_missing_required_secret(
    state: State, busybox: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = fails(
        capsys, context(tmp_path, f"FROM {busybox}\nRUN --mount=type=secret,id=pw,required=true true\n")
    )
    assert "secret pw" in shown and "--secret id=pw" in shown


def test_no_emulator(
    state: State,
    busybox: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from polyarch.executor.emulator import Emulators

    monkeypatch.setattr(Emulators, "discover", classmethod(lambda cls, **_: cls(())))
    shown = fails(capsys, *ALL, context(tmp_path, f"FROM {busybox}\nRUN true\n"))
    assert "linux/arm64" in shown and "qemu-user-static" in shown
