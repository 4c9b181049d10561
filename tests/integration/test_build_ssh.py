"""``--ssh``: a step reaches an agent, its key never leaves it, and the agent ends with the build."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from polyarch.cli.main import main
from polyarch.content.state import State


@pytest.mark.userns
def test_a_key_file_is_served_to_the_step_that_asks(
    state: State, busybox: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    context = tmp_path / "c"
    context.mkdir()
    (context / "Dockerfile").write_text(
        f"FROM {busybox}\nRUN --mount=type=ssh,id=k,required=true "
        'test -S "$SSH_AUTH_SOCK" && echo "socket at $SSH_AUTH_SOCK"\n'
    )
    assert main(["build", "--progress=plain", "--ssh", f"k={key}", str(context)]) == 0
    assert "socket at /run/buildkit/ssh_agent.0" in capsys.readouterr().err
    left = subprocess.run(
        ["pgrep", "-f", "ssh-agent.*polyarch-ssh"], capture_output=True, text=True, check=False
    )
    assert left.stdout == ""


def test_a_key_that_is_not_there(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    assert main(["build", "--ssh", f"default={tmp_path}/none", str(tmp_path)]) == 1
    assert "none is not there" in capsys.readouterr().err


def test_no_agent(
    state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    assert main(["build", "--ssh", "default", str(tmp_path)]) == 2
    assert "SSH_AUTH_SOCK is not set" in capsys.readouterr().err
