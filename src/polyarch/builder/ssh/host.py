"""The process ``polyarch node``: one conversation with one client, which may come back on another connection.

The first connection is standard input and output. While the conversation lasts, the process listens on a
socket in a folder that only this user can enter; ``polyarch node --attach`` connects a new standard input and
output with it. Without a connection what runs goes on for a while, then everything stops.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path

from polyarch.builder.ssh import hello
from polyarch.builder.wire.link import Descriptors, Pipe, SocketPipe
from polyarch.errors import PolyarchError, UnsupportedError, UsageError
from polyarch.oci.platform import host
from polyarch.version import VERSION

DEAF_SECONDS = 12.0  # a client asks for a sign of life more often than that
_YOUNG_SECONDS = 10.0  # for which a folder may lack its socket
_PREFIX = "polyarch-node-"
_PIECE = 256 << 10


def serve(grace: float) -> int:
    """Serve the client on standard input and output until it leaves, or is gone for ``grace`` seconds."""
    pipe = _standard()
    session = secrets.token_hex(16)
    pipe.write(hello.encode(_introduce(session, 0), node=True))
    conversation = _Conversation(session, pipe, grace)  # imports much, while the client does the same
    try:
        theirs = hello.read(pipe, node=False)
    except (OSError, EOFError):
        return 0  # the client did not like what it read
    if theirs.protocol != hello.PROTOCOL:
        raise UnsupportedError(
            f"the node's polyarch is {VERSION} and cannot serve polyarch {theirs.polyarch}",
            detail=f"this side speaks protocol {hello.PROTOCOL}, the client {theirs.protocol}",
            reason="node-version",
        )
    return conversation.run()


def attach(session: str) -> int:
    """Connect standard input and output with the conversation ``session``; 1 when it is over."""
    if len(session) != 32 or not session.isalnum():
        raise UsageError(f"{session!r} names no conversation", reason="invalid-session")
    pipe = _standard()
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(_folder(session) / "socket"))
        except OSError:
            pipe.write(hello.encode(_introduce("", 0), node=True))
            return 1
        _relay(pipe, connection)
    return 0


def _introduce(session: str, received: int) -> hello.Hello:
    return hello.own(session=session, received=received, platforms=(str(host()),))


def _standard() -> Pipe:
    """Standard input and output, kept from everybody else in this process."""
    reading, writing = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    return Descriptors(reading, writing)


def _folder(session: str) -> Path:
    """Where the socket of a conversation is: in a temporary folder, because the state's path may be too long
    for a socket."""
    return Path(tempfile.gettempdir()) / f"{_PREFIX}{os.getuid()}-{session}"


def _sweep() -> None:
    """Remove the folders of conversations whose process was killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}{os.getuid()}-*"):
        try:
            if folder.stat().st_uid != os.getuid() or time.time() - folder.stat().st_mtime < _YOUNG_SECONDS:
                continue
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(folder / "socket"))
        except (FileNotFoundError, ConnectionRefusedError):
            shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue


class _Conversation:
    """The client on the other side, whichever connection it uses."""

    def __init__(self, session: str, pipe: Pipe, grace: float) -> None:
        from polyarch.builder.ssh.service import Service
        from polyarch.builder.wire.peer import Peer
        from polyarch.content.state import State

        self._session = session
        self._grace = grace
        self._ended = threading.Event()
        self._service = Service(State.default())
        self._peer = Peer(self._service.handlers(), first=2, left=self._ended.set)
        self._service.peer = self._peer
        self._pipe = pipe

    def run(self) -> int:
        """Wait for the end; then stop everything that still runs."""
        self._peer.link.attach(self._pipe, 0)
        _sweep()
        folder = _folder(self._session)
        folder.mkdir(mode=0o700)
        try:
            with socket.socket(socket.AF_UNIX) as listening:
                listening.bind(str(folder / "socket"))
                listening.listen(4)
                threading.Thread(target=self._accept, args=(listening,), daemon=True).start()
                self._wait()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        self._peer.stop_serving(PolyarchError("the client has left", reason="cancelled"))
        self._service.close()
        try:
            self._peer.tell_goodbye()
            self._peer.link.flush(1.0)
        except PolyarchError:
            pass  # it did not wait
        return 0

    def _wait(self) -> None:
        """Until the client leaves, or has not been there for too long."""
        link = self._peer.link
        absent_since = 0.0
        while not self._ended.wait(0.25):
            now = time.monotonic()
            if link.connected:
                absent_since = 0.0
                if link.silence > DEAF_SECONDS:
                    link.detach()
            elif not absent_since:
                absent_since = now
            elif now - absent_since > self._grace:
                return

    def _accept(self, listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            self._welcome_back(connection)

    def _welcome_back(self, connection: socket.socket) -> None:
        """The client has a new connection: the old one is void, even if nobody has noticed so far."""
        pipe = SocketPipe(connection)
        link = self._peer.link
        try:
            link.detach()
            pipe.write(hello.encode(_introduce(self._session, link.received), node=True))
            theirs = hello.read(pipe, node=False)
        except (OSError, EOFError, PolyarchError):
            pipe.close()
            return
        link.attach(pipe, theirs.received)


def _relay(pipe: Pipe, connection: socket.socket) -> None:
    """Pass bytes both ways until the conversation's end of it is closed, or ours."""

    def inward() -> None:
        try:
            while data := pipe.read(_PIECE):
                connection.sendall(data)
        except OSError:
            pass
        try:
            connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    threading.Thread(target=inward, daemon=True).start()
    try:
        while data := connection.recv(_PIECE):
            pipe.write(data)
    except OSError:
        pass
