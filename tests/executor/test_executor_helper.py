"""The helper process itself: its death, what it is protected by, and what older kernels need."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from polyarch.content.state import State
from polyarch.errors import PolyarchError
from polyarch.executor import idmap, seccomp, syscalls
from polyarch.executor.sandbox import Sandbox
from polyarch.executor.spec import Process, RootFilesystem
from polyarch.oci import platform as platforms

pytestmark = pytest.mark.userns
ROOT = os.geteuid() == 0 and syscalls.may_mount()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def with_steps(helper: int) -> list[int]:
    """The helper's children that have grandchildren: a step before may still be on its way out."""
    found = []
    for pid in children(helper):
        try:
            if any(children(first) for first in children(pid)):
                found.append(pid)
        except OSError:
            continue
    return found


@pytest.fixture
def own(busybox_root, tmp_path, emulators):
    """A sandbox of one test's own, the pid of its helper, and how to run a command in it."""
    with Sandbox.start(State(tmp_path / "state"), emulators=emulators) as sandbox:

        def run(*words):
            process = Process(words, platforms.host(), ("PATH=/bin",))
            root = RootFilesystem((busybox_root,))
            return sandbox.run(process, root, (), lambda s, d: None, threading.Event()).code

        assert run("true") == 0
        yield run, sandbox._connection._process.pid


@pytest.mark.parametrize("victim", ["helper", "supervisor"])
def test_its_death_ends_the_step(own, victim):
    run, helper = own
    marker = f"48{os.getpid()}"
    outcome = []

    def step():
        try:
            outcome.append(run("sleep", marker))
        except PolyarchError as error:
            outcome.append(error.reason)

    thread = threading.Thread(target=step)
    thread.start()
    deadline = time.monotonic() + 20
    while not (supervisors := with_steps(helper)) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    os.kill(helper if victim == "helper" else supervisors[0], signal.SIGKILL)
    thread.join(10)
    assert not thread.is_alive()
    assert outcome == ["step-vanished"]
    if victim == "helper":
        with pytest.raises(PolyarchError, match="gone"):
            run("true")
    else:
        assert run("true") == 0


def test_its_interpreter_is_seen_through_a_read_only_mount(own):
    _, helper = own
    descriptor = os.open(f"/proc/{helper}/exe", os.O_RDONLY)
    try:
        assert os.fstatvfs(descriptor).f_flag & os.ST_RDONLY
    finally:
        os.close(descriptor)


def test_it_has_one_thread_and_no_environment_of_ours(own, monkeypatch):
    _, helper = own
    assert len(os.listdir(f"/proc/{helper}/task")) == 1
    names = {
        line.partition(b"=")[0] for line in Path(f"/proc/{helper}/environ").read_bytes().split(b"\0") if line
    }
    assert names <= {b"PATH", b"LC_CTYPE"}


@pytest.mark.skipif(not ROOT, reason="mounts without a user namespace need root")
def test_overlays_of_kernels_before_6_8(tmp_path):
    """The options of mount(2), tried in a process of its own."""
    layers = []
    for number in range(60):
        layer = tmp_path / f"a-directory-name-that-is-rather-long-{number:04}"
        layer.mkdir()
        (layer / f"file{number}").write_text(f"{number}\n")
        layers.append(str(layer))
    code = """
import os, sys
from polyarch.executor import supervisor, syscalls
def refuse(kind, options, attributes=0):
    raise OSError(22, "overlay option lowerdir+: Invalid argument")
syscalls.new_mount = refuse
tree = supervisor.overlay(sys.argv[1:], "", "", syscalls.ATTR_NODEV, userxattr=False)
print(sorted(os.listdir(f"/proc/self/fd/{tree}")) == sorted(f"file{n}" for n in range(60)))
"""
    done = subprocess.run([sys.executable, "-c", code, *layers], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


class TestIds:
    def test_ranges(self, tmp_path):
        file = tmp_path / "subuid"
        file.write_text("bob:100000:65536\n# comment\nbroken\nbob:x:1\n1000:300000:10\nother:1:1\nbob:5:0\n")
        assert idmap.subordinate(str(file), ("bob", "1000")) == [(100000, 65536), (300000, 10)]
        assert idmap.subordinate(str(tmp_path / "absent"), ("bob",)) == []

    def test_maps(self):
        assert idmap.extents(1000, [(100000, 65536), (300000, 10)]) == [
            (0, 1000, 1),
            (1, 100000, 65536),
            (65537, 300000, 10),
        ]


class TestFilter:
    @pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
    def test_it_is_sound(self, machine):
        """Every jump ends inside the program, and the last instruction returns."""
        import struct

        program = seccomp.program(machine)
        rows = list(struct.iter_unpack("=HBBI", program))
        assert 50 < len(rows) < 4096
        for at, (code, yes, no, value) in enumerate(rows):
            if code & 7 == 5:  # jumps
                ends = (value,) if code == 0x05 else (yes, no)
                assert all(at + 1 + end < len(rows) for end in ends)
        assert rows[-1][0] == 0x06

    def test_unknown_processors_have_none(self):
        assert seccomp.program("vax") == b""

    def test_numbers_are_the_kernels(self):
        """Against this machine's headers, where they are installed."""
        import re

        header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
        if not header.exists():
            return
        known = {name: int(number) for name, number in re.findall(r"__NR_(\w+) (\d+)", header.read_text())}
        for name, number in seccomp._X86_64.items():
            assert known.get(name, number) == number, name
