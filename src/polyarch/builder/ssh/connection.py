"""The client's end of a conversation with a node: made, watched, mended when it breaks, and ended."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from polyarch.builder.instance import NodeRecord
from polyarch.builder.node import NodeLostError
from polyarch.builder.ssh import hello
from polyarch.builder.ssh.hello import Hello
from polyarch.builder.ssh.transport import (
    CONNECT_SECONDS,
    Ssh,
    grace_of,
    hint_for,
    is_passing,
    remote_line,
    serve_words,
)
from polyarch.builder.wire.peer import Handler, Peer
from polyarch.errors import PolyarchError, UnsupportedError
from polyarch.version import VERSION

PING_SECONDS = 2.0
DEAF_SECONDS = 8.0  # without a sign of life a connection counts as broken
_MEND = 2 / 3  # of a node's grace: a broken connection is given up before the node does
_ATTEMPTS = 4  # to make a connection that breaks while it is made
_PAUSE_SECONDS = 0.5
_GOODBYE_SECONDS = 5.0


class Connection:
    """A conversation with ``polyarch node`` on the host of ``record``.

    ``told`` is called with sentences about the connection, from any thread. NodeLostError when the host
    cannot be reached, UnsupportedError when it has no polyarch or another one. ``begun`` is an ssh to it that
    was started before (``early``).
    """

    def __init__(
        self,
        record: NodeRecord,
        handlers: Mapping[str, Handler],
        told: Callable[[str], None],
        begun: Ssh | None = None,
    ) -> None:
        self.record = record
        self._told = told
        self._over = threading.Event()
        self._mending = threading.Lock()
        self._left = threading.Event()
        self.peer = Peer(handlers, first=1, broken=self._broken, left=self._left.set)
        self._pipe, self.hello = self._first_meeting(begun)
        if self.hello.polyarch != VERSION:
            told(f"node {record.name} runs polyarch {self.hello.polyarch}, and this is {VERSION}")
        self.clock_offset = time.time() - self.hello.clock
        self.peer.link.attach(self._pipe, 0)
        threading.Thread(target=self._watch, name="node-watch", daemon=True).start()

    @property
    def same_host(self) -> bool:
        """Whether the node is this machine, and "localhost" means the same to both."""
        here = hello.own()
        return bool(here.boot) and (here.boot, here.network) == (self.hello.boot, self.hello.network)

    def close(self) -> None:
        """Say good-bye, which ends everything there, and wait until the other side has gone."""
        if self._over.is_set():
            return
        self._over.set()
        link = self.peer.link
        if link.connected:
            try:
                self.peer.tell_goodbye()
                self._left.wait(_GOODBYE_SECONDS)  # it answers when nothing runs there any more
            except PolyarchError:
                pass  # the link has failed: there is nobody to say it to
        link.fail(NodeLostError(self.record.name, f"the connection to node {self.record.name} was closed"))
        self._pipe.close()

    # --- meeting --------------------------------------------------------------------------------------------

    def _first_meeting(self, begun: Ssh | None) -> tuple[Ssh, Hello]:
        """Reach the node; a connection that breaks while it is made is made again."""
        for attempt in range(_ATTEMPTS):
            try:
                return self._meet(serve_words(self.record), session="", begun=None if attempt else begun)
            except NodeLostError as error:
                if attempt == _ATTEMPTS - 1 or not is_passing(error.detail):
                    raise
            self._over.wait(_PAUSE_SECONDS)
        raise AssertionError("the last attempt returns or raises")

    def _meet(self, words: tuple[str, ...], *, session: str, begun: Ssh | None = None) -> tuple[Ssh, Hello]:
        pipe = begun or Ssh(self.record, remote_line(self.record, words), ask=not session)
        received = self.peer.link.received
        watchdog = threading.Timer(2 * CONNECT_SECONDS, pipe.close)
        watchdog.daemon = True
        watchdog.start()
        try:
            pipe.write(hello.encode(hello.own(session=session, received=received), node=False))
            theirs = hello.read(pipe, node=True)
            hello.check(f"node {self.record.name}", theirs)
        except (OSError, EOFError):
            error = self._unreachable(pipe)
            pipe.close()
            raise error from None
        except PolyarchError:
            pipe.close()
            raise
        finally:
            watchdog.cancel()
        return pipe, theirs

    def _unreachable(self, pipe: Ssh) -> PolyarchError:
        name = self.record.name
        if pipe.not_installed:
            return UnsupportedError(
                f"node {name}: there is no polyarch on {pipe.endpoint}",
                hint="polyarch inspect --bootstrap installs it there; or put it into PATH there",
                reason="node-not-installed",
            )
        said = pipe.said
        what = f"node {name} ({pipe.endpoint}) cannot be reached"
        return NodeLostError(name, what, detail=said, hint=hint_for(said))

    # --- watching -------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Ask for signs of life; a connection that gives none is broken."""
        link = self.peer.link
        while not self._over.wait(PING_SECONDS):
            if not link.connected:
                continue
            if link.silence > DEAF_SECONDS:
                link.detach()
            else:
                link.ping()

    def _broken(self) -> None:
        if not self._over.is_set():
            threading.Thread(target=self._mend, name="node-mend", daemon=True).start()

    def _mend(self) -> None:
        """Reach the node again and go on where the conversation stopped; give it up when that fails."""
        with self._mending:
            link, name = self.peer.link, self.record.name
            if link.connected or self._over.is_set():
                return
            self._pipe.close()
            self._told(f"the connection to node {name} broke; trying to reach it again")
            end = time.monotonic() + grace_of(self.record) * _MEND
            why = PolyarchError("")
            while not self._over.is_set():
                try:
                    pipe, theirs = self._meet(
                        ("node", "--attach", self.hello.session), session=self.hello.session
                    )
                except PolyarchError as error:
                    why = error
                else:
                    if theirs.session == self.hello.session:
                        self._pipe = pipe
                        link.attach(pipe, theirs.received)
                        self._told(f"node {name} was reached again")
                        return
                    pipe.close()
                    why = PolyarchError("its process has ended", hint="its log or its kernel's says why")
                    break
                if time.monotonic() > end or self._over.wait(_PAUSE_SECONDS):
                    break
            detail = "\n".join(part for part in (why.summary, why.detail) if part)
            self._over.set()
            link.fail(NodeLostError(name, f"node {name} is lost", detail=detail, hint=why.hint))
