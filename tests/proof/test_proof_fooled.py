"""Images made to fool the proof: the foreign program is what runs, but not what the command line says."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from proof_workshop import LOADERS, Files, Image, Plain, elf, library

from polyarch.proof.launching import Surroundings, in_text, launches

ARM64, AMD64 = elf("arm64"), elf("amd64")
TOOLS = "sh env tini dumb-init gosu su-exec su timeout nice setpriv busybox bash chroot sudo catatonit"
NATIVE: Files = {f"bin/{name}": ARM64 for name in TOOLS.split()}


def starting(*words: str, **files: object) -> Image:
    return Image({**NATIVE, "srv/app": AMD64, **files}, words)  # type: ignore[dict-item]


def script(text: str, *cmd: str, **more: object) -> Image:
    files: Files = {**NATIVE, "srv/app": AMD64, "start.sh": b"#!/bin/sh\n" + text.encode()}
    return Image(files, ("/start.sh",), cmd, **more)  # type: ignore[arg-type]


FOOLING: dict[str, Image] = {
    # --- command lines ------------------------------------------------------------------------------------
    "env with options": starting("env", "-u", "HOME", "-C", "/tmp", "A=b", "/srv/app"),
    "env in one word": starting("/bin/env", "-S", "A=b /srv/app --x"),
    "env changes the directory": starting("env", "-C", "/srv", "./app"),
    "nice with a number": starting("nice", "-n", "5", "/srv/app"),
    "timeout, setpriv and tini": starting("tini", "-g", "--", "timeout", "-k", "5", "9", "setpriv",
                                          "--reuid=1", "/srv/app"),
    "gosu": starting("gosu", "nobody:nogroup", "/srv/app"),
    "su with a text": starting("su", "-s", "/bin/sh", "nobody", "-c", "exec /srv/app"),
    "sudo": starting("sudo", "-E", "-u", "nobody", "/srv/app"),
    "chroot": starting("chroot", "/", "/srv/app"),
    "busybox's shell": starting("busybox", "sh", "-c", "/srv/app"),
    "the loader itself": Image({"lib/ld-linux-aarch64.so.1": library("arm64"), "srv/app": AMD64},
                               ("/lib/ld-linux-aarch64.so.1", "--library-path", "/lib", "/srv/app")),
    "a shell's options": starting("bash", "-o", "pipefail", "-euc", "exec /srv/app"),
    "a login shell": starting("bash", "-l", "-c", "/srv/app"),
    "a shell in a shell": starting("sh", "-c", "exec bash -c 'exec /srv/app'"),
    "the shell's arguments": starting("sh", "-c", 'exec "$0" "$@"', "/srv/app"),
    "the shell's first argument": starting("sh", "-c", "$1 --flag", "sh", "/srv/app"),
    "variables": Image({**NATIVE, "srv/app": AMD64}, ("sh", "-c", 'exec "$HOME_OF_APP/app"'),
                       env=["HOME_OF_APP=/srv"]),
    "variables of the text": starting("sh", "-c", "D=/srv; P=${D}/app; exec $P"),
    "a directory of the text": starting("sh", "-c", "cd /srv && ./app"),
    "a condition that tells nothing": starting("sh", "-c", "if [ -e /x ]; then true; else /srv/app; fi"),
    "a pipe": starting("sh", "-c", "true | /srv/app"),
    "a substitution": starting("sh", "-c", "X=$(/srv/app)"),
    "in the background": starting("sh", "-c", "/srv/app & wait"),
    "a PATH of the image": Image({**NATIVE, "srv/app": AMD64}, ("sh", "-c", "exec app"),
                                 env=["PATH=/bin:/srv"]),
    # --- scripts ------------------------------------------------------------------------------------------
    "exec at the end": script('set -e\n# starts it\nexec /srv/app "$@"\n'),
    "a script in a script": Image({**NATIVE, "srv/app": AMD64, "a.sh": b"#!/bin/sh\nexec /b.sh\n",
                                   "b.sh": b"#!/bin/sh\n/srv/app\n"}, ("/a.sh",)),
    "a script the shell reads": Image({**NATIVE, "srv/app": AMD64,
                                       "a.sh": Plain(b"#!/bin/sh\nexec /srv/app\n")}, ("sh", "/a.sh")),
    "behind functions and cases": script(
        'log() {\n  echo "$@"\n}\ncase "$1" in\n  -*) set -- /srv/app "$@";;\nesac\n'
        'log hi\nexec gosu nobody /srv/app\n'),
    "continued lines": script("exec \\\n  env A=b \\\n  /srv/app\n"),
    "the command of the image": script('exec "$@"\n', "/srv/app"),
    "a command in PATH": script('exec "$@"\n', "app", env=["PATH=/bin:/srv"]),
    "CR LF inside": script('exec /srv/app\r\n'),
    # --- what else runs -----------------------------------------------------------------------------------
    "a health check's text": Image({**NATIVE, "app": ARM64, "srv/app": AMD64},
                                   healthcheck=("CMD-SHELL", "/srv/app || exit 1")),
    "behind a link in the script": script("exec /current/app\n").__class__(
        {**NATIVE, "srv/app": AMD64, "current": "srv", "start.sh": b"#!/bin/sh\nexec /current/app\n"},
        ("/start.sh",)),
    "a service of s6": Image({**NATIVE, "init": b"#!/bin/sh\n", "srv/app": AMD64,
                              "etc/services.d/app/run": b"#!/usr/bin/with-contenv sh\nexec /srv/app\n",
                              "usr/bin/with-contenv": ARM64}, ("/init",)),
    "a service of runit": Image({**NATIVE, "sbin/runsvdir": ARM64, "srv/app": AMD64,
                                 "etc/service/app/run": b"#!/bin/sh\nexec 2>&1\nexec chpst -u app /srv/app\n",
                                 "bin/chpst": ARM64}, ("runsvdir", "/etc/service")),
    "hidden and put back": Image({**NATIVE, "srv/app": ARM64}, ("/srv/app",), layers=[{"srv/app": AMD64}]),
}  # fmt: skip


@pytest.mark.parametrize("name", FOOLING)
def test_it_is_not_fooled(name: str) -> None:
    found = [f for f in FOOLING[name].findings("linux/arm64") if f.severity == "error"]
    assert [(f.rule, f.path) for f in found] == [("WrongArchitecture", "srv/app")]


def header(machine: int, width: int, order: int) -> bytes:
    sign = "<" if order == 1 else ">"
    head = b"\x7fELF" + bytes((width, order, 1, 0)) + bytes(8) + struct.pack(sign + "HHI", 2, machine, 1)
    return head + bytes(200)


@pytest.mark.parametrize(
    ("platform", "data"),
    [
        ("amd64", header(62, 2, 2)),
        ("386", header(3, 2, 1)),
        ("386", header(3, 1, 2)),
        ("s390x", header(22, 2, 1)),
        ("riscv64", header(243, 2, 2)),
        ("arm/v7", header(40, 2, 1)),
        ("ppc64le", header(21, 1, 1)),
    ],
)
def test_byte_orders_and_classes_that_are_none(platform: str, data: bytes) -> None:
    (finding,) = Image({"app": data}).findings(f"linux/{platform}")
    assert (finding.severity, finding.rule) == ("error", "WrongArchitecture")


def test_programs_that_are_cut_off() -> None:
    whole = elf("arm64", LOADERS["arm64"], ["libc.so.6"])
    for size in (70, 130, len(whole) - 1):
        (finding,) = Image({"app": whole[:size]}).findings("linux/arm64")
        assert finding.severity == "error" and finding.rule in ("NotAProgram", "MissingLoader")
    assert not Image({"app": elf("arm64") + bytes(100)}).findings("linux/arm64")


SOUND: dict[str, Image] = {
    "a text that chooses": Image(
        {**NATIVE, "opt/x86_64/app": AMD64, "opt/other/app": ARM64, "start.sh": b"#!/bin/sh\n"
         b'case "$(uname -m)" in x86_64) exec /opt/x86_64/app;; *) exec /opt/other/app;; esac\n'},
        ("/start.sh",)),
    "by the emulator": Image({**NATIVE, "usr/bin/qemu-x86_64": ARM64, "opt/amd64/app": AMD64},
                             ("qemu-x86_64", "/opt/amd64/app")),
    "talking of it": Image({**NATIVE, "opt/amd64/app": AMD64, "start.sh":
                            b"#!/bin/sh\n# /opt/amd64/app\necho run /opt/amd64/app\nexec env true\n"},
                           ("/start.sh",)),
    "as an argument": Image({**NATIVE, "opt/amd64/app": AMD64}, ("sh", "-c", "cp /opt/amd64/app /tmp")),
    "a helper's helper is missing": Image({**NATIVE, "start.sh": b"#!/bin/sh\nif x; then /opt/y.py; fi\n",
                                           "opt/y.py": b"#!/usr/bin/python3\n"}, ("/start.sh",)),
    "a script that ends in exec": Image({**NATIVE, "start.sh": b'#!/bin/sh\nexec "$@"\n'},
                                        ("/start.sh",), ("env",)),
    "here documents": Image({**NATIVE, "start.sh": b"#!/bin/sh\ncat <<E\nx $(y) 'z\nE\nexec true\n"},
                            ("/start.sh",)),
}  # fmt: skip


@pytest.mark.parametrize("name", SOUND)
def test_and_does_not_cry_wolf(name: str) -> None:
    assert [f for f in SOUND[name].findings("linux/arm64") if f.severity != "note"] == []


# --- texts --------------------------------------------------------------------------------------------------


def started(text: str, *arguments: str, **environment: str) -> list[tuple[str, bool]]:
    around = Surroundings("/", environment, lambda name, directory: name.startswith("/"), arguments)
    return [(launch.name, launch.certain) for launch in in_text(text, around)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a; b && c || d", [("a", True), ("b", True), ("c", True), ("d", False)]),
        ("[ -x /a ] && /a", [("[", True), ("/a", False)]),
        ("if x; then y; fi; z", [("x", False), ("y", False), ("z", True)]),
        ("for i in a b; do /c $i; done", [("/c", False)]),
        ("case $1 in a) /x;; b|c) /y;; esac\n/z", [("/x", False), ("/y", False), ("/z", True)]),
        ("f() { /a; }\n/b", [("f", True), ("/a", False), ("/b", True)]),
        ("exec /a\n/b", [("exec", True), ("/a", True)]),
        ("exec 2>&1\n/a >/dev/null 2>/x </y && /b>z", [("exec", True), ("/a", True), ("/b", True)]),
        ("cat <<-'E' >/x\n/a\n  E\n/b", [("cat", True), ("/b", True)]),
        ("cat <<E\n/a $(\n", [("cat", True)]),
        ("X=1 /a $X", [("/a", True)]),
        ("$UNKNOWN/a", []),
        ("${X:-/a} b", [("/a", True)]),
        ("'/a' \"b c\"", [("/a", True)]),
        ("", []),
    ],
)
def test_texts(text: str, expected: list[tuple[str, bool]]) -> None:
    assert started(text) == expected


@given(st.text(alphabet=" \n\\'\"$(){}`;|&#=[]ifcasexcd/-.!*@0", max_size=60))
def test_no_text_crashes_it(text: str) -> None:
    started(text, "sh", "/a")


@given(
    st.lists(
        st.sampled_from(["sh", "-c", "env", "-S", "tini", "--", "/a", "exec /a", "-", "su", "A=b", "$@"])
    )
)
def test_no_words_crash_it(words: list[str]) -> None:
    list(launches(words, Surroundings("/", {}, lambda name, directory: True)))
