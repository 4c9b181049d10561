"""``polyarch verify``: images of stores and registries, read layer by layer; runs that are compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from proof_store import Listed, store
from proof_workshop import LOADERS, Hard, Image, Plain, elf, library

from polyarch.cli.main import main
from polyarch.cli.trial import Run, compare
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.errors import ContentError
from polyarch.image.inspect import inspect
from polyarch.layer.tar_reader import TarReader
from polyarch.proof.image import Report, verify
from polyarch.proof.scanned import scan

GLIBC = {
    "lib/ld-linux-aarch64.so.1": library("arm64"),
    "usr/lib/libc.so.6": library("arm64"),
}


def report(layout: Layout, variants: list[Listed]) -> Report:
    root = store(layout, "docker.io/library/x:1", variants)
    return verify(inspect(layout, root, name="x:1"), layout)


def errors(found: Report) -> list[str]:
    return [f"{f.platform} {f.rule} {f.path}" for f in found.all if f.severity == "error"]


@pytest.fixture
def layout(state: State) -> Layout:
    return Layout(state.content)


def test_a_sound_image(layout: Layout) -> None:
    arm64 = Image({**GLIBC, "app": elf("arm64", LOADERS["arm64"], ["libc.so.6"]), "data": Plain(b"x")})
    found = report(
        layout, [Listed("linux/amd64", Image({"app": elf("amd64")})), Listed("linux/arm64", arm64)]
    )
    assert found.sound and not found.all
    assert [(v.platform, v.layers, v.files, v.programs) for v in found.variants] == [
        ("linux/amd64", 1, 1, 1),
        ("linux/arm64", 1, 4, 3),
    ]


def test_whole_of_another_architecture(layout: Layout) -> None:
    amd64 = Image({"app": elf("amd64")})
    found = report(layout, [Listed("linux/amd64", amd64), Listed("linux/arm64", amd64)])
    assert errors(found) == ["linux/arm64 WrongArchitecture app"]
    assert [f.rule for f in found.findings] == ["IdenticalVariants"]


def test_loaders_and_libraries_are_looked_at(layout: Layout) -> None:
    app = elf("arm64", LOADERS["arm64"], ["libc.so.6", "libgone.so"])
    found = report(layout, [Listed("linux/arm64", Image({**GLIBC, "app": app}))])
    assert errors(found) == ["linux/arm64 MissingLibrary app"]


def test_links_whiteouts_and_large_files(layout: Layout) -> None:
    image = Image(
        {"bin/a": elf("arm64"), "bin/b": Hard("bin/a"), "old": elf("amd64"), "bin/sh": "b"},
        ("b",),
        layers=[{".wh.old": Plain(b""), "big": Plain(bytes(5 << 20))}],
    )
    assert not report(layout, [Listed("linux/arm64", image)]).all


def test_the_config_says_something_else(layout: Layout) -> None:
    image = Image({"app": elf("arm64")})
    other = Image({"app": elf("amd64")})
    found = report(layout, [Listed("linux/arm64", image, "linux/arm/v7"), Listed("linux/amd64", other)])
    assert errors(found) == ["linux/arm64 PlatformMismatch "]


def test_a_layer_that_is_not_what_the_config_says(layout: Layout) -> None:
    with pytest.raises(ContentError, match="not what its image says"):
        report(layout, [Listed("linux/arm64", Image({"app": elf("arm64")}), wrong_diff_id=True)])


def test_a_program_is_known_however_the_stream_is_cut(layout: Layout) -> None:
    """A reader that hands out slivers must not hide what a file is."""
    from proof_store import tar_of

    class Slivers:
        def __init__(self, data: bytes, size: int) -> None:
            self.data, self.size = data, size

        def read(self, size: int) -> bytes:
            piece, self.data = self.data[: min(size, self.size)], self.data[min(size, self.size) :]
            return piece

    program = elf("s390x") + bytes(5000)
    for size in (1, 7, 511, 513, 1500):
        reader = TarReader(Slivers(tar_of({"a": program}), size))  # type: ignore[arg-type]
        for _ in reader:
            assert next(iter(reader.chunks())) == program[: len(program)][:1024] or size > 1024
    descriptor = layout.push_bytes(tar_of({"a": program}), "application/vnd.oci.image.layer.v1.tar")
    layer = scan(layout, descriptor, descriptor.digest)
    assert [e.machine for e in layer.toc().entries if e.path == "a"] == ["elf:s390x"]


# --- the command --------------------------------------------------------------------------------------------


def test_the_command(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    good = Image({"app": elf("arm64")})
    bad = Image({"app": elf("amd64"), "opt/x": elf("s390x")}, history=["COPY app /app"])
    store(layout, "docker.io/team/app:1", [Listed("linux/arm64", good), Listed("linux/riscv64", bad)])
    assert main(["verify", "team/app:1"]) == 1
    shown = capsys.readouterr().out
    assert "linux/arm64      sound" in shown and "linux/riscv64    wrong" in shown
    assert "error   WrongArchitecture: /app: it is a program for amd64" in shown
    assert "COPY app /app" in shown
    assert main(["verify", "team/app:1", "--platform", "linux/arm64"]) == 0
    assert main(["verify", "team/app:1", "--json", "--proof-ignore", "/app"]) == 0
    data = json.loads(capsys.readouterr().out.rpartition("is what its label says\n")[2])
    assert [f["rule"] for f in data["variants"][1]["findings"]] == ["ForeignFiles"]
    assert main(["verify", "team/app:1", "--proof-ignore", "/app", "--proof", "strict"]) == 1
    assert main(["verify", "team/app:1", "--platform", "linux/s390x"]) == 1
    assert main(["verify", "team/app:1", "true"]) == 2
    assert main(["verify", "oci-layout://" + str(layout.root), "--platform", "linux/arm64"]) == 0


def test_in_a_registry(layout: Layout, registry: str, tmp_path: Path, state: State) -> None:
    from polyarch import api

    store(layout, "docker.io/team/app:1", [Listed("linux/arm64", Image({"app": elf("amd64")}))])
    name = f"{registry}/team/app:1"
    api.push("team/app:1", to=name, root=state.root)
    before = sorted(path for path in state.content.rglob("*") if path.is_file())
    assert main(["verify", "--remote", name]) == 1
    assert sorted(path for path in state.content.rglob("*") if path.is_file()) == before


# --- runs ---------------------------------------------------------------------------------------------------


def ran(platform: str, code: int = 0, output: str = "", problem: str = "") -> Run:
    return Run(platform=platform, how="native", code=code, output=output, problem=problem)


@pytest.mark.parametrize(
    ("runs", "strict", "errors", "warnings"),
    [
        ([ran("linux/amd64", 0, "x86_64\n"), ran("linux/arm64", 0, "aarch64\n")], True, 0, 0),
        ([ran("linux/amd64", 0, "1\n"), ran("linux/arm64", 0, "2\n")], True, 1, 0),
        ([ran("linux/amd64", 0, "1\n"), ran("linux/arm64", 0, "2\n")], False, 0, 1),
        ([ran("linux/amd64", 0), ran("linux/arm64", 139)], False, 1, 0),
        ([ran("linux/amd64", 0), ran("linux/arm64", problem="no emulator")], False, 1, 0),
        ([ran("linux/amd64", 1), ran("linux/arm64", 1)], False, 0, 0),
        ([ran("linux/amd64", 1), ran("linux/arm64", 1)], True, 1, 0),
    ],
)
def test_comparing(runs: list[Run], strict: bool, errors: int, warnings: int) -> None:
    trial = compare(runs, strict=strict)
    assert (len(trial.errors), len(trial.warnings), trial.alike) == (errors, warnings, not errors)


@pytest.mark.userns
@pytest.mark.qemu
@pytest.mark.network
def test_running_every_variant(busybox: str, state: State, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", busybox, "--run", "--", "sh", "-c", "uname -m"]) == 0
    shown = capsys.readouterr().out
    assert "every variant ran, and alike" in shown and "emulated" in shown
    assert main(["verify", busybox, "--run", "--", "sh", "-c", "test $(uname -m) = x86_64"]) == 1
    assert "ended with" in capsys.readouterr().out


@pytest.mark.userns
@pytest.mark.network
def test_what_was_proved_is_what_runs(busybox: str, state: State, registry: str, layout: Layout) -> None:
    """With --remote the registry's image runs, whatever the local store has under its name."""
    from polyarch import api
    from polyarch.oci.platform import host

    name = f"{registry}/team/app:1"
    api.push(busybox, to=name, root=state.root)
    store(layout, name, [Listed(str(host()), Image({"app": elf("s390x")}))])
    words = ["--platform", str(host()), "--run", "--", "sh", "-c", "echo ran"]
    assert main(["verify", "--remote", name, *words]) == 0
    assert main(["verify", name, *words]) == 1
