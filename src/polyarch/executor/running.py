"""One step while it runs, seen from the requester: output, terminal, cancellation, and how it ended."""

from __future__ import annotations

import os
import select
import socket
import time
from contextlib import ExitStack
from threading import Event

from polyarch.errors import CancelledError, PolyarchError
from polyarch.executor import terminal, wire
from polyarch.executor.spec import Crash, Output

_INTERVAL = 50  # milliseconds between looks at the cancellation and the window size
_CHUNK = 1 << 16

# What QEMU and Go print when it was surely the emulator that failed (QEMU's linux-user; Go's lfstack).
_EMULATOR = (
    b"lfstack.push invalid packing",
    b"QEMU internal SIG",
    b"qemu: fatal:",
    b"qemu-user: ",
    b"Unable to reserve 0x",
    b"qemu: Unsupported syscall",
    b"qemu: uncaught target signal 4 ",  # an instruction the emulator does not know
)
# And what it prints when a program got a signal, by its own fault or by the emulator's.
_SIGNAL = b"qemu: uncaught target signal "
_OVERLAP = max(len(text) for text in (*_EMULATOR, _SIGNAL))


class Running:
    """Follows a step to its end. ``pipes`` are the read ends of its standard output and error; after
    ``patience`` seconds without output the step is killed (0: never)."""

    def __init__(
        self,
        sock: socket.socket,
        pipes: dict[int, int],
        output: Output,
        stdin: int | None,
        patience: float = 0,
    ) -> None:
        self._patience = patience
        self._heard = time.monotonic()
        self._sock = sock
        self._pipes = pipes  # descriptor → 1 or 2
        self._output = output
        self._stdin = stdin
        self._relay: terminal.Relay | None = None
        self._tails: dict[int, bytes] = {}
        self._sock_open = True
        self._failure: PolyarchError | None = None
        self.code: int | None = None
        self.crash: Crash = ""
        self.emulation: float | None = None
        self.silent = False  # killed because it was

    def follow(self, cancelled: Event) -> int:
        """Wait for the end and return the exit code. CancelledError when ``cancelled`` was set and everything
        is dead; PolyarchError when the step could not be started."""
        killed = False
        with ExitStack() as stack:
            try:
                while self._sock_open or self._pipes:
                    if cancelled.is_set() and not killed:
                        killed = True
                        self._kill()
                    if self._patience and not self.silent and self._is_silent():
                        self.silent = True
                        self._kill()
                    self._look(stack)
            except BaseException:
                self._kill()
                self._drain()
                raise
            finally:
                self._close()
        if killed:
            raise CancelledError("the step was cancelled", reason="cancelled")
        if self._failure is not None:
            raise self._failure
        if self.silent:
            return 137
        if self.code is None:
            raise PolyarchError(
                "the step ended without saying how",
                hint="was its first process killed for lack of memory? see the kernel's log: dmesg",
                reason="step-vanished",
            )
        return self.code

    def _is_silent(self) -> bool:
        return time.monotonic() - self._heard > self._patience

    def _kill(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the supervisor is gone, and with it the step

    def _drain(self) -> None:
        self._output = lambda _stream, _data: None
        try:
            while self._sock_open:
                with ExitStack() as stack:
                    self._look(stack)
        except (OSError, EOFError, PolyarchError):
            pass  # on the way out because of another error already

    def _look(self, stack: ExitStack) -> None:
        poll = select.poll()
        for pipe in self._pipes:
            poll.register(pipe, select.POLLIN)
        if self._sock_open:
            poll.register(self._sock, select.POLLIN)
        relay = self._relay
        if relay is not None:
            relay.follow_size()
            if relay.open and self._sock_open:
                poll.register(relay.descriptor, select.POLLIN)
        for ready, _ in poll.poll(_INTERVAL):
            if ready in self._pipes:
                self._read(ready)
            elif ready == self._sock.fileno():
                self._event(stack)
            elif relay is not None and ready == relay.descriptor:
                relay.input()

    def _read(self, pipe: int) -> None:
        stream = self._pipes[pipe]
        if self._relay is not None and pipe == self._relay.master:
            data = self._relay.output()
        else:
            data = os.read(pipe, _CHUNK)
        if not data:
            del self._pipes[pipe]
            if self._relay is None or pipe != self._relay.master:
                os.close(pipe)
            return
        self._heard = time.monotonic()
        if self.crash != "emulator":
            tail = self._tails.get(stream, b"") + data
            if any(text in tail for text in _EMULATOR):
                self.crash = "emulator"
            elif _SIGNAL in tail:
                self.crash = "unclear"
            self._tails[stream] = tail[-_OVERLAP:]
        self._output(stream, data)

    def _event(self, stack: ExitStack) -> None:
        data = wire.receive_block(self._sock)
        if data is None:
            self._sock_open = False
            return
        kind, value = wire.unpack_event(data)
        match kind:
            case "terminal":
                descriptor = 0 if self._stdin is None else self._stdin
                self._relay = terminal.Relay(wire.receive_file(self._sock), descriptor)
                self._pipes[self._relay.master] = 1
                stack.enter_context(terminal.raw(descriptor))
            case "exited":
                self.code = int(value)
            case "refused":
                self._failure = PolyarchError(
                    f"the root filesystem of a step could not be put together: {value}", reason="sandbox"
                )
            case "emulated":
                self.emulation = None if value is None else float(value)
            case "limits":
                self._failure = PolyarchError(f"the step cannot be limited: {value}", reason="limits")
            case "bug":
                self._failure = PolyarchError(f"the sandbox failed: {value}", reason="sandbox-bug")
            case "ended":
                self._sock_open = False

    def _close(self) -> None:
        for pipe in self._pipes:
            if self._relay is None or pipe != self._relay.master:
                os.close(pipe)
        self._pipes.clear()
        if self._relay is not None:
            self._relay.close()
        self._sock.close()
