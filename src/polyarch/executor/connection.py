"""The parent's side of the helper process: starting it, mapping ids, sending requests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from polyarch.errors import PolyarchError, UnsupportedError
from polyarch.executor import entry, idmap, wire

_SOURCE = str(Path(__file__).resolve().parents[2])


class Connection:
    """One helper process. Requests may come from any thread; each brings its own socket."""

    def __init__(self, *, user_namespace: bool, single: bool = False) -> None:
        """Start it and wait until it is ready (50 ms; once). UnsupportedError says what is not allowed.
        ``single``: map one id even where there are more."""
        maps = _plan(single=single) if user_namespace else None
        self.single = False  # whether one id is mapped only
        self._lock = threading.Lock()
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mode = "user" if user_namespace else "root"
        paths = [_SOURCE, *(path for path in sys.path if path.startswith("/") and path != _SOURCE)]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", entry.CODE, str(theirs.fileno()), mode, *paths],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=None if os.environ.get("POLYARCH_DEBUG") else subprocess.DEVNULL,
                cwd="/",
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
                start_new_session=True,
            )
        try:
            self._handshake(maps)
        except BaseException:
            self.close()
            raise

    def _handshake(self, maps: Maps | None) -> None:
        while True:
            data, _ = wire.receive_files(self._control)
            if not data:
                raise PolyarchError("the helper process did not start", reason="helper-died")
            kind, value = wire.unpack_event(data)
            if kind == "ready":
                return
            if kind == "refused":
                raise no_user_namespaces(str(value))
            if kind == "unshared" and maps is not None:
                maps = _mapped(int(value), maps)
                self.single = all(len(extents) == 1 and extents[0][2] == 1 for extents in maps)
                denied = maps == idmap.single()
                wire.send_files(self._control, b"single" if denied else b"mapped", [])

    def request(self, kind: str, detail: object = None, files: tuple[int, ...] = ()) -> socket.socket:
        """Send one request; the answer comes over the returned socket, which the caller closes."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs, self._lock:
                wire.send_files(self._control, wire.pack((kind, detail)), [theirs.fileno(), *files])
        except OSError:
            ours.close()
            raise PolyarchError("the helper process is gone", reason="helper-died") from None
        except BaseException:
            ours.close()
            raise
        return ours

    def close(self) -> None:
        """End it; steps that still run are killed."""
        with self._lock:
            self._control.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


Maps = tuple[list[idmap.Extent], list[idmap.Extent]]


def _plan(*, single: bool) -> Maps:
    try:
        return idmap.single() if single else idmap.plan()
    except idmap.NoIds:
        return idmap.single()


def _mapped(pid: int, maps: Maps) -> Maps:
    """Write the maps; one id where newuidmap may not write more (no_new_privs, a disk without setuid)."""
    try:
        idmap.write(pid, *maps)
        return maps
    except OSError as error:
        failure = error
    try:
        if Path(f"/proc/{pid}/uid_map").read_text():
            raise failure  # half of it is done, and no map is written twice
        idmap.write(pid, *idmap.single())
        return idmap.single()
    except OSError:
        raise UnsupportedError(
            f"the ids of a user namespace cannot be mapped: {failure.strerror}",
            hint="check /etc/subuid and /etc/subgid, and that newuidmap and newgidmap are setuid root",
            reason="no-id-map",
        ) from None


def no_user_namespaces(why: str) -> UnsupportedError:
    """Why this user may not make user namespaces, as far as the machine tells, and what helps."""
    hint = (
        "in a container: run it with a seccomp profile that allows user namespaces "
        "(docker run --security-opt seccomp=unconfined), or as root with CAP_SYS_ADMIN"
    )
    for path, bad, command in (
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        (
            "/proc/sys/kernel/unprivileged_userns_clone",
            "0",
            "sudo sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        ("/proc/sys/user/max_user_namespaces", "0", "sudo sysctl -w user.max_user_namespaces=15000"),
    ):
        try:
            if Path(path).read_text().strip() == bad:
                hint = command
        except OSError:
            continue
    return UnsupportedError(
        f"this user may not make user namespaces and mounts ({why}), which RUN needs",
        hint=hint,
        reason="no-user-namespaces",
    )
