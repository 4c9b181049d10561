"""The registry that every builder pushes to: the peers', or, when there are none, one of our own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench.builders import POLYARCH

PEERS_REGISTRY = "127.0.0.1:5000"
PATIENCE = 10  # seconds for our own registry to answer


@contextlib.contextmanager
def registry(folder: Path, *, peers: bool) -> Iterator[str]:
    """``host:port``. Our own keeps its content in ``folder`` and ends with the block."""
    given = os.environ.get("PEERS_REGISTRY", PEERS_REGISTRY if peers else "")
    if given:
        yield given
        return
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    words = [POLYARCH, "serve", "--root", str(folder / "registry"), "--listen", address]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait(address)
        yield address
    finally:
        process.terminate()
        process.wait()


def _wait(address: str) -> None:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
