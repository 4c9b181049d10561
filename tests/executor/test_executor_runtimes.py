"""Steps in an OCI runtime behave as in the sandbox of our own."""

from __future__ import annotations

import json
import os
import shutil
import threading

import pytest

from polyarch.content.state import State
from polyarch.errors import CancelledError, UnsupportedError
from polyarch.executor import binfmt, machines, syscalls
from polyarch.executor.runtimes import RuntimeExecutor
from polyarch.executor.spec import Bind, Identity, Overlay, Process, RootFilesystem, SecretFile, Tmpfs
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform

ROOT = os.geteuid() == 0 and syscalls.may_mount()
WORKING = [
    name
    for name in ("runc", "crun")
    # crun before 1.9 refuses hosts with both generations of control groups
    if shutil.which(name) and not (name == "crun" and os.path.isdir("/sys/fs/cgroup/unified"))
]

needs_root = pytest.mark.skipif(not ROOT, reason="a runtime needs root")


@pytest.fixture(scope="module", params=WORKING or ["none"])
def executor(request, tmp_path_factory, emulators):
    if request.param == "none" or not ROOT:
        pytest.skip("no runtime that works here")
    executor = RuntimeExecutor(request.param, State(tmp_path_factory.mktemp("state")), emulators=emulators)
    yield executor
    executor.close()


@pytest.fixture
def sh(executor, busybox_root, tmp_path):
    for name in ("upper", "work"):
        (tmp_path / name).mkdir()

    def run(script, *mounts, cancelled=None, **fields):
        chunks = {1: b"", 2: b""}

        def output(stream, data):
            chunks[stream] += data

        process = Process(("/bin/sh", "-c", script), platforms.host(), ("PATH=/bin",), **fields)
        root = RootFilesystem((busybox_root,), tmp_path / "upper", tmp_path / "work")
        status = executor.run(process, root, mounts, output, cancelled or threading.Event())
        return status.code, chunks[1].decode(), chunks[2].decode()

    return run


def test_process(sh):
    code, out, err = sh(
        "id -u; hostname; pwd; grep ^CapEff /proc/self/status; echo e >&2; exit 3", directory="/tmp"
    )
    assert code == 3 and err == "e\n"
    assert out.split() == ["0", "buildkitsandbox", "/tmp", "CapEff:", "00000000a80425fb"]


def test_identity_and_network(sh):
    _, out, _ = sh("id -u; id -g; ls /sys/class/net", identity=Identity(33, 44), network="none")
    assert out.split() == ["33", "44", "lo"]


def test_mounts_leave_no_trace(sh, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("from the host\n")
    layers = []
    for number in range(2):
        (tmp_path / f"layer{number}/d").mkdir(parents=True)
        (tmp_path / f"layer{number}/d/f{number}").write_text(f"{number}\n")
        layers.append(tmp_path / f"layer{number}")
    code, out, err = sh(
        "cat /a/b/file /run/secrets/s /o/f0 /o/f1; touch /a/b/x /o/x; echo x > /t/x; head -n 1 /etc/hosts",
        Bind(tmp_path / "source", "/a/b"),
        SecretFile("/run/secrets/s", b"secret\n"),
        Overlay(tuple(layers), "/o", path="d"),
        Tmpfs("/t", 1 << 20),
    )
    assert code == 0 and err.count("Read-only") == 2
    assert out == "from the host\nsecret\n0\n1\n127.0.0.1\tlocalhost buildkitsandbox\n"
    assert [name for _, _, names in os.walk(tmp_path / "upper") for name in names] == []


def test_cancelling(sh, host_mounts):
    before, cancelled = host_mounts(), threading.Event()
    threading.Timer(1, cancelled.set).start()
    with pytest.raises(CancelledError):
        sh(f"sleep 47{os.getpid()}", cancelled=cancelled)
    assert host_mounts() == before


@needs_root
def test_what_is_not_there(tmp_path):
    with pytest.raises(UnsupportedError, match="nosuch is not installed"):
        RuntimeExecutor("nosuch", State(tmp_path))


def test_foreign_platforms_are_refused_clearly(executor, emulators, busybox_root):
    foreign = next(
        m.architecture
        for m in machines.MACHINES
        if emulators.strategy(Platform(os="linux", architecture=m.architecture)).kind == "emulated"
        and not any(handler.serves(m) for handler in binfmt.host_handlers())
    )
    process = Process(("/bin/true",), Platform(os="linux", architecture=foreign))
    with pytest.raises(UnsupportedError, match="only with handlers of the host"):
        executor.run(process, RootFilesystem((busybox_root,)), (), lambda s, d: None, threading.Event())


def test_the_bundle_is_plain_json():
    from polyarch.executor import description
    from polyarch.executor.runtimes import config

    process = Process(("/bin/true",), platforms.host(), ("A=b",), network="none", security="insecure")
    step = description.describe(process, RootFilesystem(()), (Tmpfs("/t"), SecretFile("/s", b"secret")))
    step |= {"scratch": "/place", "lowers": []}
    text = json.dumps(config(step, "name"))
    parsed = json.loads(text)
    assert parsed["process"]["args"] == ["/bin/true"] and "secret" not in text.replace('"/s"', "")
    assert {"type": "network"} in parsed["linux"]["namespaces"] and "seccomp" not in parsed["linux"]
