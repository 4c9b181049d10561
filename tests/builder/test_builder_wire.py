"""The conversation between two polyarchs: whole and in order whatever breaks, and careful on both sides."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from polyarch.builder.embedded import EmbeddedNode, Surroundings
from polyarch.builder.instance import NodeRecord
from polyarch.builder.ssh.lending import Lender
from polyarch.builder.ssh.terms import decode_event, decode_graph, encode_event
from polyarch.builder.ssh.transport import Endpoint, remote_line, ssh_command
from polyarch.builder.wire import faults
from polyarch.builder.wire.link import SocketPipe
from polyarch.builder.wire.peer import Call, Peer
from polyarch.content.state import State
from polyarch.context.main import open_directory
from polyarch.errors import CancelledError, ContentError, PolyarchError, StepError, UsageError
from polyarch.image.locate import local_store
from polyarch.registry.client import Client
from polyarch.solver import events

Handlers = dict[str, Callable[..., object]]


class Pair:
    """Two ends, and connections between them that can be broken."""

    def __init__(self, near: Handlers, far: Handlers) -> None:
        self.near = Peer(near, first=1)
        self.far = Peer(far, first=2)
        self._sockets: list[socket.socket] = []
        self.connect()

    def connect(self) -> None:
        """A new connection in place of the one there is."""
        self.near.link.detach()
        self.far.link.detach()
        left, right = socket.socketpair()
        self._sockets = [left, right]
        counts = self.near.link.received, self.far.link.received
        self.near.link.attach(SocketPipe(left), counts[1])
        self.far.link.attach(SocketPipe(right), counts[0])

    def cut(self) -> None:
        for end in self._sockets:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self) -> None:
        for end in (self.near, self.far):
            end.link.fail(PolyarchError("the test is over"))


@pytest.fixture
def pairs() -> Iterator[Callable[..., Pair]]:
    made: list[Pair] = []

    def make(near: Handlers | None = None, far: Handlers | None = None) -> Pair:
        made.append(Pair(near or {}, far or {}))
        return made[-1]

    yield make
    for pair in made:
        pair.close()


def echo(call: Call, times: int) -> int:
    count = 0
    while message := call.read():
        for _ in range(times):
            call.write(message)
        count += len(message)
    return count


def test_nothing_is_lost_or_repeated_however_often_the_connection_breaks(pairs: Callable[..., Pair]) -> None:
    pair = pairs(far={"echo": echo})
    done = threading.Event()

    def saw() -> None:
        while not done.wait(random.uniform(0.001, 0.03)):
            pair.cut()
            pair.connect()

    thread = threading.Thread(target=saw)
    thread.start()
    try:
        call = pair.near.call("echo", 1)
        pieces = [os.urandom(random.randrange(1, 100_000)) for _ in range(400)]

        def send() -> None:
            for piece in pieces:
                call.write(piece)
            call.end()

        sender = threading.Thread(target=send)
        sender.start()
        assert list(call) == pieces
        assert call.result() == sum(len(piece) for piece in pieces)
        sender.join()
    finally:
        done.set()
        thread.join()


def test_a_reader_that_is_slow_holds_its_sender_up_and_nobody_else(pairs: Callable[..., Pair]) -> None:
    written: list[int] = []

    def pour(call: Call) -> None:
        for number in range(400):
            call.write(b"x" * 100_000)
            written.append(number)

    pair = pairs(far={"pour": pour, "ask": lambda call: "answer"})
    call = pair.near.call("pour")
    time.sleep(0.3)
    assert len(written) < 60, "about 4 MB are under way"
    assert pair.near.ask("ask") == "answer"
    assert sum(len(piece) for piece in call) == 40_000_000


def test_errors_arrive_as_what_they_were(pairs: Callable[..., Pair]) -> None:
    def fail(call: Call) -> None:
        raise StepError("no", process_exit_code=7, platform="linux/arm64", output="so far", hint="mend it")

    def stumble(call: Call) -> None:
        raise KeyError("internal")

    pair = pairs(far={"fail": fail, "stumble": stumble})
    with pytest.raises(StepError) as caught:
        pair.near.ask("fail")
    error = caught.value
    assert (error.process_exit_code, error.platform, error.output, error.hint) == (
        7,
        "linux/arm64",
        "so far",
        "mend it",
    )
    with pytest.raises(PolyarchError, match="KeyError"):
        pair.near.ask("stumble")
    with pytest.raises(PolyarchError, match="does not know"):
        pair.near.ask("anything")
    assert isinstance(faults.decode(b"\xff"), PolyarchError)


def test_a_call_can_be_cancelled(pairs: Callable[..., Pair]) -> None:
    stopped = threading.Event()

    def wait(call: Call) -> None:
        call.cancelled.wait(20)
        stopped.set()
        raise CancelledError("stopped")

    pair = pairs(far={"wait": wait})
    call = pair.near.call("wait")
    call.cancel()
    with pytest.raises(CancelledError):
        call.result()
    assert stopped.is_set()


def test_the_end_of_a_link_ends_every_call(pairs: Callable[..., Pair]) -> None:
    pair = pairs(far={"wait": lambda call: call.cancelled.wait(20)})
    call = pair.near.call("wait")
    pair.near.link.fail(PolyarchError("gone", reason="node-lost"))
    with pytest.raises(PolyarchError, match="gone"):
        call.result()
    with pytest.raises(PolyarchError, match="gone"):
        pair.near.call("wait")


def test_garbage_breaks_the_connection_and_nothing_else(pairs: Callable[..., Pair]) -> None:
    pair = pairs(far={"ask": lambda call: 1})
    for _ in range(20):
        left, right = socket.socketpair()
        pair.far.link.detach()
        pair.far.link.attach(SocketPipe(right), 0)
        left.sendall(os.urandom(3000))
        left.close()
    with pytest.raises(ContentError):
        decode_graph(os.urandom(200))
    with pytest.raises(ContentError):
        decode_event(b"\x92\x00\x91\xc0", 0)


def test_events_are_the_same_on_the_other_side() -> None:
    for event in (
        events.VertexStarted("d", "name", 5.0),
        events.VertexCompleted("d", "name", 5.0, reason="r", how="native"),
        events.VertexLog("d", 2, b"\xff\x00", 5.0),
        events.VertexStatus("d", "id", 1, 2, 5.0),
    ):
        assert decode_event(encode_event(event), 1.5) == type(event)(**{**vars(event), "time": 6.5})


def test_a_node_gets_only_what_the_build_has(
    state: State, tmp_path: Path, pairs: Callable[..., Pair]
) -> None:
    import msgspec

    context = tmp_path / "c"
    context.mkdir()
    (context / "a").write_text("in the context")
    (context / "hidden").write_text("not in the context")
    (context / ".dockerignore").write_text("hidden\n")
    (context / "link").symlink_to("/etc/passwd")
    (tmp_path / "outside").write_text("outside")
    with Client() as client:
        around = Surroundings(
            contexts={"context": lambda store: open_directory(context, state, store)},
            secrets={"word": lambda: b"secret"},
        )
        home = EmbeddedNode(state, local_store(state, client), client, around)
        pair = pairs(near=dict(Lender(home, around).handlers()))

        def files(*paths: str) -> bytes:
            call = pair.far.call("files", "context", 0, "")
            call.write(msgspec.msgpack.encode(paths))
            call.end()
            data = call.read_all(1 << 20)
            call.result()
            return data

        assert pair.far.ask("secret", "word") == b"secret"
        assert files("a") == b"in the context"
        for path in ("../outside", "hidden", "link", "/etc/passwd", "", "a/../../outside"):
            with pytest.raises(PolyarchError):
                files(path)
        for method, arguments in (
            ("context", ("other",)),
            ("secret", ("other",)),
            ("agent", ("default",)),
            ("blob", ("sha256:" + "0" * 64,)),
        ):
            with pytest.raises(PolyarchError):
                pair.far.ask(method, *arguments)
        assert pair.far.ask("credential", "docker.io", "library/x") is None
        assert pair.far.ask("places", "sha256:" + "0" * 64) == []
        home.close()


@pytest.mark.parametrize(
    ("text", "user", "host", "port"),
    [
        ("ssh://host", "", "host", 0),
        ("ssh://user@Host.Example:2222", "user", "Host.Example", 2222),
        ("ssh://user@[fe80::1]:22/", "user", "fe80::1", 22),
        ("ssh://us%40er@host", "us@er", "host", 0),
    ],
)
def test_endpoints(text: str, user: str, host: str, port: int) -> None:
    assert Endpoint.parse(text) == Endpoint(host, user, port)


@pytest.mark.parametrize(
    "text",
    [
        "ssh://",
        "tcp://host",
        "ssh://-oProxyCommand=x",
        "ssh://-l@host",
        "ssh://user:word@host",
        "ssh://host/path",
        "ssh://host:99999",
        "ssh://ho st",
        "ssh://host;x",
    ],
)
def test_endpoints_that_are_none(text: str) -> None:
    with pytest.raises(UsageError):
        Endpoint.parse(text)


def test_what_is_run_there_cannot_be_made_to_run_something_else() -> None:
    record = NodeRecord(name="n", endpoint="ssh://h", driver_opts={"root": "/x'; touch /tmp/no; '"})
    line = remote_line(record, ("node",))
    assert ssh_command(Endpoint("h", "u", 22), line)[-3:] == ["--", "h", line]
    import subprocess

    marker = Path("/tmp/no")
    marker.unlink(missing_ok=True)
    subprocess.run(["sh", "-c", line], capture_output=True, check=False, env={"PATH": "/bin", "HOME": "/x"})
    assert not marker.exists()
