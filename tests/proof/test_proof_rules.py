"""Labels, policies, and what a proof makes of files that nobody should trust."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import struct
from pathlib import Path
from typing import BinaryIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proof_workshop import LOADERS, MACHINES, Image, Plain, elf, library, pe

from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.errors import PolyarchError
from polyarch.layer.direct import DirectPrivilege
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.machine import identify
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.store import LayerStore
from polyarch.oci.config import ContainerConfig, ImageConfig
from polyarch.oci.platform import Platform
from polyarch.proof import elf as elf_files
from polyarch.proof.built import Built, evidence_of, prove_built
from polyarch.proof.finding import Finding, Policy, read_ignore_file, refuse
from polyarch.proof.fitness import runs_on
from polyarch.proof.labels import Contents, Label, check_alike, check_labels, raise_missing
from polyarch.proof.program import of_bytes, of_stream
from polyarch.solver.cache import MemoryCache


def label(platform: str, config: str = "", layers: tuple[str, ...] = ("a",)) -> Label:
    declared = Platform.parse(config or platform)
    return Label(
        Platform.parse(platform),
        ImageConfig(architecture=declared.architecture, os=declared.os, variant=declared.variant),
        layers,
    )


def rules(found: object) -> list[str]:
    return [finding.rule for finding in found]  # type: ignore[attr-defined]


# --- labels -------------------------------------------------------------------------------------------------


def test_labels_that_are_right() -> None:
    platforms = ["linux/amd64", "linux/arm64", "linux/arm/v7", "linux/arm/v6", "linux/386", "linux/riscv64"]
    assert rules(check_labels([label(platform) for platform in platforms])) == []
    assert rules(check_labels([label("linux/arm64/v8", "linux/arm64")])) == []


def test_a_config_that_disagrees() -> None:
    (finding,) = check_labels([label("linux/arm64", "linux/amd64")])
    assert (finding.severity, finding.rule) == ("error", "PlatformMismatch")
    (finding,) = check_labels([label("linux/arm/v6", "linux/arm/v7")])
    assert (finding.severity, finding.rule) == ("warning", "PlatformMismatch")


def test_a_platform_twice() -> None:
    found = check_labels([label("linux/arm64"), label("linux/arm64/v8"), label("linux/amd64")])
    assert rules(found) == ["DuplicatePlatform"]


def test_a_platform_that_is_none() -> None:
    odd = Label(Platform(os="linux", architecture="amd46"), ImageConfig(architecture="amd46"), ())
    assert "UnknownPlatform" in rules(check_labels([odd]))


def contents(platform: str, names: int, size: int = 0, prefix: str = "f", *, code: bool = True) -> Contents:
    return Contents(platform, {f"{prefix}{n}" for n in range(names)}, size, code)


def test_the_same_programs_for_two() -> None:
    labels = [label("linux/amd64"), label("linux/386")]
    both = [contents("linux/amd64", 1), contents("linux/386", 1)]
    assert rules(check_alike(labels, both)) == ["IdenticalVariants"]
    data = [dataclasses.replace(one, code=False) for one in both]
    assert rules(check_alike(labels, data)) == []


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (contents("linux/amd64", 200), contents("linux/arm64", 190), []),
        (contents("linux/amd64", 200), contents("linux/arm64", 10), ["ImplausibleDifference"]),
        (contents("linux/amd64", 3, 90_000_000), contents("linux/arm64", 3, 5), ["ImplausibleDifference"]),
        (contents("linux/amd64", 3, 9_000_000), contents("linux/arm64", 3, 4_000_000), []),
        (contents("linux/amd64", 50), contents("linux/arm64", 50, 0, "g"), ["ImplausibleDifference"] * 2),
        (contents("linux/amd64", 3), contents("linux/arm64", 0), []),
    ],
)
def test_what_is_plausible(one: Contents, other: Contents, expected: list[str]) -> None:
    labels = [label("linux/amd64", layers=("a",)), label("linux/arm64", layers=("b",))]
    assert rules(check_alike(labels, [one, other])) == expected


def test_names_of_architectures_do_not_make_files_differ() -> None:
    amd64 = Image({f"usr/lib/x86_64-linux-gnu/lib{n}.so": Plain(b"") for n in range(30)}).evidence(
        "linux/amd64"
    )
    arm64 = Image({f"usr/lib/aarch64-linux-gnu/lib{n}.so": Plain(b"") for n in range(30)}).evidence(
        "linux/arm64"
    )
    assert Contents.of(amd64).names == Contents.of(arm64).names


def test_what_one_variant_lacks() -> None:
    image = Image({"bin/sh": elf("amd64")}, ("/app",))
    found = list(image.findings("linux/amd64"))
    assert [(f.severity, f.rule) for f in found] == [("warning", "MissingProgram")]
    amd64, arm64, windows = map(Platform.parse, ("linux/amd64", "linux/arm64", "windows/amd64"))
    assert raise_missing(found, [amd64])[0].severity == "warning"
    assert raise_missing(found, [amd64, windows])[0].severity == "warning"
    assert raise_missing(found, [amd64, arm64])[0].severity == "error"


# --- warnings -----------------------------------------------------------------------------------------------


def test_foreign_files_elsewhere_are_one_warning_a_layer() -> None:
    image = Image(
        {"app": elf("arm64")},
        layers=[{f"srv/tools/t{n}": elf("amd64") for n in range(9)}, {"opt/x": elf("amd64")}],
        history=["FROM x", "RUN |1 A=b /bin/sh -c make # buildkit", "/bin/sh -c #(nop) COPY x /opt/x"],
    )
    found = image.findings("linux/arm64")
    assert [(f.severity, f.rule, f.layer) for f in found] == [
        ("warning", "ForeignFiles", 2),
        ("warning", "ForeignFiles", 3),
    ]
    assert "/srv/tools/t0: it and /srv/tools/t1, /srv/tools/t2 and 6 more are for amd64" in str(found[0])
    assert found[1].instruction == "COPY x /opt/x"


def test_policies() -> None:
    warning = Finding(severity="warning", rule="ForeignFiles", message="m", path="opt/tools/x")
    note = Finding(severity="note", rule="ForeignOnPurpose", message="m")
    assert Policy("off").apply([warning]) == ()
    assert [f.severity for f in Policy("strict").apply([warning, note])] == ["error", "note"]
    for pattern in ("/opt/tools/*", "opt/tools", "*/x", "x", "ForeignFiles"):
        assert Policy(ignore=(pattern,)).apply([warning]) == (), pattern
    for pattern in ("/opt/tool", "y", "Foreign", "/x"):
        assert Policy(ignore=(pattern,)).apply([warning]) == (warning,), pattern
    assert read_ignore_file("# no\n/opt/x  # why\n\n*.so\n") == ("/opt/x", "*.so")


def test_refusing() -> None:
    image = Image({"app": elf("amd64"), "usr/bin/x": elf("amd64")})
    with pytest.raises(PolyarchError) as caught:
        refuse(image.findings("linux/arm64"))
    assert caught.value.reason == "wrong-architecture"
    assert "linux/arm64" in caught.value.summary and "/app" in caught.value.summary
    assert "/usr/bin/x" in caught.value.detail and "nothing was tagged" in caught.value.hint
    refuse([Finding(severity="warning", rule="ForeignFiles", message="m")])


# --- hostile files ------------------------------------------------------------------------------------------


@given(st.binary(max_size=400))
def test_no_bytes_crash_the_reader(data: bytes) -> None:
    of_bytes(b"\x7fELF" + data)
    of_bytes(b"MZ" + data)
    of_bytes(data)


MAGICS = [
    b"\x7fELF",
    b"MZ",
    b"\xcf\xfa\xed\xfe",
    b"\xfe\xed\xfa\xce",
    b"\xca\xfe\xba\xbe",
    b"\xca\xfe\xba\xbf",
    b"#!",
    b"\0asm",
]
NAME = re.compile(r"(?:|(?:elf|elf-object|pe|efi|macho|macho-object):[a-z0-9_/+-]*)")


@given(st.sampled_from(MAGICS), st.binary(max_size=1100))
def test_every_header_reads_as_something(magic: bytes, rest: bytes) -> None:
    """ELF, PE and Mach-O: a name of a machine, or none."""
    found = identify(magic + rest)
    assert NAME.fullmatch(found), found
    of_bytes(magic + rest)


@given(
    st.integers(0, 0xFFFF), st.sampled_from([1, 2]), st.sampled_from([1, 2]), st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 3, 4]),
)  # fmt: skip
def test_every_elf_machine_runs_on_its_own_platforms_alone(
    machine: int, width: int, order: int, flags: int, kind: int
) -> None:
    """No byte order, class or number that a platform's kernel does not take passes for that platform's."""
    sign = "<" if order == 1 else ">"
    head = b"\x7fELF" + bytes((width, order, 1)) + bytes(9) + struct.pack(sign + "HHI", kind, machine, 1)
    head += bytes(24 if width == 2 else 12) + struct.pack(sign + "I", flags) + bytes(20)
    name = identify(head)
    assert name.startswith("elf:" if kind in (2, 3) else "elf-object:")
    own = {"amd64": (62, 2, 1), "arm64": (183, 2, 1), "riscv64": (243, 2, 1), "s390x": (22, 2, 2),
           "ppc64le": (21, 2, 1), "loong64": (258, 2, 1)}  # fmt: skip
    for architecture, (number, wide, little) in own.items():
        runs = runs_on(name.partition(":")[2], Platform(os="linux", architecture=architecture))
        if (machine, width, order) == (number, wide, little):
            assert runs
        elif architecture in ("riscv64", "ppc64le", "loong64"):
            assert not runs


@given(st.integers(0, 0xFFFF), st.integers(0, 20), st.integers(64, 700))
def test_every_pe_header(machine: int, subsystem: int, offset: int) -> None:
    optional = bytearray(struct.pack("<H", 0x20B) + bytes(238))
    struct.pack_into("<H", optional, 68, subsystem)
    head = b"MZ" + bytes(58) + struct.pack("<I", offset) + bytes(offset - 64)
    name = identify(head + b"PE\0\0" + struct.pack("<HHIIIHH", machine, 1, 0, 0, 0, 240, 2) + bytes(optional))
    assert name.startswith("efi:" if subsystem in (10, 11, 12, 13) else "pe:")


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=29))
def test_every_fat_binary(machines: list[int]) -> None:
    head = b"\xca\xfe\xba\xbe" + struct.pack(">I", len(machines))
    head += b"".join(struct.pack(">IIIII", machine, 0, 0, 0, 0) for machine in machines)
    found = identify(head)
    assert found == "" or found.count("+") == len(machines) - 1


@given(st.sampled_from(sorted(MACHINES)), st.data())
def test_no_damaged_header_crashes_it(machine: str, data: st.DataObject) -> None:
    whole = bytearray(elf(machine, "/lib/ld.so", ["a.so", "b.so"], arm_version=7 if "arm/" in machine else 0))
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(4, len(whole) - 1))] = data.draw(st.integers(0, 255))
    of_bytes(bytes(whole[: data.draw(st.integers(5, len(whole)))]))


@pytest.mark.parametrize("machine", ["amd64", "386", "s390x", "ppc64", "arm/v7"])
def test_what_is_read_of_a_program(machine: str) -> None:
    data = elf(machine, "/lib/ld.so", ["libc.so.6", "libm.so.6"], run_path="/a:$ORIGIN/b")
    for program in (of_bytes(data), of_stream(io.BytesIO(data)), of_stream(_Pipe(data))):
        assert program.elf is not None
        assert program.elf.interpreter == "/lib/ld.so"
        assert program.elf.needed == ("libc.so.6", "libm.so.6")
        assert program.elf.run_path == ("/a", "$ORIGIN/b")


@pytest.mark.parametrize("version", [5, 6, 7])
def test_arm_attributes(version: int) -> None:
    found = elf_files.parse(lambda at, size: elf("arm/v7", arm_version=version)[at : at + size])
    assert found is not None and found.arm_version == version


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"#!/bin/sh\n", ("/bin/sh",)),
        (b"#! /usr/bin/env  -S node --x \nrest", ("/usr/bin/env", "-S node --x")),
        (b"#!/bin/sh", ("/bin/sh",)),
        (b"#!\n", ()),
    ],
)
def test_first_lines(line: bytes, words: tuple[str, ...]) -> None:
    assert of_bytes(line).script == words


def test_assemblies_are_known() -> None:
    assert of_bytes(pe(clr=True)).clr and not of_bytes(pe()).clr


class _Pipe(io.RawIOBase):
    """Bytes that cannot be looked at twice."""

    def __init__(self, data: bytes) -> None:
        self._inner = io.BytesIO(data)

    def seekable(self) -> bool:
        return False

    def read(self, size: int = -1, /) -> bytes:
        return self._inner.read(min(size, 7) if size > 0 else size)


# --- builds -------------------------------------------------------------------------------------------------


class Counting:
    """Counts how often bytes were asked for."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.opened = 0

    def __call__(self, entry: Entry) -> BinaryIO:
        self.opened += 1
        return io.BytesIO(self.files[entry.path])


def made(layers: LayerStore, files: dict[str, bytes]) -> tuple[Rootfs, Counting]:
    source = Counting(files)
    entries = [
        Entry(
            path,
            "file",
            0o755,
            size=len(data),
            digest="sha256:" + hashlib.sha256(data).hexdigest(),
            machine=identify(data),
        )
        for path, data in files.items()
    ]
    return Rootfs([layers.file_layer(Toc(tuple(entries)), source)]), source


@pytest.fixture
def layers(state: State) -> LayerStore:
    return LayerStore(state, Layout(state.content), DirectPrivilege())


def built(rootfs: Rootfs, platform: str) -> Built:
    wanted = Platform.parse(platform)
    config = ImageConfig(
        architecture=wanted.architecture, os=wanted.os, config=ContainerConfig(entrypoint=("/app",))
    )
    return Built(wanted, rootfs, config)


def test_a_build_is_proved_once(layers: LayerStore) -> None:
    rootfs, source = made(layers, {"app": elf("arm64", LOADERS["arm64"])})
    verdicts = MemoryCache()
    first = prove_built([built(rootfs, "linux/arm64")], layers, verdicts)
    assert rules(first) == ["MissingLoader"]
    opened = source.opened
    assert prove_built([built(rootfs, "linux/arm64")], layers, verdicts) == first
    assert source.opened == opened
    assert rules(prove_built([built(rootfs, "linux/amd64")], layers, verdicts)) == ["WrongArchitecture"]


def test_a_base_that_was_not_fetched_stays_where_it_is(layers: LayerStore, tmp_path: Path) -> None:
    from polyarch.oci.descriptor import Descriptor

    class Nowhere:
        def open(self, wanted: Descriptor) -> BinaryIO:
            raise AssertionError("the base was fetched for the proof")

    digest = "sha256:" + hashlib.sha256(os.urandom(9)).hexdigest()
    descriptor = Descriptor(
        media_type="application/vnd.oci.image.layer.v1.tar+gzip", digest=digest, size=99_000_000
    )
    base = layers.image_layer(descriptor, digest, Nowhere())  # type: ignore[arg-type]
    top, _ = made(layers, {"app": elf("amd64", LOADERS["amd64"])})
    one = built(Rootfs([base, *top.layers]), "linux/amd64")
    assert prove_built([one], layers, MemoryCache()) == ()
    assert not evidence_of(one, layers).complete
    wrong = built(one.rootfs, "linux/arm64")
    (finding,) = prove_built([wrong], layers, MemoryCache())
    assert (finding.rule, finding.layer) == ("WrongArchitecture", 2)


def test_a_library_is_no_program_of_path(layers: LayerStore) -> None:
    rootfs, _ = made(layers, {"app": elf("arm64"), "usr/bin/libx.so": library("amd64")})
    (finding,) = prove_built([built(rootfs, "linux/arm64")], layers, MemoryCache())
    assert finding.severity == "warning"
