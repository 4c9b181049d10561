"""Nodes reached by ssh when things go wrong: broken connections, dead nodes, full disks, wrong versions."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from ssh_hosts import Host, Hosts

from polyarch import pipeline
from polyarch.builder.instance import Builder, NodeRecord
from polyarch.builder.node import NodeLostError
from polyarch.builder.ssh import connection, hello
from polyarch.content.state import State
from polyarch.errors import CancelledError, PolyarchError, UnsupportedError
from polyarch.oci.platform import Platform, host
from polyarch.request import BuildOutcome, BuildRequest
from polyarch.solver.events import VertexCompleted, VertexLog, Warning

HERE = NodeRecord(name="here")


class Watch:
    """Keeps the events of a build, and does something when a step says a word."""

    def __init__(self, word: bytes = b"", then: Callable[[], object] = lambda: None) -> None:
        self.events: list[Any] = []
        self._word = word
        self._then = then

    def __call__(self, event: Any) -> None:
        self.events.append(event)
        if self._word and isinstance(event, VertexLog) and self._word in event.data:
            self._word = b""
            threading.Thread(target=self._then).start()

    def told(self) -> str:
        return "\n".join(e.message for e in self.events if isinstance(e, Warning))

    def runs(self) -> int:
        """How many RUN steps came to a good end."""
        return sum(
            isinstance(e, VertexCompleted) and not e.cached and not e.error and "RUN" in e.name
            for e in self.events
        )


def build(
    folder: Path,
    dockerfile: str,
    state: State,
    *nodes: NodeRecord,
    seen: Watch | None = None,
    cancelled: Event | None = None,
    **more: Any,
) -> BuildOutcome:
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    request = BuildRequest(context=str(folder), builder=Builder(name="b", nodes=nodes), **more)
    return pipeline.run(request, state=state, events=seen or Watch(), cancelled=cancelled)


def until(what: Callable[[], object], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)


@pytest.mark.userns
def test_a_cut_connection_is_mended_and_the_step_goes_on(
    state: State, busybox: str, far: Host, tmp_path: Path
) -> None:
    seen = Watch(b"begun", far.cut)
    outcome = build(
        tmp_path / "c",
        f"FROM {busybox}\nRUN echo begun; sleep 2; echo ended > /end\nRUN cat /end\n",
        state,
        far.record(),
        seen=seen,
    )
    assert outcome.digest
    assert seen.runs() == 2, "no step was run again"
    assert "the connection to node far broke" in seen.told() and "was reached again" in seen.told()
    until(lambda: not far.nodes())


@pytest.mark.userns
def test_connections_cut_all_the_time(
    state: State, busybox: str, far: Host, registry: str, tmp_path: Path
) -> None:
    from polyarch.export import output
    from polyarch.request import names_of

    done = Event()

    def saw() -> None:
        while not done.wait(1.2):
            far.cut()

    (tmp_path / "c").mkdir()
    (tmp_path / "c/big").write_bytes(os.urandom(3 << 20))
    thread = threading.Thread(target=saw)
    thread.start()
    try:
        outcome = build(
            tmp_path / "c",
            f"FROM {busybox}\nCOPY big /big\nRUN sleep 1; echo 1; sleep 2; echo 2; cat /big > /b\n",
            state,
            far.record(),
            tags=names_of([f"{registry}/demo:1"]),
            outputs=output.parse_all((), push=True, load=False),
        )
    finally:
        done.set()
        thread.join()
    assert outcome.summary.names


@pytest.mark.userns
def test_a_node_that_dies_is_told_of_and_another_takes_over(
    state: State, busybox: str, far: Host, tmp_path: Path
) -> None:
    seen = Watch(b"begun", far.kill_nodes)
    platform = str(host())
    started = time.monotonic()
    outcome = build(
        tmp_path / "c",
        f"FROM {busybox}\nRUN echo begun; sleep 3\n",
        state,
        far.record(platform),
        HERE,
        seen=seen,
        platforms=(host(),),
    )
    assert [p.node for p in outcome.platforms] == ["here"]
    assert "node far is lost" in seen.told()
    assert time.monotonic() - started < 30


@pytest.mark.userns
@pytest.mark.qemu
def test_a_lost_platform_is_emulated_only_where_that_is_wanted(
    state: State, busybox: str, far: Host, tmp_path: Path
) -> None:
    other = Platform.parse("linux/arm64" if host().architecture == "amd64" else "linux/amd64")
    far.stop()
    dockerfile = f"FROM {busybox}\nRUN uname -m\n"
    with pytest.raises(NodeLostError) as caught:
        build(tmp_path / "c", dockerfile, state, HERE, far.record(str(other)), platforms=(host(), other))
    assert caught.value.node == "far" and "Connection refused" in caught.value.detail
    seen = Watch()
    outcome = build(
        tmp_path / "c",
        dockerfile,
        state,
        HERE,
        far.record(str(other)),
        seen=seen,
        platforms=(host(), other),
        fallback="emulate",
    )
    assert [(p.node, p.how) for p in outcome.platforms] == [("here", "native"), ("here", "emulated")]
    assert "cannot be reached" in seen.told()


@pytest.mark.userns
def test_stopping_a_build_stops_the_node(state: State, busybox: str, far: Host, tmp_path: Path) -> None:
    cancelled = Event()
    seen = Watch(b"begun", cancelled.set)
    dockerfile = f"FROM {busybox}\nRUN echo begun; sleep 61.25\n"
    with pytest.raises(CancelledError):
        build(tmp_path / "c", dockerfile, state, far.record(), seen=seen, cancelled=cancelled)
    assert far.is_left()
    left = subprocess.run(["pgrep", "-f", "sleep 61[.]25"], capture_output=True, text=True, check=False)
    assert left.stdout == ""


@pytest.mark.userns
def test_a_client_that_is_gone_leaves_nothing_running(
    state: State, busybox: str, far: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other side of the grace that a broken connection gets: it ends."""
    monkeypatch.setattr(connection.Connection, "_mend", lambda self: None)
    seen = Watch(b"begun", far.cut)
    cancelled = Event()

    def run() -> None:
        with pytest.raises(PolyarchError):
            dockerfile = f"FROM {busybox}\nRUN echo begun; sleep 62.25\n"
            build(tmp_path / "c", dockerfile, state, far.record(grace="1"), seen=seen, cancelled=cancelled)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: any(isinstance(e, VertexLog) for e in seen.events))
    until(lambda: not far.nodes())
    cancelled.set()
    thread.join(20)
    assert not thread.is_alive()


def test_a_wrong_host_key(state: State, hosts: Hosts, far: Host, tmp_path: Path) -> None:
    other = hosts.add("other")
    known = (hosts.folder / "known_hosts").read_text().splitlines()
    key = known[1].split(" ", 1)[1]
    (hosts.folder / "known_hosts").write_text(f"[127.0.0.1]:{far.port} {key}\n{known[1]}\n")
    assert other.server is not None
    with pytest.raises(NodeLostError) as caught:
        build(tmp_path / "c", "FROM scratch\nCOPY Dockerfile /\n", state, far.record())
    assert "Host key verification failed" in caught.value.detail
    assert "ssh-keygen -R" in caught.value.hint


def test_a_key_that_is_not_accepted(state: State, hosts: Hosts, far: Host, tmp_path: Path) -> None:
    (hosts.folder / "authorized_keys").write_text("")
    with pytest.raises(NodeLostError) as caught:
        build(tmp_path / "c", "FROM scratch\nCOPY Dockerfile /\n", state, far.record())
    assert "Permission denied" in caught.value.detail and "ssh-copy-id" in caught.value.hint


def test_no_polyarch_there(state: State, far: Host, tmp_path: Path) -> None:
    (far.programs / "polyarch").unlink()
    with pytest.raises(UnsupportedError) as caught:
        build(tmp_path / "c", "FROM scratch\nCOPY Dockerfile /\n", state, far.record())
    assert caught.value.reason == "node-not-installed" and "--bootstrap" in caught.value.hint


@pytest.mark.parametrize(
    ("protocol", "says"), [(0, "the node's polyarch is too old"), (9, "this polyarch is too old")]
)
def test_another_version_there(state: State, far: Host, tmp_path: Path, protocol: int, says: str) -> None:
    line = hello.encode(hello.Hello("9.9", protocol, "x"), node=True).decode()
    far.install(f"echo Welcome to this host; echo '{line.strip()}'; sleep 1")
    with pytest.raises(UnsupportedError) as caught:
        build(tmp_path / "c", "FROM scratch\nCOPY Dockerfile /\n", state, far.record())
    assert caught.value.reason == "node-version" and says in caught.value.summary


def test_a_node_refuses_a_client_it_does_not_understand(far: Host) -> None:
    command = [*os.environ["POLYARCH_SSH_COMMAND"].split(), "far", "polyarch node"]
    done = subprocess.run(
        command, input=b'{"polyarch":"9.9","protocol":9}\n', capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 1 and b"cannot serve polyarch 9.9" in done.stderr


def test_something_else_answers(state: State, far: Host, tmp_path: Path) -> None:
    far.install("yes no")
    with pytest.raises(PolyarchError, match="not a polyarch node"):
        build(tmp_path / "c", "FROM scratch\nCOPY Dockerfile /\n", state, far.record())


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.userns
@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small disk")
def test_a_full_disk_on_the_node(state: State, busybox: str, far: Host, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c/big").write_bytes(os.urandom(8 << 20))
    with small_disk(far.root):
        with pytest.raises(PolyarchError) as caught:
            build(tmp_path / "c", f"FROM {busybox}\nCOPY big /\nRUN true\n", state, far.record())
        text = f"{caught.value.summary} {caught.value.detail} {caught.value.hint}".lower()
        assert "space" in text
        far.kill_nodes()


@pytest.mark.userns
def test_a_node_that_dies_before_its_layers_left_it(
    state: State, busybox: str, far: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between solving and exporting: its part is made again elsewhere, and the image is whole."""
    from polyarch.builder.ssh.node import NodeHolder

    blob = NodeHolder.blob

    def dying(self: NodeHolder, id: str, compression: Any) -> Any:
        monkeypatch.setattr(NodeHolder, "blob", blob)
        far.kill_nodes()
        return blob(self, id, compression)

    monkeypatch.setattr(NodeHolder, "blob", dying)
    seen = Watch()
    nodes = (far.record(str(host())), HERE)
    outcome = build(
        tmp_path / "c", f"FROM {busybox}\nRUN echo a > /a\n", state, *nodes, seen=seen, platforms=(host(),)
    )
    assert [p.node for p in outcome.platforms] == ["here"] and outcome.digest
    assert "node far is lost" in seen.told()


@pytest.mark.userns
def test_a_slow_link(state: State, busybox: str, hosts: Hosts, far: Host, tmp_path: Path) -> None:
    """Tens of milliseconds there and back, 1 MB/s: slow, but nothing breaks and nothing is taken for dead."""
    relay = tmp_path / "relay.py"
    relay.write_text(
        "import os, socket, sys, threading, time\n"
        "there = socket.create_connection(('127.0.0.1', int(sys.argv[1])))\n"
        "def pump(read, write):\n"
        "    while data := read(8192):\n"
        "        time.sleep(0.01 + len(data) / 1e6)\n"
        "        write(data)\n"
        "    os._exit(0)\n"
        "threading.Thread(target=pump, args=(lambda n: os.read(0, n), there.sendall)).start()\n"
        "pump(there.recv, lambda data: os.write(1, data))\n"
    )
    with open(hosts.folder / "config", "a") as config:
        config.write(
            f"Host slow\n  HostName 127.0.0.1\n  HostKeyAlias [127.0.0.1]:{far.port}\n"
            f"  ProxyCommand {sys.executable} {relay} {far.port}\n"
            f"  IdentityFile {hosts.folder}/key\n  UserKnownHostsFile {hosts.folder}/known_hosts\n"
            "  StrictHostKeyChecking yes\n"
        )
    (tmp_path / "c").mkdir()
    (tmp_path / "c/file").write_bytes(os.urandom(100_000))
    seen = Watch()
    slow = NodeRecord(name="slow", endpoint="ssh://slow", driver="ssh")
    build(tmp_path / "c", f"FROM {busybox}\nCOPY file /\nRUN cat /file > /b\n", state, slow, seen=seen)
    assert seen.runs() == 1 and "broke" not in seen.told()


@pytest.mark.userns
def test_by_a_jump_host_and_a_shared_connection(
    state: State, busybox: str, hosts: Hosts, far: Host, tmp_path: Path
) -> None:
    hosts.add("gate")
    short = tempfile.mkdtemp(prefix="ssh")  # a socket's path is short
    with open(hosts.folder / "config", "a") as config:
        config.write(
            f"Host inner\n  HostName 127.0.0.1\n  Port {far.port}\n  ProxyJump gate\n"
            f"  IdentityFile {hosts.folder}/key\n  UserKnownHostsFile {hosts.folder}/known_hosts\n"
            f"  ControlMaster auto\n  ControlPath {short}/%C\n  ControlPersist 2\n"
        )
    inner = NodeRecord(name="inner", endpoint="ssh://inner", driver="ssh")
    for _ in range(2):
        assert build(tmp_path / "c", f"FROM {busybox}\nRUN echo a > /a\n", state, inner).digest
    assert list(Path(short).iterdir()), "ssh shared its connection as it was told to"
    until(lambda: not list(Path(short).iterdir()))
    Path(short).rmdir()
