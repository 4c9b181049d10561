"""Commands in namespaces of their own, with emulators only they know of; and a real base by mmdebstrap."""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from polyarch.base.bootstrap import handlers
from polyarch.base.make import make
from polyarch.base.recipe import Recipe
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.content.verify import read_manifest
from polyarch.executor.emulator import Emulators
from polyarch.oci.platform import Platform

ARM64 = Platform.parse("linux/arm64")


def run(*command: str, options: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    helper = [sys.executable, "-m", "polyarch.base.namespace", *options, "--", *command]
    return subprocess.run(helper, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.userns
def test_the_command_is_root_and_its_exit_code_comes_through() -> None:
    assert run("id", "-u").stdout == "0\n"
    assert run("sh", "-c", "exit 7").returncode == 7
    assert run("sh", "-c", "kill -9 $$").returncode == 137
    assert run("/nonexistent").returncode != 0


@pytest.mark.userns
def test_nothing_is_left_when_it_ends(tmp_path: Path) -> None:
    marker = f"31{os.getpid()}"
    assert run("sh", "-c", f"mount -t tmpfs none {tmp_path}; (sleep {marker} &) ; exit 0").returncode == 0
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    listed = subprocess.run(["ps", "ax", "-o", "args"], capture_output=True, text=True, check=False).stdout
    assert f"sleep {marker}" not in listed.splitlines()


@pytest.mark.userns
@pytest.mark.qemu
def test_foreign_programs_run_there_and_the_host_stays_as_it_was(
    state: State, busybox_layout: Path, tmp_path: Path
) -> None:
    store = Layout(busybox_layout)
    index = read_manifest(store, store.resolve("base/busybox")).index
    entry = next(entry for entry in index.manifests if entry.platform == ARM64)
    layer = read_manifest(store, entry).manifest.layers[0]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(store.path(layer.digest).read_bytes()))) as archive:
        program = archive.extractfile("usr/bin/busybox")
        assert program is not None
        path = tmp_path / "busybox"
        path.write_bytes(program.read())
    path.chmod(0o755)
    options = tuple(f"--binfmt={line.hex()}" for line in handlers(Emulators.discover()))
    assert run(str(path), "uname", "-m", options=options).stdout == "aarch64\n"


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.userns
def test_a_real_debian_with_its_scripts_run(state: State) -> None:
    recipe = Recipe(name="base/debian", platforms=(Platform.parse("local"),), variant="apt")
    made = make(recipe, state=state)
    store = Layout(state.content)
    layer = read_manifest(store, made.variants[0].manifest).manifest.layers[0]
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(store.path(layer.digest).read_bytes()))) as archive:
        names = {info.name for info in archive}

        def text(name: str) -> str:
            extracted = archive.extractfile(name)
            assert extracted is not None
            return extracted.read().decode()

        status = text("var/lib/dpkg/status")
        assert "Status: install ok installed" in status
        assert "unpacked" not in status
        assert "deb.debian.org" in text("etc/apt/sources.list")
    assert not {"etc/resolv.conf", "etc/hostname", "etc/apt/sources.list.d/0000sources.list"} & names
    assert not any(name.startswith(("dev/", "var/lib/apt/lists/d")) for name in names)
    assert not list(state.temporary.iterdir())
