"""A real BuildKit for tests: Debian's newest dockerd in a root and namespaces of its own, on a unix socket.

The root is made once with mmdebstrap and kept in ~/.cache/polyarch-tests. What the daemon writes goes into a
folder of the test session; when its process ends, so do its mounts and everything it started.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from polyarch.base import host_sources
from polyarch.base.recipe import Recipe
from polyarch.oci.platform import host

PACKAGES = "docker.io,containerd,runc,ca-certificates,git,dash,sed,grep,coreutils,openssh-client,xz-utils"
_UP_WITHIN = 60.0  # seconds
_START = """
set -e
mount --bind "$ROOT" "$ROOT"
for name in proc sys dev run tmp root var/lib/docker; do mkdir -p "$ROOT/$name"; done
mount -t proc proc "$ROOT/proc"
mount --rbind /sys "$ROOT/sys"
mount --rbind /dev "$ROOT/dev"
for name in run tmp var/lib/docker; do mkdir -p "$WORK/$name"; mount --bind "$WORK/$name" "$ROOT/$name"; done
mkdir -p "$ROOT/mnt/old"
cd "$ROOT"
pivot_root . mnt/old
exec chroot . sh -c 'umount -l /mnt/old; exec /usr/sbin/dockerd --config-file /run/daemon.json \
    -H unix:///run/docker.sock'
"""


def why_not() -> str:
    """Why no daemon can be started here; empty where one can."""
    if os.geteuid() != 0:
        return "only root can start a dockerd"
    if shutil.which("mmdebstrap") is None:
        return "mmdebstrap is not installed"
    done = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], capture_output=True, check=False)
    return "" if done.returncode == 0 else "root has no mount and process namespaces here"


def made_root(cache: Path) -> Path:
    """The daemon's root filesystem."""
    root = cache / "dockerd-2"
    if (root / "usr/sbin/dockerd").exists():
        return root
    entries = host_sources.chosen(Recipe(name="dockerd", platforms=(host(),)), "sid", host_sources.read())
    partial = cache / f"dockerd-{os.getpid()}.partial"
    command = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={PACKAGES}"]
    command += ["--aptopt=Acquire::Check-Valid-Until false", "--aptopt=APT::Install-Recommends false"]
    command += ["--format=directory", "sid", str(partial), *(entry.line() for entry in entries)]
    cache.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(command, check=True, timeout=300)
        for name in ("bin", "sbin", "lib", "lib64"):
            if not (partial / name).exists():
                (partial / name).symlink_to(f"usr/{name}")
        if not (partial / "usr/bin/sh").exists():
            (partial / "usr/bin/sh").symlink_to("dash")
        (partial / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (partial / "etc/group").write_text("root:x:0:\ndocker:x:999:\n")
        (partial / "etc/resolv.conf").write_text("")
        for folder in ("share/doc", "share/locale", "share/man"):
            shutil.rmtree(partial / "usr" / folder, ignore_errors=True)
        partial.rename(root)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return root


class Dockerd:
    """A daemon below ``work``. It uses this machine's network, so that it reaches servers of tests; steps
    have none of their own (``--network host`` or ``none``)."""

    def __init__(self, root: Path, work: Path) -> None:
        self.root = root
        self.work = work
        self.socket = work / "run/docker.sock"
        self.endpoint = f"unix://{self.socket}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        (self.work / "run").mkdir(parents=True, exist_ok=True)
        for stale in ("docker.pid", "docker.sock"):
            (self.work / "run" / stale).unlink(missing_ok=True)
        settings = {
            "features": {"containerd-snapshotter": True},
            "bridge": "none",
            "iptables": False,
            "data-root": "/var/lib/docker",
            "exec-root": "/run/docker",
            "pidfile": "/run/docker.pid",
            "insecure-registries": ["127.0.0.0/8"],
        }
        (self.work / "run/daemon.json").write_text(json.dumps(settings))
        environment = {
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "ROOT": str(self.root),
            "WORK": str(self.work),
        }
        command = ["unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child"]
        with (self.work / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "sh", "-c", _START],
                env=environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        end = time.monotonic() + _UP_WITHIN
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"dockerd did not start:\n{(self.work / 'log').read_text()[-3000:]}")
            time.sleep(0.1)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            try:
                connection.connect(str(self.socket))
                connection.sendall(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
                return connection.recv(64).startswith(b"HTTP/1.1 200")
            except OSError:
                return False

    def stop(self) -> None:
        """End it and everything in its namespaces at once, as a crash does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(30)
            self._process = None


@contextmanager
def forwarded(target: Path, tls: ssl.SSLContext | None = None, *, upgrade: str = "/grpc") -> Iterator[str]:
    """``HOST:PORT`` of a TCP port that is what the engine's ``upgrade`` path gives: a BuildKit daemon's own
    API, as buildkitd has it on its port. With ``upgrade`` "" the engine's."""
    listener = socket.create_server(("127.0.0.1", 0))
    open_sockets: list[socket.socket] = []

    def serve(near: socket.socket) -> None:
        try:
            if tls is not None:
                near = tls.wrap_socket(near, server_side=True)
            far = socket.socket(socket.AF_UNIX)
            open_sockets.extend((near, far))
            far.connect(str(target))
            if upgrade:
                head = (
                    f"POST {upgrade} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
                )
                far.sendall(head.encode())
                answer = b""
                while not answer.endswith(b"\r\n\r\n"):
                    answer += far.recv(1)
            threading.Thread(target=_pump, args=(far, near), daemon=True).start()
            _pump(near, far)
        except OSError:
            near.close()

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
        for one in open_sockets:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # closed already
            one.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # either side has closed
