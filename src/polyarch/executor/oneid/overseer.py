"""Joins a step's process and the supervisor of its ids: the process installs the filter, and hands its
listener over a socket that nothing else of the step inherits."""

from __future__ import annotations

import os
import select
import socket
from typing import Any

from polyarch.executor import syscalls, wire
from polyarch.executor.oneid import listener, numbers
from polyarch.executor.oneid.supervision import Supervision
from polyarch.layer import owners

Step = dict[str, Any]


class Channel:
    """The supervisor's end, with or without anything to supervise."""

    def __init__(self, step: Step, ends: tuple[socket.socket, socket.socket] | None) -> None:
        self._step = step
        self._ours = ends[0] if ends else None
        self._theirs = ends[1] if ends else None
        self._supervision: Supervision | None = None

    @property
    def descriptor(self) -> int:
        """What to wait for; -1 for nothing."""
        if self._supervision is not None:
            return self._supervision.descriptor
        return -1 if self._ours is None else self._ours.fileno()

    def started(self) -> None:
        """The step has its end."""
        if self._theirs is not None:
            self._theirs.close()

    def register(self, poll: select.poll) -> None:
        if self.descriptor >= 0:
            poll.register(self.descriptor, select.POLLIN)

    def serve(self, poll: select.poll) -> None:
        """The descriptor can be read."""
        if self._supervision is not None:
            if poll_hung_up(self.descriptor):
                poll.unregister(self.descriptor)
                return
            self._supervision.serve()
            return
        assert self._ours is not None
        poll.unregister(self._ours)
        try:
            self._supervision = Supervision(wire.receive_file(self._ours), self._step)
        except (OSError, EOFError):
            self.close()  # the step died before
            return
        self._ours.close()
        self._ours = None
        self.register(poll)

    def close(self) -> None:
        """The step has ended: keep what it recorded."""
        if self._ours is not None:
            self._ours.close()
            self._ours = None
        if self._supervision is not None:
            self._supervision.close()
            self._supervision = None


def poll_hung_up(descriptor: int) -> bool:
    """Whether nobody is left who could call."""
    one = select.poll()
    one.register(descriptor, select.POLLIN)
    events = dict(one.poll(0)).get(descriptor, 0)
    return bool(events & select.POLLHUP) and not events & select.POLLIN


def channel(step: Step) -> Channel:
    """Before the step is cloned. Its end is ``step["overseer"]``, a descriptor, -1 where ids are real."""
    calls = _calls(step)
    if not calls:
        step["overseer"] = -1
        return Channel(step, None)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    step["overseer"] = theirs.fileno()
    return Channel(step, (ours, theirs))


def _calls(step: Step) -> frozenset[str]:
    if step["runtime"] or not (owners.in_namespace() or step["identity_namespace"]):
        return frozenset()
    if step["single"]:
        return numbers.EVERY
    return frozenset() if step["insecure"] else numbers.NODES


def keep(step: Step) -> int:
    """In the step's process: close every other descriptor. The kept one, or -1."""
    kept = int(step["overseer"])
    if kept < 0:
        syscalls.close_range(3, 0xFFFF_FFFF)
        return -1
    os.set_inheritable(kept, False)
    syscalls.close_range(3, kept - 1)
    syscalls.close_range(kept + 1, 0xFFFF_FFFF)
    return kept


def watch(step: Step, kept: int) -> None:
    """In the step's process, before it gives up capabilities: have its calls answered from now on."""
    if kept < 0:
        return
    descriptor = listener.install(listener.program(_calls(step), reading=bool(step["identity"][0])))
    sock = socket.socket(fileno=kept)
    wire.send_file(sock, descriptor)
    os.close(descriptor)
    sock.close()
