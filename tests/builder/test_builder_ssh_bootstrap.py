"""Installing polyarch on a host that has none: by ssh alone, with nothing but a Python there."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import msgspec
import pytest
from ssh_hosts import Host

from polyarch import pipeline
from polyarch.builder.instance import Builder
from polyarch.builder.ssh import hello
from polyarch.builder.ssh.bootstrap import bootstrap
from polyarch.builder.ssh.wheels import Target, needed, own_wheel, wheels_for
from polyarch.content.state import State
from polyarch.errors import UnsupportedError
from polyarch.request import BuildRequest
from polyarch.version import VERSION

OWN = Target(sys.version_info[:2], platform.machine(), "glibc", (2, 36))


@pytest.fixture
def bare(far: Host) -> Host:
    """A host with this Python and without polyarch; its user has a home of its own."""
    (far.programs / "polyarch").unlink()
    (far.programs / "python3").symlink_to(os.path.realpath(sys.executable))
    config = far.folder / "sshd_config"
    text = config.read_text().replace("SetEnv ", f"SetEnv XDG_DATA_HOME={far.folder}/data ")
    config.write_text(text)
    far.stop()
    far.start()
    return far


def test_polyarch_is_installed_once_and_builds(state: State, bare: Host, tmp_path: Path) -> None:
    told: list[str] = []
    bootstrap(bare.record(), told.append)
    assert "installing polyarch" in told[0] and told[-1] == f"node far runs polyarch {VERSION}"
    place = bare.folder / "data/polyarch/node" / VERSION
    assert (place / "lib/msgspec").is_dir() and not (place / "lib/grpc").exists()
    told.clear()
    bootstrap(bare.record(), told.append)
    assert told == [f"node far runs polyarch {VERSION}"]
    context = tmp_path / "c"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    builder = Builder(name="b", nodes=(bare.record(),))
    assert pipeline.run(BuildRequest(context=str(context), builder=builder), state=state).digest


def test_another_version_is_left_beside_ours(bare: Host) -> None:
    line = msgspec.json.encode(hello.Hello("0.0.1", 0)).decode()
    bare.install(f"echo 'polyarch-node {line}'")
    told: list[str] = []
    bootstrap(bare.record(), told.append)
    assert told[0] == f"node far has polyarch 0.0.1, and this is {VERSION}"
    assert told[-1] == f"node far runs polyarch {VERSION}"
    assert (bare.programs / "polyarch").exists()


def test_a_host_with_an_old_python(bare: Host) -> None:
    facts = {
        "system": "Linux",
        "machine": "x86_64",
        "python": [3, 9, 2],
        "implementation": "CPython",
        "executable": "/usr/bin/python3",
        "libc": ["glibc", "2.31"],
        "folder": "/home/u/.local/share/polyarch/node",
        "writable": False,
        "free": 1 << 20,
    }
    for name in ("python3", "python3.14", "python3.13", "python3.12", "python3.11"):
        program = bare.programs / name
        program.unlink(missing_ok=True)
        program.write_text(f"#!/bin/sh\necho 'polyarch-host {msgspec.json.encode(facts).decode()}'\n")
        program.chmod(0o755)
    with pytest.raises(UnsupportedError) as caught:
        bootstrap(bare.record(), lambda sentence: None)
    assert "Python 3.11 or newer: it has 3.9.2" in caught.value.detail
    assert "a folder to write to" in caught.value.detail and "room" in caught.value.detail


def test_no_wheels_for_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    strange = Target((3, 11), "strange", "glibc", (2, 36))
    with pytest.raises(UnsupportedError, match="there is no wheel of") as caught:
        list(wheels_for(strange, tmp_path))
    assert "POLYARCH_WHEELS" in caught.value.hint


def test_wheels_from_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLYARCH_WHEELS", str(tmp_path))
    strange = Target((3, 12), "aarch64", "glibc", (2, 36))
    for name in needed():
        (tmp_path / f"{name}-9-cp312-cp312-manylinux_2_17_aarch64.whl").write_bytes(b"wheel")
    found = {wheel.name for wheel in wheels_for(strange, tmp_path)}
    assert "msgspec-9-cp312-cp312-manylinux_2_17_aarch64.whl" in found
    assert own_wheel(strange).name in found


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("py3-none-any", True),
        ("py2.py3-none-any", True),
        ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", True),
        ("cp311-cp311-manylinux2014_x86_64", True),
        ("cp311-cp311-manylinux_2_39_x86_64", False),
        ("cp311-cp311-manylinux_2_17_aarch64", False),
        ("cp312-cp312-manylinux_2_17_x86_64", False),
        ("cp39-abi3-manylinux_2_28_x86_64", True),
        ("cp312-abi3-manylinux_2_28_x86_64", False),
        ("cp311-cp311-musllinux_1_2_x86_64", False),
        ("cp311-cp311t-manylinux_2_17_x86_64", False),
        ("cp311-cp311-win_amd64", False),
    ],
)
def test_which_wheels_fit(tag: str, fits: bool) -> None:
    assert Target((3, 11), "x86_64", "glibc", (2, 36)).takes(tag) is fits
