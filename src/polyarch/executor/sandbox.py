"""The executor of our own: every step in new namespaces over an overlay, forked by a small helper process.

As root the overlay and host mounts are made with root's rights, and foreign platforms run in a user namespace
that maps every id to itself, for its private binfmt_misc. An ordinary user's steps run in one user namespace
with the user's subordinate ids; so do file operations on what those ids own (``privilege``).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from threading import Event
from types import TracebackType
from typing import Any

from polyarch.content.state import State
from polyarch.errors import CancelledError, PolyarchError
from polyarch.executor import description, syscalls, wire
from polyarch.executor.connection import Connection
from polyarch.executor.dispatch.prepared import prepared
from polyarch.executor.emulator import Emulators
from polyarch.executor.privilege import Namespaced
from polyarch.executor.running import Running
from polyarch.executor.spec import ExitStatus, Mount, Output, Process, RootFilesystem
from polyarch.layer import owners
from polyarch.layer.direct import DirectPrivilege
from polyarch.layer.layer import Privilege


class Sandbox:
    """An ``Executor``. Thread-safe; one per build is enough. Close it, or use it in a ``with``."""

    def __init__(
        self, state: State, emulators: Emulators, *, privileged: bool, single_id: bool = False
    ) -> None:
        self._single_id = single_id
        self._state = state
        self._emulators = emulators
        self._privileged = privileged
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._registered = False
        self._closed = False
        self._privilege: Privilege = DirectPrivilege() if privileged else Namespaced(self._helper)

    @classmethod
    def start(
        cls,
        state: State,
        *,
        emulators: Emulators | None = None,
        privileged: bool | None = None,
        single_id: bool | None = None,
    ) -> Sandbox:
        """Nothing is run and nothing can fail yet: the helper starts with the first step or call.

        ``privileged`` None finds out whether this process may mount, which root usually may. ``single_id``
        does with one user id even where there are more; POLYARCH_SINGLE_ID=1 says so where it is None.
        """
        if single_id is None:
            single_id = os.environ.get("POLYARCH_SINGLE_ID", "") not in ("", "0")
        if privileged is None:
            # Root of a namespace with one id is not root enough.
            whole = not single_id and owners.mapped() > 1
            privileged = os.geteuid() == 0 and syscalls.may_mount() and whole
        return cls(
            state,
            emulators or Emulators.discover(taken=state.emulators / "taken"),
            privileged=privileged,
            single_id=single_id,
        )

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the helper and every step that still runs. May be called twice."""
        with self._lock:
            connection, self._connection, self._closed = self._connection, None, True
        if connection is not None:
            connection.close()

    def prepare(self) -> None:
        """Let the helper start beside whatever comes next: a step will probably need it. Should it fail, it
        fails again when it is needed, where somebody is told."""
        threading.Thread(target=self._try_helper, name="helper", daemon=True).start()

    def _try_helper(self) -> None:
        try:
            self._helper()
        except (PolyarchError, OSError):
            pass

    @property
    def privilege(self) -> Privilege:
        """Where files of every owner can be made, read and removed."""
        return self._privilege

    @property
    def userxattr(self) -> bool:
        """Whether overlay's marks are ``user.overlay.*`` (user namespace), not ``trusted.overlay.*``."""
        return not self._privileged

    def look_again(self) -> None:
        """Look for emulators again; some were installed since. Before the first step that needs one."""
        self._emulators = Emulators.discover(taken=self._state.emulators / "taken")

    @property
    def emulators(self) -> Emulators:
        return self._emulators

    def run(
        self,
        process: Process,
        root: RootFilesystem,
        mounts: tuple[Mount, ...],
        output: Output,
        cancelled: Event,
    ) -> ExitStatus:
        """See ``Executor.run``."""
        return self.run_step(process, root, mounts, output, cancelled, lambda step: None)

    def run_step(
        self,
        process: Process,
        root: RootFilesystem,
        mounts: tuple[Mount, ...],
        output: Output,
        cancelled: Event,
        adapt: Callable[[dict[str, Any]], None],
    ) -> ExitStatus:
        """``run``, with a last word on the step's description for another kind of executor."""
        if cancelled.is_set():
            raise CancelledError("the step was cancelled before it began", reason="cancelled")
        strategy = self._emulators.require(process.platform)
        step = description.describe(process, root, mounts)
        step |= self._places(step)
        private = strategy.via == "private"
        step |= {
            "userxattr": not self._privileged,
            "emulated": strategy.kind == "emulated",
            "identity_namespace": private and self._privileged,
            "emulators": self._registrations() if private and self._privileged else [],
            "runtime": None,
        }
        adapt(step)
        helper = self._helper()
        step["single"] = helper.single
        step["links"] = dict(root.links()) if helper.single else {}
        if private and not self._privileged:
            self._register(helper, str(step["scratch"]))
        running = self._begin(helper, step, process, output)
        code = running.follow(cancelled)
        emulated = strategy.kind == "emulated"
        crash = running.crash if emulated and code else ""
        return ExitStatus(code, emulated, crash, running.silent, running.emulation)

    def _begin(self, helper: Connection, step: dict[str, Any], process: Process, output: Output) -> Running:
        pipes: dict[int, int] = {}
        theirs: list[int] = []
        files: list[int] = []
        if not process.terminal:
            if process.stdin is not None:
                files.append(process.stdin)
            for stream in (1, 2):
                reading, writing = os.pipe()
                pipes[reading] = stream
                theirs.append(writing)
        try:
            sock = helper.request("step", None, (*files, *theirs))
        except BaseException:
            wire.close_all(list(pipes))
            raise
        finally:
            wire.close_all(theirs)
        try:
            wire.send_block(sock, wire.pack(step))
        except OSError:
            pass  # how it ended comes out when it is followed
        patience = process.emulator_patience if step["emulated"] else 0
        return Running(sock, pipes, output, process.stdin, patience)

    def _helper(self) -> Connection:
        with self._lock:
            if self._closed:
                raise PolyarchError("the sandbox was closed", reason="sandbox-closed")
            if self._connection is None:
                self._connection = Connection(user_namespace=not self._privileged, single=self._single_id)
            return self._connection

    def _register(self, helper: Connection, place: str) -> None:
        """Give the user namespace its emulators, once."""
        emulators = self._registrations()
        with self._lock:
            if self._registered:
                return
            with helper.request("binfmt", (emulators, place)) as sock:
                answer = wire.receive_block(sock)
            kind, value = wire.unpack_event(answer) if answer else ("error", "the helper is gone")
            if kind != "ok":
                raise PolyarchError(f"emulators could not be registered: {value}", reason="binfmt")
            self._registered = True

    def _registrations(self) -> list[tuple[str, str, bool]]:
        """The emulators a step gets: with the dispatcher in front where they keep argv[0], which it needs."""
        folder = self._state.emulators
        return [
            (qemu, os.path.realpath(prepared(Path(path), qemu, folder)) if keep else path, keep)
            for qemu, path, keep in self._emulators.registrations()
        ]

    def _places(self, step: dict[str, Any]) -> dict[str, Any]:
        """A mount point for the step's own mount namespace, and the lowest layer with its mount points."""
        temporary = self._state.temporary
        scratch, empty = temporary / "sandbox", temporary / "empty"
        for folder in (scratch, empty):
            folder.mkdir(parents=True, exist_ok=True)
        points = description.stubs(step["mounts"])
        stubs = _stub_tree(temporary, points)
        return {
            "scratch": os.path.realpath(scratch),
            "empty": str(empty),
            "lowers": [str(stubs), *step["lowers"]],
        }


def _stub_tree(temporary: Path, points: list[tuple[str, bool]]) -> Path:
    """A directory with empty files and directories at ``points``, used below every other layer: there a step
    finds its mount points without one ever being made in what becomes a layer."""
    name = hashlib.sha256(repr(points).encode(errors="surrogateescape")).hexdigest()[:32]
    final = temporary / f"points-{name}"
    if final.is_dir():
        return final
    making = Path(tempfile.mkdtemp(prefix="points.", dir=temporary))
    try:
        for path, directory in points:
            place = making / path
            if directory:
                place.mkdir()
                place.chmod(0o755)
            else:
                place.touch()
                place.chmod(0o644)
        making.chmod(0o755)
        making.rename(final)
    except OSError:
        shutil.rmtree(making, ignore_errors=True)
        if not final.is_dir():  # else another process was faster
            raise
    return final
