"""The physical floor of a row: what has to be done whoever does it, done once and with nothing around it.

    python -m bench.floor ask ADDRESS            one process that asks a registry one question
    python -m bench.floor stat ADDRESS FOLDER    the same, and looks at every file of a folder
    python -m bench.floor pass FOLDER TARGET     reads every file once, hashes it, hashes and compresses their
                                                 tar as we do, hashes the result and writes it once
    python -m bench.floor runs COUNT TARGET      COUNT shells, one after another, each writing a file

Each is timed as a process of its own, like the builders.
"""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path


def timed(*words: str | Path) -> float:
    """Seconds that one of the programs above takes."""
    command = [sys.executable, "-m", "bench.floor", *map(str, words)]
    begun = time.perf_counter()
    subprocess.run(command, check=True, cwd=Path(__file__).parents[1])
    return time.perf_counter() - begun


def ask(address: str) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"HEAD /v2/ HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        while connection.recv(1 << 16):
            pass


def look(folder: str) -> int:
    count = 0
    for item in os.scandir(folder):
        item.stat(follow_symlinks=False)
        count += 1 + (look(item.path) if item.is_dir(follow_symlinks=False) else 0)
    return count


def read_once(folder: str, target: str) -> None:
    from polyarch.layer.compress import Compressor
    from polyarch.layer.layer import Compression

    whole = hashlib.sha256()
    with open(target, "wb") as written:

        def sink(piece: bytes) -> None:
            whole.update(piece)
            written.write(piece)

        with Compressor(sink, Compression()) as compressor:
            for place, folders, names in os.walk(folder):
                folders.sort()
                for name in sorted(names):
                    data = Path(place, name).read_bytes()
                    hashlib.sha256(data).hexdigest()
                    compressor.write(name.encode().ljust(512, b"\0") + data + b"\0" * (-len(data) % 512))
            compressor.finish()
        written.flush()
        os.fsync(written.fileno())


def shells(count: int, target: str) -> None:
    for number in range(count):
        subprocess.run(["sh", "-c", f"echo {number} > {target}/step{number}"], check=True)


def main(words: list[str]) -> None:
    """One of the programs."""
    match words:
        case ["ask", address]:
            ask(address)
        case ["stat", address, folder]:
            ask(address)
            look(folder)
        case ["pass", folder, target]:
            read_once(folder, target)
        case ["runs", count, target]:
            shells(int(count), target)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
