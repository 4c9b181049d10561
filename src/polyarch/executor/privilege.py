"""Where an ordinary user's file operations find their owners: the helper's user namespace. Root needs none of
this (``layer.direct``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from polyarch.executor import calls, wire
from polyarch.executor.connection import Connection


class Namespaced:
    """``layer.layer.Privilege`` by the helper: every call in a process of its own, as root of the user
    namespace. Calls from several threads run at the same time."""

    def __init__(self, connection: Callable[[], Connection]) -> None:
        self._connection = connection

    def call(self, function: str, *arguments: object, files: Sequence[int] = ()) -> object:
        module = function.partition(":")[0]
        with self._connection().request("call", module, tuple(files)) as sock:
            return calls.ask(sock, function, arguments, files=bool(files))

    def open(self, path: Path) -> BinaryIO:
        with self._connection().request("open", str(path)) as sock:
            answer = wire.receive_block(sock)
            kind, value = wire.unpack_event(answer) if answer else ("error", (5, "the helper is gone"))
            if kind != "file":
                raise OSError(*value, str(path))
            return open(wire.receive_file(sock), "rb")
