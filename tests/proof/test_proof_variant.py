"""Variants that cannot be what their label says are refused; those that are right pass."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from polyarch.context.directory import DirectoryContext
from polyarch.layer.rootfs import Rootfs
from polyarch.oci.config import ContainerConfig, ImageConfig
from polyarch.oci.platform import Platform
from polyarch.proof.variant import faults

MACHINES = {  # class, byte order, machine, flags
    "amd64": (2, 1, 62, 0),
    "386": (1, 1, 3, 0),
    "arm64": (2, 1, 183, 0),
    "arm/v7": (1, 1, 40, 0x05000400),
    "riscv64": (2, 1, 243, 0),
    "s390x": (2, 2, 22, 0),
    "ppc64le": (2, 1, 21, 2),
}


def elf(machine: str, loader: str = "") -> bytes:
    """A program's header with, for a dynamic one, the name of its loader."""
    kind, order, number, flags = MACHINES[machine]
    pack = "<" if order == 1 else ">"
    wide = kind == 2
    ident = b"\x7fELF" + bytes((kind, order, 1)) + bytes(9)
    header_size, entry_size = (64, 56) if wide else (52, 32)
    name = loader.encode() + b"\0"
    count = 1 if loader else 0
    address = "Q" if wide else "I"
    header = ident + struct.pack(
        pack + "HHI" + address * 3 + "IHHHHHH",
        2, number, 1, 0, header_size, 0, flags, header_size, entry_size, count, 0, 0, 0,
    )  # fmt: skip
    if not loader:
        return header
    offset = header_size + entry_size
    if wide:
        table = struct.pack(pack + "IIQQQQQQ", 3, 4, offset, 0, 0, len(name), len(name), 1)
    else:
        table = struct.pack(pack + "IIIIIIII", 3, offset, 0, 0, len(name), len(name), 4, 1)
    return header + table + name


def rootfs(folder: Path, files: dict[str, bytes | str]) -> Rootfs:
    """A root filesystem; a text is a symlink's target."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.symlink_to(content)
        else:
            path.write_bytes(content)
            path.chmod(0o755)
    folder.mkdir(parents=True, exist_ok=True)
    return DirectoryContext(folder).rootfs()


def found(
    tmp_path: Path, platform: str, files: dict[str, bytes | str], *words: str, env: tuple[str, ...] = ()
) -> list[str]:
    config = ImageConfig(config=ContainerConfig(entrypoint=words or ("/app",), env=env))
    seen = faults(rootfs(tmp_path / "root", files), config, Platform.parse(platform))
    return [f"{fault.path}: {fault.message}" for fault in seen]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("platform", MACHINES)
def test_every_pair_of_architectures(tmp_path: Path, machine: str, platform: str) -> None:
    fine = machine == platform or (machine, platform) in (("386", "amd64"), ("arm/v7", "arm64"))
    assert (not found(tmp_path, f"linux/{platform}", {"app": elf(machine)})) == fine


def test_the_program_is_found_through_path_and_links(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "opt/tool/bin/run": elf("amd64"),
        "usr/bin/run": "../../opt/tool/bin/run",
    }
    assert found(tmp_path, "linux/arm64", files, "run") == [
        "opt/tool/bin/run: it is a program for amd64, not for linux/arm64"
    ]


def test_a_scripts_interpreter_counts(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "app": b"#!/bin/sh -e\n",
        "bin/busybox": elf("amd64"),
        "bin/sh": "busybox",
    }
    assert found(tmp_path, "linux/arm64", files) == [
        "bin/busybox: it is a program for amd64, not for linux/arm64"
    ]
    assert found(tmp_path / "again", "linux/amd64", files) == []


def test_an_interpreter_that_is_not_there(tmp_path: Path) -> None:
    assert found(tmp_path, "linux/amd64", {"app": b"#!/usr/bin/python3\n"}) == [
        "app: its interpreter /usr/bin/python3 is not in the image"
    ]


def test_a_loader_that_is_not_there(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"app": elf("arm64", "/lib/ld-linux-aarch64.so.1")}
    assert "its loader" in found(tmp_path, "linux/arm64", files)[0]


def test_a_foreign_loader(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {"app": elf("arm64", "/lib/ld.so"), "lib/ld.so": elf("amd64")}
    assert found(tmp_path, "linux/arm64", files) == ["lib/ld.so: the loader of /app is for amd64"]


def test_a_windows_program(tmp_path: Path) -> None:
    header = b"MZ" + bytes(58) + struct.pack("<I", 64) + b"PE\0\0" + struct.pack("<H", 0x8664) + bytes(300)
    assert "pe:amd64" in found(tmp_path, "linux/amd64", {"app": header})[0]


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"app": b"not a program"},
        {"app": elf("arm64"), "usr/bin/qemu-x86_64": elf("amd64")},
        {"app": elf("arm64"), "usr/x86_64-linux-gnu/lib/libc.so": elf("amd64")},
    ],
)
def test_what_is_right_or_unknown_passes(tmp_path: Path, files: dict[str, bytes | str]) -> None:
    assert found(tmp_path, "linux/arm64", files) == []
