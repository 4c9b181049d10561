"""Starting OpenSSH with the user's own configuration, and understanding what it says when it fails."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from polyarch.builder.instance import NodeRecord
from polyarch.errors import UnsupportedError, UsageError
from polyarch.version import VERSION

CONNECT_SECONDS = 15
BOOTSTRAPPED = '"${XDG_DATA_HOME:-$HOME/.local/share}"/polyarch/node'  # below it a folder for each version
_KEPT_LINES = 40  # of what ssh and the node say on standard error
_NOT_FOUND = 127


@dataclass(frozen=True)
class Endpoint:
    """``ssh://[user@]host[:port]``."""

    host: str
    user: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """UsageError for anything else, and for what ssh would take for an option."""
        try:
            parts = urlsplit(text)
            host, port = parts.hostname or "", parts.port or 0
        except ValueError as error:
            raise _bad(text, str(error)) from None
        user = unquote(parts.username or "")
        if parts.scheme != "ssh" or not host:
            raise _bad(text, "it is written as ssh://[user@]host[:port]")
        if parts.password is not None:
            raise _bad(text, "passwords are not given in addresses; use a key, or ssh-agent")
        if parts.path not in ("", "/") or parts.query or parts.fragment:
            raise _bad(text, "nothing comes behind the host and port")
        if host.startswith("-") or user.startswith("-") or not re.fullmatch(r"[\w.:%-]+", host):
            raise _bad(text, "this is no host's name")
        # urlsplit makes hosts lower case, but names in ~/.ssh/config may be anything
        found = re.search(re.escape(host), text, re.IGNORECASE)
        return cls(found[0] if found else host, user, port)

    def __str__(self) -> str:
        return f"{self.user + '@' if self.user else ''}{self.host}{f':{self.port}' if self.port else ''}"


def _bad(text: str, why: str) -> UsageError:
    return UsageError(f"{text!r} is no address of a node: {why}", reason="invalid-endpoint")


def ssh_command(endpoint: Endpoint, remote: str, *, ask: bool = True) -> list[str]:
    """The command that runs ``remote``, a line for the login shell there. ``POLYARCH_SSH_COMMAND`` stands in
    for ``ssh``, as GIT_SSH_COMMAND does for git. Unless it may ``ask``, no password prompt holds it up."""
    command = shlex.split(os.environ.get("POLYARCH_SSH_COMMAND", "")) or ["ssh"]
    command += ["-T", "-o", f"ConnectTimeout={CONNECT_SECONDS}"]
    if not ask:
        command += ["-o", "BatchMode=yes"]
    if endpoint.user:
        command += ["-l", endpoint.user]
    if endpoint.port:
        command += ["-p", str(endpoint.port)]
    return [*command, "--", endpoint.host, remote]


def remote_line(record: NodeRecord, arguments: Sequence[str]) -> str:
    """A line for any login shell that runs polyarch: what was installed for this version, else what is in
    PATH or in the usual places. Without one it exits with 127."""
    words = " ".join(shlex.quote(word) for word in arguments)
    setting = ""
    if root := record.driver_opts.get("root"):
        setting = f"POLYARCH_ROOT={shlex.quote(root)}; export POLYARCH_ROOT; "
    if command := record.driver_opts.get("command"):
        return f"exec sh -c {shlex.quote(f'{setting}exec {command} {words}')}"
    places = f'{BOOTSTRAPPED}/{VERSION}/bin/polyarch polyarch "$HOME/.local/bin/polyarch"'
    script = (
        f"{setting}for p in {places}; do "
        f'if command -v "$p" >/dev/null 2>&1; then exec "$p" {words}; fi; done; exit {_NOT_FOUND}'
    )
    return f"exec sh -c {shlex.quote(script)}"


def grace_of(record: NodeRecord) -> float:
    """Seconds for which a node goes on when its client is cut off (driver option ``grace``)."""
    text = record.driver_opts.get("grace", "30")
    try:
        return min(max(float(text), 1.0), 3600.0)
    except ValueError:
        raise UsageError(f"grace={text!r} is no number of seconds", reason="driver-opt") from None


def serve_words(record: NodeRecord) -> tuple[str, ...]:
    """The command that serves a build there."""
    return ("node", "--grace", f"{grace_of(record):g}")


class Ssh:
    """A running ssh, as a pipe to the command on the other side."""

    def __init__(self, record: NodeRecord, remote: str, *, ask: bool = True) -> None:
        self.endpoint = Endpoint.parse(record.endpoint)
        try:
            # A session of its own: Ctrl-C is ours to handle, and must not break the connection.
            self._process = subprocess.Popen(
                ssh_command(self.endpoint, remote, ask=ask),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            raise UnsupportedError(
                f"ssh cannot be started: {error.strerror}",
                hint="apt-get install openssh-client",
                reason="no-ssh",
            ) from None
        assert self._process.stdin is not None and self._process.stdout is not None
        self._reading = self._process.stdout.fileno()
        self._writing = self._process.stdin.fileno()
        self._said: deque[str] = deque(maxlen=_KEPT_LINES)
        self._listener = threading.Thread(target=self._listen, name="ssh-stderr", daemon=True)
        self._listener.start()
        self._closing = threading.Lock()

    def read(self, size: int) -> bytes:
        """See ``Pipe``."""
        return os.read(self._reading, size)

    def write(self, data: bytes) -> None:
        """See ``Pipe``."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._writing, view) :]

    def close(self) -> None:
        """See ``Pipe``: ssh is ended at once, if it has not ended itself."""
        with self._closing:
            if self._process.poll() is None:
                self._process.terminate()
                try:
                    self._process.wait(1)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()

    @property
    def said(self) -> str:
        """What ssh and the node said on standard error."""
        self._listener.join(0.3)
        return "\n".join(self._said)

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal, None while it runs."""
        return self._process.poll()

    @property
    def not_installed(self) -> bool:
        """Whether the other side was reached but has no polyarch."""
        try:
            return self._process.wait(2) == _NOT_FOUND
        except subprocess.TimeoutExpired:
            return False

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line.decode("utf-8", "replace").rstrip()[:500])


def hint_for(said: str) -> str:
    """The way out of what ssh said."""
    for pattern, hint in (
        (
            "REMOTE HOST IDENTIFICATION HAS CHANGED",
            "if the host was set up anew: ssh-keygen -R HOST; else beware",
        ),
        ("Host key verification failed", "connect once with ssh yourself, and compare the host's key"),
        ("Permission denied", "ssh-copy-id puts your key there; ssh-add -l shows what your agent holds"),
        ("Could not resolve hostname", "check the name, or add it to ~/.ssh/config"),
        ("Connection refused", "is sshd running there, on this port?"),
        ("timed out", "is the host up, and not behind a firewall?"),
        ("No route to host", "is the host up, and is this the right network?"),
        ("Connection closed", "sshd's log on that host says why"),
    ):
        if pattern in said:
            return hint
    return ""


def is_passing(said: str) -> bool:
    """Whether what ssh said may be otherwise a moment later: a connection broke, or a server had too many."""
    words = ("Connection closed", "Connection reset", "Broken pipe", "closed by remote host", "kex_exchange")
    return not said.strip() or any(word in said for word in words)
