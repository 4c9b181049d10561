"""The native-node example of the multi-platform guide, word for word, and what users do next."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from ssh_hosts import Hosts

from polyarch.cli.main import main
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.image.inspect import inspect
from polyarch.oci.platform import host
from polyarch.registry.client import Client

pytestmark = [
    pytest.mark.userns,
    pytest.mark.qemu,
    pytest.mark.skipif(host().architecture != "amd64", reason="the guide's own machine is amd64"),
]


def polyarch(*words: str) -> None:
    assert main(list(words)) == 0, words


def test_the_guide(
    state: State,
    busybox: str,
    hosts: Hosts,
    registry: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    far = hosts.add("arm64-host")
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / "Dockerfile").write_text(
        f'FROM {busybox}\nARG TARGETARCH\nRUN uname -m > /machine && echo $TARGETARCH > /target\nCMD ["sh"]\n'
    )
    monkeypatch.chdir(tmp_path)
    tag = f"{registry}/app:latest"

    polyarch("create", "--name", "multiarch", "--node", "arm-builder", "--platform", "linux/arm64",
             f"ssh://{user}@arm64-host")  # fmt: skip
    polyarch("create", "--name", "multiarch", "--append", "--node", "local", "--platform", "linux/amd64")
    polyarch("use", "multiarch")
    capsys.readouterr()
    polyarch("build", "--platform", "linux/amd64,linux/arm64", "--push", "-t", tag, ".")

    said = capsys.readouterr().err
    assert "[local] " in said and "[arm-builder] " in said
    assert "native on local (declared)" in said and "on arm-builder (declared)" in said
    with Client() as client:
        repository = client.repository(tag)
        image = inspect(repository, repository.resolve("latest"), name=tag)
    assert [str(platform) for platform in image.platforms] == ["linux/amd64", "linux/arm64"]
    here = Layout(state.content)
    assert here.exists(image.variants[0].layers[-1].digest)
    assert not here.exists(image.variants[1].layers[-1].digest), "pushed by the node"
    assert Layout(far.root / "content").exists(image.variants[1].layers[-1].digest)

    polyarch("build", "--platform", "linux/amd64,linux/arm64", "--dry-run", ".")
    plan = capsys.readouterr().out
    assert "on arm-builder (declared)" in plan
    polyarch("inspect", "--bootstrap")
    shown = capsys.readouterr().out
    assert "arm-builder" in shown and "linux/arm64*" in shown and "running" in shown
    polyarch("ls", "--format", "{{json .}}")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert any(row["Name"] == "multiarch" for row in rows)
    polyarch("rm", "multiarch")
    assert far.is_left()
