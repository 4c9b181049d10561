"""A machine without emulators takes one from an image, once, and by digest."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

import polyarch
from polyarch.content.state import State
from polyarch.errors import PolyarchError
from polyarch.executor import emulator
from polyarch.executor.emulator import Emulators
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform
from polyarch.solver.events import VertexLog, Warning

FOREIGN = Platform.parse("linux/arm64" if platforms.host().architecture != "arm64" else "linux/amd64")

pytestmark = [pytest.mark.userns, pytest.mark.qemu]


@pytest.fixture
def image(state: State, registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An image with this machine's emulators in a registry; the machine itself has none any more."""
    found = Emulators.discover().find(FOREIGN)
    assert found is not None
    context = tmp_path / "emulators"
    context.mkdir()
    shutil.copy(found.path, context / f"qemu-{found.machine.qemu}")
    (context / "Dockerfile").write_text("FROM scratch\nCOPY qemu-* /usr/bin/\n")
    name = f"{registry}/tools/binfmt:latest"
    polyarch.build(context, tags=[name], push=True)
    folder = tmp_path / "path"
    folder.mkdir()
    for place in os.environ["PATH"].split(":"):
        for program in Path(place).glob("*"):
            if "qemu" not in program.name and not (folder / program.name).is_symlink():
                (folder / program.name).symlink_to(program)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(emulator, "_FOLDERS", ())
    shutil.rmtree(state.root)
    assert Emulators.discover().find(FOREIGN) is None
    return name


def build(busybox: str, folder: Path, **options: object) -> tuple[bytes, list[str]]:
    """What steps printed, and the warnings."""
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(f"FROM {busybox}\nRUN uname -m\n")
    printed, warned = b"", []

    def see(event: object) -> None:
        nonlocal printed
        if isinstance(event, VertexLog):
            printed += event.data
        if isinstance(event, Warning):
            warned.append(event.message)

    polyarch.build(folder, platforms=[str(FOREIGN)], progress=see, no_cache=True, **options)  # type: ignore[arg-type]
    return printed, warned


def store(busybox_layout: Path, state: State) -> str:
    shutil.copytree(busybox_layout, state.content)
    return "base/busybox:latest"


def test_taken_once_and_pinned(image, state, busybox_layout, tmp_path, monkeypatch):
    busybox = store(busybox_layout, state)
    monkeypatch.setenv("POLYARCH_EMULATOR_IMAGE", image)
    printed, warned = build(busybox, tmp_path / "c")
    assert printed.strip() in (b"aarch64", b"x86_64")
    assert any(image in text and "took qemu-" in text for text in warned)
    pin = (state.emulators / "taken/image").read_text()
    assert pin.startswith(f"{image} ") and "@sha256:" in pin
    printed, warned = build(busybox, tmp_path / "c")
    assert printed and not warned


def test_what_cannot_be_taken_is_the_old_refusal(image, state, busybox_layout, tmp_path, monkeypatch):
    busybox = store(busybox_layout, state)
    monkeypatch.setenv("POLYARCH_EMULATOR_IMAGE", image.replace("binfmt", "nothing"))
    with pytest.raises(PolyarchError, match="cannot run programs of") as caught:
        build(busybox, tmp_path / "c")
    assert "install" in json.dumps([caught.value.hint, caught.value.detail])


def test_off_takes_nothing(image, state, busybox_layout, tmp_path, monkeypatch):
    busybox = store(busybox_layout, state)
    monkeypatch.setenv("POLYARCH_EMULATOR_IMAGE", "off")
    with pytest.raises(PolyarchError, match="cannot run programs of"):
        build(busybox, tmp_path / "c")
    assert not (state.emulators / "taken").exists()
