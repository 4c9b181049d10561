"""Two places for file operations that must own files: this process (root), or the helper's user namespace."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

from polyarch.executor import calls, wire
from polyarch.executor.connection import Connection


class Direct:
    """``layer.layer.Privilege`` where this process may do everything itself."""

    def call(self, function: str, *arguments: object, files: Sequence[int] = ()) -> object:
        words = (*arguments, list(files)) if files else arguments
        return calls.resolve(function)(*words)

    def open(self, path: Path) -> BinaryIO:
        return path.open("rb")


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
