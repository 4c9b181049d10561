"""Images that cannot run, each broken in one way: the proof says which, and of which file."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from proof_workshop import LOADERS, Hard, Image, Plain, elf, library, macho, pe

SCRIPT = b"#!/bin/sh\nexec true\n"


@dataclass
class Broken:
    platform: str
    image: Image
    rule: str
    path: str = ""
    says: str = ""


def on(platform: str, rule: str, path: str, says: str, image: Image) -> Broken:
    return Broken(f"linux/{platform}", image, rule, path, says)


def app(data: bytes, **more: object) -> Image:
    return Image({"app": data}, **more)  # type: ignore[arg-type]


NATIVE = {name: elf(name) for name in ("amd64", "arm64", "arm/v7", "386", "riscv64", "s390x", "ppc64le")}
PAIRS = [
    (program, platform)
    for program in NATIVE
    for platform in NATIVE
    if program != platform and (program, platform) not in (("386", "amd64"), ("arm/v7", "arm64"))
]
GLIBC = {
    "amd64": {"lib64/ld-linux-x86-64.so.2": library("amd64"), "lib/libc.so.6": library("amd64")},
    "arm64": {"lib/ld-linux-aarch64.so.1": library("arm64"), "lib/libc.so.6": library("arm64")},
}

BROKEN: dict[str, Broken] = {
    # --- whose machine ------------------------------------------------------------------------------------
    "x32 program": on("amd64", "WrongArchitecture", "app", "x32", app(elf("x32"))),
    "big-endian arm64": on("arm64", "WrongArchitecture", "app", "arm64be", app(elf("arm64be"))),
    "big-endian ppc64": on("ppc64le", "WrongArchitecture", "app", "ppc64", app(elf("ppc64"))),
    "little-endian on s390x": on("s390x", "WrongArchitecture", "app", "amd64", app(elf("amd64"))),
    "a machine nobody knows": on("amd64", "WrongArchitecture", "app", "machine-4711", app(elf("unknown"))),
    "a BPF program": on("amd64", "WrongArchitecture", "app", "bpf", app(elf("bpf"))),
    "FreeBSD's": on("amd64", "WrongArchitecture", "app", "FreeBSD", app(elf("amd64", system=9))),
    "an object file": on("amd64", "NotAProgram", "app", "object file", app(elf("amd64", kind=1))),
    "v7 code on v6": on("arm/v6", "WrongArchitecture", "app", "arm/v7", app(elf("arm/v7", arm_version=7))),
    "hard float on v5": on("arm/v5", "WrongArchitecture", "app", "arm/v7", app(elf("arm/v7"))),
    "Windows program": on("amd64", "WrongArchitecture", "app.exe", "Windows",
                          Image({"app.exe": pe()}, ("/app.exe",))),
    "macOS program": on("arm64", "WrongArchitecture", "app", "macOS", app(macho())),
    # --- how it is found ----------------------------------------------------------------------------------
    "through PATH": on("arm64", "WrongArchitecture", "opt/bin/tool", "amd64",
                       Image({"opt/bin/tool": elf("amd64")}, ("tool",), env=["PATH=/opt/bin"])),
    "relative to the directory": on("arm64", "WrongArchitecture", "srv/run", "amd64",
                                    Image({"srv/run": elf("amd64")}, ("./run",), directory="/srv")),
    "through a chain of links": on("arm64", "WrongArchitecture", "opt/v2/bin/x", "amd64", Image(
        {"opt/v2/bin/x": elf("amd64"), "opt/current": "v2", "usr/bin/x": "/etc/alternatives/x",
         "etc/alternatives/x": "../../opt/current/bin/x"}, ("x",))),
    "a circle of links": on("amd64", "BrokenLink", "", "circle", Image({"app": "b", "b": "app"})),
    "a link to nothing": on("amd64", "BrokenLink", "app", "/opt/gone", Image({"app": "/opt/gone"})),
    "by a hardlink": on("arm64", "WrongArchitecture", "usr/bin/b", "amd64",
                        Image({"usr/bin/a": elf("amd64"), "usr/bin/b": Hard("usr/bin/a")}, ("b",))),
    "not executable": on("amd64", "NotExecutable", "app", "0644", Image({"app": Plain(elf("amd64"))})),
    "empty": on("amd64", "EmptyProgram", "app", "empty", app(b"")),
    "a page in place of a program": on("amd64", "NotAProgram", "app", "neither", app(b"<!DOCTYPE html>")),
    "a script without #!": on("amd64", "NotAProgram", "app", "neither", app(b"echo hello\n")),
    "busybox applets of another machine": on("arm64", "MislabelledBase", "bin/busybox", "amd64", Image(
        {"bin/busybox": elf("amd64"), "bin/sh": "busybox", "bin/ls": "busybox"}, ("ls",))),
    "multi-call binary, hardlinked": on("s390x", "MislabelledBase", "bin/sh", "riscv64", Image(
        {"bin/busybox": elf("riscv64"), "bin/sh": Hard("bin/busybox")}, ("sh",))),
    "mislabelled base below a right program": on("arm64", "MislabelledBase", "bin/dash", "amd64", Image(
        {"bin/dash": elf("amd64"), "bin/sh": "dash", "app": elf("arm64")})),
    "distroless-like": on("arm64", "WrongArchitecture", "app", "amd64", Image(
        {"etc/passwd": Plain(b"root:x:0:0::/:\n"), "usr/lib/os-release": Plain(b"ID=x\n")},
        layers=[{"app": elf("amd64")}])),
    "replaced in an upper layer": on("amd64", "WrongArchitecture", "app", "arm64", Image(
        {"app": elf("amd64")}, layers=[{"app": elf("arm64")}], history=["COPY a", "COPY app /app"])),
    "behind tini": on("arm64", "WrongArchitecture", "app", "amd64", Image(
        {"sbin/tini": elf("arm64"), "app": elf("amd64")}, ("/sbin/tini", "--", "/app"))),
    "in the shell form": on("arm64", "WrongArchitecture", "app", "amd64", Image(
        {"bin/sh": elf("arm64"), "app": elf("amd64")}, ("/bin/sh", "-c", "exec /app --serve"))),
    "behind env": on("arm64", "WrongArchitecture", "app", "amd64", Image(
        {"usr/bin/env": elf("arm64"), "app": elf("amd64")}, ("/usr/bin/env", "-i", "A=b", "/app"))),
    "behind timeout and gosu": on("arm64", "WrongArchitecture", "app", "amd64", Image(
        {"bin/timeout": elf("arm64"), "bin/gosu": elf("arm64"), "app": elf("amd64")},
        ("timeout", "5", "gosu", "nobody", "/app"))),
    "at the end of a line": on("arm64", "WrongArchitecture", "srv/app", "amd64", Image(
        {"bin/sh": elf("arm64"), "srv/app": elf("amd64")},
        ("/bin/sh", "-ec", "cd /srv && A=1 exec /srv/app"))),
    "the command behind a script": on("arm64", "WrongArchitecture", "srv/server", "amd64", Image(
        {"bin/sh": elf("arm64"), "start.sh": SCRIPT, "srv/server": elf("amd64")},
        ("/start.sh",), ("/srv/server",))),
    "the health check": on("arm64", "WrongArchitecture", "probe", "amd64", Image(
        {"app": elf("arm64"), "probe": elf("amd64")}, healthcheck=("CMD", "/probe"))),
    # --- what it needs ------------------------------------------------------------------------------------
    "no interpreter": on("amd64", "MissingInterpreter", "app", "/usr/bin/python3",
                         app(b"#!/usr/bin/python3\n")),
    "a foreign interpreter": on("arm64", "WrongArchitecture", "usr/bin/python3", "amd64", Image(
        {"app": b"#!/usr/bin/python3\n", "usr/bin/python3": elf("amd64")})),
    "env finds nothing": on("amd64", "MissingInterpreter", "app", "node", Image(
        {"app": b"#!/usr/bin/env node\n", "usr/bin/env": elf("amd64")})),
    "env finds a foreign one": on("arm64", "WrongArchitecture", "usr/local/bin/node", "amd64", Image(
        {"app": b"#!/usr/bin/env -S node --no-warnings\n", "usr/bin/env": elf("arm64"),
         "usr/local/bin/node": elf("amd64")})),
    "CR LF": on("amd64", "MissingInterpreter", "app", "CR LF", Image(
        {"app": b"#!/bin/sh\r\n", "bin/sh": elf("amd64")})),
    "no loader": on("arm64", "MissingLoader", "app", "aarch64", app(elf("arm64", LOADERS["arm64"]))),
    "glibc's on musl": on("amd64", "MissingLoader", "app", "musl", Image(
        {"app": elf("amd64", LOADERS["amd64"]), "lib/ld-musl-x86_64.so.1": library("amd64")})),
    "a foreign loader": on("arm64", "WrongArchitecture", "lib/ld-linux-aarch64.so.1", "amd64", Image(
        {"app": elf("arm64", LOADERS["arm64"]), "lib/ld-linux-aarch64.so.1": library("amd64")})),
    "no library": on("arm64", "MissingLibrary", "app", "libssl.so.3", Image(
        {**GLIBC["arm64"], "app": elf("arm64", LOADERS["arm64"], ["libssl.so.3", "libc.so.6"])})),
    "no library of a library": on("arm64", "MissingLibrary", "usr/lib/liba.so", "libb.so", Image(
        {**GLIBC["arm64"], "app": elf("arm64", LOADERS["arm64"], ["liba.so"]),
         "usr/lib/liba.so": library("arm64", ["libb.so"])})),
    "a foreign library": on("arm64", "ForeignLibrary", "opt/lib/liba.so", "amd64", Image(
        {**GLIBC["arm64"], "app": elf("arm64", LOADERS["arm64"], ["liba.so"], run_path="$ORIGIN/opt/lib"),
         "opt/lib/liba.so": library("amd64")})),
    "soft float on a hard-float loader": on("arm/v7", "WrongAbi", "lib/ld-linux-armhf.so.3", "float", Image(
        {"app": elf("arm/v5", LOADERS["arm/v7"]), "lib/ld-linux-armhf.so.3": library("arm/v7")})),
    "RISC-V's float calling convention": on("riscv64", "WrongAbi", "lib/ld-linux-riscv64-lp64d.so.1",
                                            "float", Image(
        {"app": elf("riscv64-soft", LOADERS["riscv64"]),
         "lib/ld-linux-riscv64-lp64d.so.1": library("riscv64")})),
    # --- what nobody starts at once -----------------------------------------------------------------------
    "a tool in PATH": on("arm64", "WrongArchitecture", "usr/local/bin/helper", "amd64", Image(
        {"app": elf("arm64"), "usr/local/bin/helper": elf("amd64")})),
    "a tool that a link in PATH finds": on("arm64", "WrongArchitecture", "opt/node/bin/node", "PATH", Image(
        {"app": elf("arm64"), "opt/node/bin/node": elf("amd64"), "usr/bin/node": "/opt/node/bin/node"})),
    "a PATH through a link": on("arm64", "WrongArchitecture", "usr/bin/helper", "amd64", Image(
        {"app": elf("arm64"), "bin": "usr/bin", "usr/bin/helper": elf("amd64")}, env=["PATH=/bin"])),
    "a library where loaders look": on("arm64", "ForeignLibrary", "usr/local/lib/libmine.so.1", "amd64",
                                       Image({"app": elf("arm64"),
                                              "usr/local/lib/libmine.so.1": library("amd64")})),
    "a Python module": on("arm64", "ForeignLibrary",
                          "venv/lib/python3.11/site-packages/x/_x.cpython-311-x86_64-linux-gnu.so",
                          "Python module", Image({
        "app": elf("arm64"),
        "venv/lib/python3.11/site-packages/x/_x.cpython-311-x86_64-linux-gnu.so": library("amd64")})),
    "a Node module": on("arm64", "ForeignLibrary", "srv/node_modules/b/build/Release/b.node", "Node", Image({
        "app": elf("arm64"), "srv/node_modules/b/build/Release/b.node": library("amd64")})),
    "a PHP module": on("arm64", "ForeignLibrary",
                       "usr/local/lib/php/extensions/no-debug-non-zts-20220829/redis.so", "PHP", Image({
        "app": elf("arm64"),
        "usr/local/lib/php/extensions/no-debug-non-zts-20220829/redis.so": library("amd64")})),
    # --- Windows ------------------------------------------------------------------------------------------
    "amd64 on Windows for arm64": Broken("windows/arm64", Image(
        {"Files/app/run.exe": pe()}, (r"C:\App\run.exe",)),
        "WrongArchitecture", "Files/app/run.exe", "amd64"),
    "behind cmd": Broken("windows/arm64", Image(
        {"Files/Windows/System32/cmd.exe": pe(0xAA64), "Files/app/run.exe": pe()},
        ("cmd", "/S", "/C", r'cd \app && "C:\app\run.exe" --x')),
        "WrongArchitecture", "Files/app/run.exe", "amd64"),
    "behind PowerShell": Broken("windows/arm64", Image(
        {"Files/tools/run.exe": pe()}, ("powershell", "-Command", "run --x"), env=[r"PATH=C:\Tools"]),
        "WrongArchitecture", "Files/tools/run.exe", "amd64"),
    "a Linux program on Windows": Broken("windows/amd64", Image(
        {"Files/app/run": elf("amd64")}, (r"C:\app\run",)), "WrongArchitecture", "Files/app/run", "elf"),
    "in Windows' PATH": Broken("windows/amd64", Image(
        {"Files/tools/run.exe": pe(0xAA64)}, ("run",), env=[r"Path=C:\Windows;c:\Tools"]),
        "WrongArchitecture", "Files/tools/run.exe", "arm64"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_it_is_found(name: str) -> None:
    broken = BROKEN[name]
    findings = broken.image.findings(broken.platform)
    found = [f for f in findings if f.severity == "error"]
    assert [(f.rule, f.path) for f in found] == [(broken.rule, broken.path)], findings
    assert broken.says in str(found[0])
    assert found[0].platform == str(broken.platform)


@pytest.mark.parametrize(("program", "platform"), PAIRS)
def test_every_pair_static_and_dynamic(program: str, platform: str) -> None:
    for data in (elf(program), elf(program, LOADERS[program])):
        (finding,) = app(data).findings(f"linux/{platform}")
        assert (finding.severity, finding.rule, finding.machine) == ("error", "WrongArchitecture", program)


def test_who_put_it_there() -> None:
    image = BROKEN["replaced in an upper layer"].image
    (finding,) = image.findings("linux/amd64")
    assert (finding.layer, finding.instruction) == (2, "COPY app /app")
    assert str(finding).endswith("(layer 2: COPY app /app)")


def test_there_are_enough() -> None:
    assert len(BROKEN) + len(PAIRS) >= 80
