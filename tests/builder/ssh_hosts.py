"""Machines to be reached by ssh: real OpenSSH servers on loopback with keys and configuration of their own.

Each is a host by a name in a configuration of the test's, with a state directory of its own; its login finds
``polyarch`` in PATH, which is the code under test.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import polyarch
from polyarch.builder.instance import NodeRecord
from polyarch.oci.platform import Platform

SOURCES = Path(polyarch.__file__).parent.parent
_SSHD = "/usr/sbin/sshd"


@dataclass
class Host:
    """One machine. ``root`` is where its polyarch keeps its state."""

    name: str
    folder: Path
    port: int
    server: subprocess.Popen[bytes] | None = None

    @property
    def root(self) -> Path:
        return self.folder / "state"

    @property
    def programs(self) -> Path:
        """What is first in PATH after a login."""
        return self.folder / "bin"

    def record(self, *platforms: str, **options: str) -> NodeRecord:
        """The host as a node."""
        return NodeRecord(
            name=self.name,
            endpoint=f"ssh://{self.name}",
            driver="ssh",
            platforms=tuple(Platform.parse(text) for text in platforms),
            driver_opts=options,
        )

    def install(self, script: str) -> None:
        """Let ``polyarch`` be this shell script."""
        program = self.programs / "polyarch"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def start(self) -> None:
        """Start the server, and wait until it listens."""
        command = [_SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with open(self.folder / "log", "ab") as log:
            self.server = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(200):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise AssertionError(f"sshd does not start: {(self.folder / 'log').read_text()}")

    def stop(self) -> None:
        """Stop the server with all its connections."""
        if self.server is not None:
            for child in _children(self.server.pid):
                _kill(child)
            self.server.kill()
            self.server.wait()
            self.server = None

    def cut(self) -> int:
        """Cut every connection there is, as a broken network does; how many."""
        assert self.server is not None
        sessions = _children(self.server.pid)
        for session in sessions:
            _kill(session)
        return len(sessions)

    def nodes(self) -> list[int]:
        """The processes of ``polyarch node`` that use this host's state."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                environment = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"node" in words and f"POLYARCH_ROOT={self.root}".encode() in environment:
                found.append(int(entry.name))
        return found

    def is_left(self) -> bool:
        """Whether no polyarch runs there any more, or not for much longer."""
        end = time.monotonic() + 5
        while self.nodes():
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def kill_nodes(self) -> None:
        """End polyarch there as the kernel does when memory runs out."""
        for process in self.nodes():
            _kill(process)


@dataclass
class Hosts:
    """All machines of a test."""

    folder: Path
    hosts: list[Host] = field(default_factory=list)

    @property
    def command(self) -> str:
        """The value of POLYARCH_SSH_COMMAND."""
        return f"ssh -F {self.folder / 'config'}"

    def add(self, name: str) -> Host:
        """A new machine, running."""
        self._prepare()
        folder = self.folder / name
        (folder / "bin").mkdir(parents=True)
        _key(folder / "host_key")
        host = Host(name, folder, _free_port())
        python = f"PYTHONPATH={SOURCES} exec {sys.executable} -m polyarch"
        host.install(f'{python} "$@"')
        (folder / "sshd_config").write_text(
            f"Port {host.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nPidFile none\nStrictModes no\nUsePAM no\n"
            "PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            # The login shell's own files must not matter, so PATH is set behind them.
            f"SetEnv POLYARCH_ROOT={host.root}\n"
            f"ForceCommand PATH={host.programs}:/usr/sbin:/usr/bin:/sbin:/bin exec "
            '/bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
        )
        public = (folder / "host_key.pub").read_text().split()[:2]
        with open(self.folder / "known_hosts", "a") as known:
            known.write(f"[127.0.0.1]:{host.port} {' '.join(public)}\n")
        with open(self.folder / "config", "a") as config:
            config.write(
                f"Host {name}\n  HostName 127.0.0.1\n  Port {host.port}\n  IdentityFile {self.folder}/key\n"
                f"  UserKnownHostsFile {self.folder}/known_hosts\n  StrictHostKeyChecking yes\n"
                "  IdentitiesOnly yes\n"
            )
        host.start()
        self.hosts.append(host)
        return host

    def close(self) -> None:
        for host in self.hosts:
            host.stop()
            host.kill_nodes()

    def _prepare(self) -> None:
        if (self.folder / "key").exists():
            return
        _key(self.folder / "key")
        (self.folder / "authorized_keys").write_bytes((self.folder / "key.pub").read_bytes())
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where sshd gives up its privileges


def _key(path: Path) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _children(process: int) -> list[int]:
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        pass
