"""Images that run and look odd: no error and no warning."""

from __future__ import annotations

import pytest
from proof_workshop import LOADERS, Files, Hard, Image, Plain, elf, library, macho, pe

ARM64 = elf("arm64")
SH: Files = {"bin/sh": ARM64}
GLIBC: Files = {
    "lib/ld-linux-aarch64.so.1": library("arm64"),
    "lib/aarch64-linux-gnu/libc.so.6": library("arm64", ["ld-linux-aarch64.so.1"]),
}
MUSL: Files = {
    "lib/ld-musl-aarch64.so.1": library("arm64"),
    "lib/libc.musl-aarch64.so.1": "ld-musl-aarch64.so.1",
}
DYNAMIC = elf("arm64", LOADERS["arm64"], ["libc.so.6"])
MUSLED = elf("arm64", "/lib/ld-musl-aarch64.so.1", ["libc.musl-aarch64.so.1"])


def with_app(files: Files) -> Image:
    return Image({"app": ARM64, **SH, **files})


SOUND: dict[str, tuple[str, Image]] = {
    # --- programs that run ----------------------------------------------------------------------------------
    "386 on amd64": ("amd64", Image({"app": elf("386")})),
    "hard-float arm on arm64": ("arm64", Image({"app": elf("arm/v7")})),
    "soft-float arm on arm64": ("arm64", Image({"app": elf("arm/v5")})),
    "soft-float on v7": ("arm/v7", Image({"app": elf("arm/v5")})),
    "hard float on v6": ("arm/v6", Image({"app": elf("arm/v7", arm_version=6)})),
    "hard float on v6 that does not say": ("arm/v6", Image({"app": elf("arm/v7")})),
    "v7 by its attributes": ("arm/v7", Image({"app": elf("arm/v7", arm_version=7)})),
    "amd64/v3": ("amd64/v3", Image({"app": elf("amd64")})),
    "loong64": ("loong64", Image({"app": elf("loong64")})),
    "mips64le": ("mips64le", Image({"app": elf("mips64le")})),
    "riscv64, soft float and static": ("riscv64", Image({"app": elf("riscv64-soft")})),
    "dynamic with glibc": ("arm64", Image({"app": DYNAMIC, **GLIBC})),
    "dynamic with musl": ("arm64", Image({"app": MUSLED, **MUSL})),
    "libc.so is musl's loader": ("arm64", Image({
        "app": elf("arm64", "/lib/ld-musl-aarch64.so.1", ["libc.so"]),
        "lib/ld-musl-aarch64.so.1": library("arm64")})),
    "position-independent and static": ("arm64", Image({"app": elf("arm64", kind=3)})),
    "a library by its run path": ("arm64", Image({
        **GLIBC, "opt/x/bin/app": elf("arm64", LOADERS["arm64"], ["liba.so"], run_path="$ORIGIN/../lib"),
        "opt/x/lib/liba.so": library("arm64")}, ("/opt/x/bin/app",))),
    "a library that only ld.so.conf knows": ("arm64", Image({
        **GLIBC, "app": elf("arm64", LOADERS["arm64"], ["liba.so"]), "opt/odd/liba.so": library("arm64")})),
    "a library in LD_LIBRARY_PATH, a foreign one before it": ("arm64", Image({
        **GLIBC, "app": elf("arm64", LOADERS["arm64"], ["liba.so"]),
        "srv/x86_64/liba.so": library("amd64"), "srv/aarch64/liba.so": library("arm64")},
        env=["LD_LIBRARY_PATH=/srv/x86_64:/srv/aarch64"])),
    "a driver that the runtime brings": ("arm64", Image({
        **GLIBC, "app": elf("arm64", LOADERS["arm64"], ["libcuda.so.1", "libc.so.6"])})),
    "NixOS's store": ("arm64", Image({
        "nix/store/a-glibc/lib/ld-linux-aarch64.so.1": library("arm64"),
        "nix/store/b-hello/bin/hello": elf("arm64", "/nix/store/a-glibc/lib/ld-linux-aarch64.so.1"),
        "bin/hello": "/nix/store/b-hello/bin/hello"}, ("hello",))),
    # --- how they are found ---------------------------------------------------------------------------------
    "busybox": ("arm64", Image(
        {"bin/busybox": ARM64, "bin/sh": "busybox", "bin/ls": "/bin/busybox"}, ("ls",))),
    "toybox, hardlinked": ("arm64", Image({"bin/sh": ARM64, "bin/ls": Hard("bin/sh")}, ("ls",))),
    "a script": ("arm64", Image({**SH, "app": b"#! /bin/sh -e\nexec true\n"})),
    "a script through env": ("arm64", Image({
        **SH, "usr/bin/env": ARM64, "usr/bin/python3": "python3.11", "usr/bin/python3.11": ARM64,
        "app": b"#!/usr/bin/env python3\n"})),
    "a line that chooses": ("arm64", Image(
        {**SH, "opt/amd64/x": elf("amd64"), "opt/arm64/x": ARM64},
        ("sh", "-c", "if [ -x /y ]; then /opt/amd64/x; else /opt/arm64/x; fi"))),
    "merged usr": ("arm64", Image({"bin": "usr/bin", "lib": "usr/lib", "usr/bin/sh": ARM64}, ("/bin/sh",))),
    "no start at all": ("arm64", Image({"data": Plain(b"x")}, ())),
    "data alone": ("arm64", Image({"data": Plain(b"x")}, ())),
    "an empty image": ("arm64", Image({}, ())),
    "a program that a volume brings": ("arm64", Image({**SH}, ("/plugins/run",), volumes=["/plugins"])),
    "a WebAssembly module": ("arm64", Image({"app": b"\0asm\1\0\0\0"})),
    "a foreign file that was replaced": ("arm64", Image(
        {"app": elf("amd64"), **SH}, layers=[{"app": ARM64}])),
    # --- foreign on purpose ---------------------------------------------------------------------------------
    "emulators": ("arm64", with_app({"usr/bin/qemu-x86_64-static": elf("amd64"),
                                     "usr/bin/qemu-riscv64": elf("amd64")})),
    "a cross toolchain's libraries": ("arm64", with_app({
        "usr/x86_64-linux-gnu/lib/libc.so.6": library("amd64"),
        "usr/lib/gcc-cross/s390x-linux-gnu/12/libgcc_s.so": library("s390x")})),
    "multiarch": ("arm64", with_app({
        "usr/lib/x86_64-linux-gnu/libc.so.6": library("amd64"), "lib/ld-linux.so.2": library("386"),
        "lib64/ld-linux-x86-64.so.2": library("amd64"), "lib/ld64.so.1": library("s390x")})),
    "multilib": ("amd64", Image({"app": elf("amd64"), "usr/lib32/libc.so.6": library("386"),
                                 "usr/libx32/libc.so.6": library("x32")})),
    "firmware": ("arm64", with_app({"lib/firmware/blob.elf": elf("avr"),
                                    "usr/share/qemu/s390-ccw.img": elf("s390x"),
                                    "usr/lib/firmware/x/fw": elf("386")})),
    "BPF, CUDA and object files": ("arm64", with_app({
        "usr/lib/probe.o": elf("bpf", kind=1), "opt/app/probe": elf("bpf"),
        "opt/app/kernel.cubin": elf("cuda"), "opt/app/x.o": elf("amd64", kind=1)})),
    "EFI, launchers for Windows, .NET, macOS libraries": ("arm64", with_app({
        "usr/lib/python3/dist-packages/distlib/t64.exe": pe(), "opt/dotnet/System.dll": pe(0x14C, clr=True),
        "opt/x/libx.dylib": macho()})),
    "Go's test data": ("arm64", with_app({"usr/local/go/src/debug/elf/testdata/go-relocation": elf("386"),
                                          "usr/lib/go/pkg/tool/linux_amd64/asm": elf("amd64")})),
    "rustlib": ("arm64", with_app({
        "root/.rustup/toolchains/x/lib/rustlib/x86_64-unknown-linux-gnu/lib/libstd.so": library("amd64")})),
    "prebuilt for every architecture": ("arm64", with_app({
        "srv/node_modules/x/prebuilds/linux-x64/x.node": library("amd64"),
        "srv/node_modules/esbuild-linux-64/bin/e": elf("arm64"),
        "srv/runtimes/linux-x86/native/liby.so": library("386"),
        "srv/bin/tool-amd64": elf("amd64"), "usr/local/bin/tool-x86_64": elf("amd64")})),
    "debugpy": ("arm64", with_app({
        "usr/lib/python3/site-packages/debugpy/attach_linux_amd64.so": library("amd64")})),
    "Node's modules for both": ("arm64", with_app({
        "srv/node_modules/x/build/Release/x.node": library("arm64"),
        "srv/node_modules/x/prebuilds/linux-x64/x.node": library("amd64"),
        "srv/node_modules/fsevents/fsevents.node": macho()})),
    "a Python module for both": ("arm64", with_app({
        "usr/lib/python3/dist-packages/_x.cpython-311-x86_64-linux-gnu.so": library("amd64"),
        "usr/lib/python3/dist-packages/_x.cpython-311-aarch64-linux-gnu.so": library("arm64")})),
    "helpers of arch-test": ("arm64", with_app({"usr/lib/arch-test/ppc64": elf("ppc64"),
                                                "usr/lib/arch-test/x": elf("sparc64")})),
    "a system of another architecture": ("arm64", with_app({"srv/sysroot-amd64/bin/ls": elf("amd64")})),
    # --- Windows --------------------------------------------------------------------------------------------
    "Windows": ("windows/amd64", Image({"Files/Windows/System32/cmd.exe": pe()}, ("cmd",))),
    "386 on Windows": ("windows/amd64", Image({"Files/app/x.exe": pe(0x14C)}, (r"C:\app\x.exe",))),
    ".NET on Windows": ("windows/arm64", Image(
        {"Files/app/x.exe": pe(0x8664, clr=True)}, (r"C:\app\x.exe",))),
    "a command of cmd.exe": ("windows/amd64", Image({}, ("dir",))),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_it_passes(name: str) -> None:
    platform, image = SOUND[name]
    findings = image.findings(platform if "/" in platform and "win" in platform else f"linux/{platform}")
    assert [str(f) for f in findings if f.severity != "note"] == []
    assert sum(f.severity == "note" for f in findings) <= 1


def test_there_are_enough() -> None:
    assert len(SOUND) >= 40


def test_what_lies_there_on_purpose_is_one_line() -> None:
    platform, image = SOUND["multiarch"]
    (note,) = image.findings(f"linux/{platform}")
    assert "3 " in note.message or "loaders" in note.message
