"""Messages between polyarch and its helper process, over private sockets.

Steps are described with ``marshal`` (plain values, no import), calls with ``pickle`` (both ends are this
program, run by the same user, from the same files). Nothing a step runs ever gets hold of these sockets.
"""

from __future__ import annotations

import array
import marshal
import os
import socket
import struct
from typing import Any

_LENGTH = struct.Struct("=Q")
_MOST_FILES = 64


def send_files(sock: socket.socket, data: bytes, files: list[int]) -> None:
    """One message of a SEQPACKET socket, with open files."""
    ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
    sock.sendmsg([data], ancillary)


def receive_files(sock: socket.socket) -> tuple[bytes, list[int]]:
    """The next message of a SEQPACKET socket; b"" when the other side is gone. Files are close-on-exec."""
    data, ancillary, _, _ = sock.recvmsg(1 << 16, socket.CMSG_SPACE(_MOST_FILES * 4), socket.MSG_CMSG_CLOEXEC)
    files = array.array("i")
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            files.frombytes(content[: len(content) - len(content) % files.itemsize])
    return data, list(files)


def send_block(sock: socket.socket, data: bytes) -> None:
    """A message of any size over a STREAM socket."""
    sock.sendall(_LENGTH.pack(len(data)))
    sock.sendall(data)


def receive_block(sock: socket.socket) -> bytes | None:
    """The next message of a STREAM socket, None at its end."""
    head = _receive(sock, _LENGTH.size)
    return None if head is None else _receive(sock, _LENGTH.unpack(head)[0])


def _receive(sock: socket.socket, size: int) -> bytes | None:
    buffer = bytearray(size)
    view = memoryview(buffer)
    done = 0
    while done < size:
        count = sock.recv_into(view[done:])
        if not count:
            return None
        done += count
    return bytes(buffer)


def send_file(sock: socket.socket, file: int) -> None:
    """One open file over a STREAM socket."""
    send_files(sock, b"f", [file])


def receive_file(sock: socket.socket) -> int:
    """The open file that ``send_file`` sent; EOFError when the other side is gone."""
    _, ancillary, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    for level, kind, content in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            return int(array.array("i", content[:4])[0])
    raise EOFError("the helper process sent no file")


def pack(value: Any) -> bytes:
    return marshal.dumps(value)


def unpack(data: bytes) -> Any:
    return marshal.loads(data)


def unpack_event(data: bytes) -> tuple[str, Any]:
    """What ``report`` sent, or a request of the control socket."""
    event: tuple[str, Any] = marshal.loads(data)
    return event


def report(sock: socket.socket, event: str, value: Any = None) -> None:
    """One event of a step, to whoever still listens."""
    try:
        send_block(sock, pack((event, value)))
    except OSError:
        pass  # nobody does: the step is being killed


def close_all(files: list[int]) -> None:
    for file in files:
        os.close(file)
