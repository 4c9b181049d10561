"""A step's end, however it comes: nothing of it is left, no process and no mount."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from polyarch.content.state import State
from polyarch.errors import CancelledError, PolyarchError
from polyarch.executor.sandbox import Sandbox
from polyarch.executor.spec import Process, RootFilesystem
from polyarch.oci import platform as platforms

pytestmark = pytest.mark.userns


def processes(marker: str) -> list[str]:
    """The processes whose command line holds ``marker``."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if marker in Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace"):
                found.append(pid)
        except OSError:
            continue
    return found


def gone(marker: str, seconds: float = 5) -> bool:
    """Whether the processes with ``marker`` end within ``seconds``."""
    deadline = time.monotonic() + seconds
    while processes(marker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def appears(marker: str, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not processes(marker):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_cancelling_kills_everything(bench, host_mounts):
    before, marker = host_mounts(), f"41{os.getpid()}"
    threading.Thread(target=lambda: (appears(marker), bench.cancelled.set())).start()
    began = time.monotonic()
    with pytest.raises(CancelledError):
        bench.sh(f"trap '' TERM INT HUP; sleep {marker} & sleep {marker}")
    assert time.monotonic() - began < 10
    assert processes(marker) == []
    assert host_mounts() == before


def test_cancelled_before_it_began(bench):
    bench.cancelled.set()
    with pytest.raises(CancelledError):
        bench.sh("touch /x")
    assert bench.changed() == []


def test_an_error_of_the_listener_kills_the_step(bench):
    marker = f"42{os.getpid()}"
    process = Process(("/bin/sh", "-c", f"echo x; sleep {marker}"), platforms.host(), ("PATH=/bin",))

    def broken(stream, data):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        bench.sandbox.run(process, bench.root(), (), broken, threading.Event())
    assert gone(marker)
    assert bench.sh("true").code == 0


def test_closing_the_sandbox_kills_steps(busybox_root, tmp_path, emulators):
    marker = f"43{os.getpid()}"
    sandbox = Sandbox.start(State(tmp_path / "state"), emulators=emulators)
    process = Process(("/bin/sleep", marker), platforms.host())
    failures = []

    def run() -> None:
        try:
            sandbox.run(process, RootFilesystem((busybox_root,)), (), lambda s, d: None, threading.Event())
        except PolyarchError as error:
            failures.append(error.reason)

    thread = threading.Thread(target=run)
    thread.start()
    assert appears(marker)
    sandbox.close()
    thread.join(10)
    assert gone(marker) and not thread.is_alive() and len(failures) == 1
    with pytest.raises(PolyarchError, match="closed"):
        sandbox.run(process, RootFilesystem((busybox_root,)), (), lambda s, d: None, threading.Event())


_MAIN = """
import sys, threading
from pathlib import Path
from polyarch.content.state import State
from polyarch.executor.sandbox import Sandbox
from polyarch.executor.spec import Process, RootFilesystem
from polyarch.oci import platform as platforms
root, state, marker = sys.argv[1:]
sandbox = Sandbox.start(State(Path(state)))
process = Process(("/bin/sh", "-c", f"sleep {marker} & sleep {marker}"), platforms.host(), ("PATH=/bin",))
sandbox.run(process, RootFilesystem((Path(root),)), (), lambda s, d: None, threading.Event())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_main_process_leaves_nothing(busybox_root, tmp_path, host_mounts, number):
    before, marker = host_mounts(), f"44{os.getpid()}"
    main = subprocess.Popen(
        [sys.executable, "-c", _MAIN, str(busybox_root), str(tmp_path / "state"), marker],
        stderr=subprocess.DEVNULL,
    )
    assert appears(f"sleep\0{marker}")
    main.send_signal(number)
    main.wait(10)
    assert gone(marker)
    assert host_mounts() == before
    assert gone(str(tmp_path / "state"))  # nor the helper


def test_eight_at_once(bench, tmp_path):
    def one(number: int) -> str:
        folder = tmp_path / f"n{number}"
        for name in ("upper", "work"):
            (folder / name).mkdir(parents=True)
        chunks: list[bytes] = []
        process = Process(
            ("/bin/sh", "-c", f"echo {number} > /mine; sleep 0.3; cat /mine; ls /proc | grep -c '^[0-9]'"),
            platforms.host(),
            ("PATH=/bin",),
        )
        root = RootFilesystem((bench.lower,), folder / "upper", folder / "work")
        bench.sandbox.run(process, root, (), lambda s, data: chunks.append(data), threading.Event())
        return b"".join(chunks).decode()

    bench.sh("true")
    began = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, range(8)))
    assert [result.split()[0] for result in results] == [str(number) for number in range(8)]
    assert all(int(result.split()[1]) <= 5 for result in results)  # nobody sees another's processes
    assert time.monotonic() - began < 8 * 0.3


def test_no_descriptor_leaks(bench):
    bench.sh("true")
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(5):
        bench.sh("echo x")
        bench.sh("nosuch")
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_start_takes_milliseconds(bench, record_property):
    """The whole of a step that does nothing. The bound is for a loaded machine; the figure is printed."""
    times = []
    bench.sh("true")
    for _ in range(15):
        began = time.perf_counter()
        bench.sh("true")
        times.append((time.perf_counter() - began) * 1000)
    median = statistics.median(times)
    record_property("step_ms", median)
    print(f"a step takes {median:.1f} ms ({min(times):.1f} to {max(times):.1f}), mode {bench.mode}")
    assert min(times) < 60


def test_a_fork_bomb_ends_with_the_step(bench):
    marker = f"45{os.getpid()}"
    result = bench.sh(f"i=0; while [ $i -lt 200 ]; do sleep {marker} & i=$((i+1)); done; exit 5")
    assert result.code == 5
    assert gone(marker)


def test_the_helper_cannot_be_traced_or_signalled(bench):
    assert bench.sh("kill -9 1; kill -15 1; kill -2 1; sleep 0.1; echo alive").out == "alive\n"
