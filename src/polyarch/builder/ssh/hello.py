"""The first line each side says: who it is, and where a broken conversation is to go on.

The client's line is JSON, the node's is JSON behind a mark, because a login shell may print before it.
"""

from __future__ import annotations

import os
import time

import msgspec

from polyarch.builder.wire.link import Pipe
from polyarch.errors import PolyarchError, UnsupportedError
from polyarch.version import VERSION

PROTOCOL = 1  # of frames, calls and operations; another number is another language
MARK = b"polyarch-node "
_MOST_NOISE = 64 << 10  # bytes before the node's line
_LONGEST = 16 << 10


class Hello(msgspec.Struct, frozen=True, omit_defaults=True):
    """``session`` names the conversation, ``received`` counts the frames of it that came. The rest tells of
    the machine: ``platforms`` in text form, native first; ``boot`` and ``network`` are equal on both sides
    where they are one machine with one network; ``clock`` is seconds since 1970."""

    polyarch: str
    protocol: int
    session: str = ""
    received: int = 0
    platforms: tuple[str, ...] = ()
    boot: str = ""
    network: str = ""
    clock: float = 0.0


def own(*, session: str = "", received: int = 0, platforms: tuple[str, ...] = ()) -> Hello:
    """What this side says of itself."""
    boot, network = _here()
    return Hello(VERSION, PROTOCOL, session, received, platforms, boot, network, time.time())


def _here() -> tuple[str, str]:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        return boot, os.readlink("/proc/self/ns/net")
    except OSError:
        return "", ""


def encode(hello: Hello, *, node: bool) -> bytes:
    """The line."""
    return (MARK if node else b"") + msgspec.json.encode(hello) + b"\n"


def read(pipe: Pipe, *, node: bool) -> Hello:
    """The other side's line; lines before a node's are skipped. EOFError when the stream ends first,
    PolyarchError when what comes is something else."""
    noise = bytearray()
    while len(noise) < _MOST_NOISE:
        line = _line(pipe)
        if not node or line.startswith(MARK):
            try:
                return msgspec.json.decode(line.removeprefix(MARK), type=Hello)
            except msgspec.DecodeError:
                break
        noise += line
    raise PolyarchError(
        "what answers is not a polyarch node",
        detail=noise[:500].decode("utf-8", "replace"),
        reason="protocol",
    )


def _line(pipe: Pipe) -> bytes:
    """One line, byte by byte: what follows it belongs to somebody else."""
    line = bytearray()
    while len(line) < _LONGEST:
        byte = pipe.read(1)
        if not byte:
            raise EOFError
        line += byte
        if byte == b"\n":
            break
    return bytes(line)


def check(name: str, theirs: Hello) -> None:
    """UnsupportedError unless both sides speak the same protocol."""
    if theirs.protocol == PROTOCOL:
        return
    older, hint = "this polyarch", f"update it here to {theirs.polyarch}"
    if theirs.protocol < PROTOCOL:
        older, hint = "the node's polyarch", f"polyarch inspect --bootstrap installs {VERSION} there"
    raise UnsupportedError(
        f"{name} runs polyarch {theirs.polyarch}, and this is {VERSION}: {older} is too old",
        detail=f"the node speaks protocol {theirs.protocol}, this side {PROTOCOL}",
        hint=hint,
        reason="node-version",
    )
