"""``--ssh ID=KEY[,KEY…]``: key files are served by an agent of our own, which ends with the build."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from polyarch.errors import NotFoundError, UnsupportedError, UsageError


@contextmanager
def serving(keys: Sequence[Path]) -> Iterator[Path]:
    """The socket of an ssh-agent that holds ``keys``. No passphrase is asked for: UsageError instead."""
    for program in ("ssh-agent", "ssh-add"):
        if shutil.which(program) is None:
            raise UnsupportedError(
                f"--ssh with key files needs {program}",
                hint="apt-get install openssh-client",
                reason="no-ssh",
            )
    for key in keys:
        if not key.is_file():
            raise NotFoundError(f"--ssh: there is no key file {key}", reason="ssh-not-found")
    with tempfile.TemporaryDirectory(prefix="polyarch-ssh-") as folder:
        socket = Path(folder) / "agent"
        started = subprocess.run(
            ["ssh-agent", "-s", "-a", str(socket)], capture_output=True, text=True, check=True
        )
        number = int(started.stdout.partition("SSH_AGENT_PID=")[2].partition(";")[0])
        try:
            for key in keys:
                _add(key, socket)
            yield socket
        finally:
            try:
                os.kill(number, signal.SIGTERM)
            except ProcessLookupError:
                pass


def _add(key: Path, socket: Path) -> None:
    environment = {**os.environ, "SSH_AUTH_SOCK": str(socket), "SSH_ASKPASS_REQUIRE": "never"}
    environment.pop("DISPLAY", None)
    added = subprocess.run(
        ["ssh-add", "-q", str(key)],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    if added.returncode:
        raise UsageError(
            f"--ssh: {key} cannot be used: {added.stderr.strip()[:300]}",
            hint="a key with a passphrase must be added to an agent of yours: ssh-add",
            reason="ssh-key",
        )
