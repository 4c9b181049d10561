"""Function calls that cross into the helper: arguments and results pickled, errors as what they are."""

from __future__ import annotations

import importlib
import os
import pickle
import socket
import traceback
from collections.abc import Callable, Sequence

from polyarch.errors import PolyarchError
from polyarch.executor import wire


def ask(sock: socket.socket, function: str, arguments: Sequence[object], *, files: bool) -> object:
    """The caller's side: send the call, wait for the result, raise what it raised."""
    wire.send_block(sock, pickle.dumps((function, tuple(arguments), files), protocol=5))
    answer = wire.receive_block(sock)
    if answer is None:
        raise PolyarchError(
            f"the helper process ended while it ran {function}",
            hint="was it killed for lack of memory? see the kernel's log: dmesg",
            reason="helper-died",
        )
    kind, value = pickle.loads(answer)
    if kind == "ok":
        return value
    if kind == "error":
        cls, words, state = value
        error: Exception = cls.__new__(cls, *words)
        error.__dict__.update(state)
        raise error
    if kind == "system":
        raise OSError(*value)
    raise RuntimeError(f"{function} failed in the helper:\n{value}")


def resolve(function: str) -> Callable[..., object]:
    """``"package.module:function"`` as the function."""
    module, _, name = function.partition(":")
    found: Callable[..., object] = getattr(importlib.import_module(module), name)
    return found


def answer(sock: socket.socket, files: list[int]) -> None:
    """The helper's side, in a process forked for this call."""
    data = wire.receive_block(sock)
    if data is None:
        return
    function, arguments, with_files = pickle.loads(data)
    try:
        target = resolve(function)
        words = (*arguments, files) if with_files else arguments
        reply = ("ok", target(*words))
        encoded = pickle.dumps(reply, protocol=5)
    except PolyarchError as error:
        encoded = pickle.dumps(("error", (type(error), error.args, error.__dict__)), protocol=5)
    except OSError as error:
        name = error.filename if isinstance(error.filename, str | bytes) else None
        encoded = pickle.dumps(("system", (error.errno, error.strerror or str(error), name)), protocol=5)
    except BaseException:
        encoded = pickle.dumps(("bug", traceback.format_exc()), protocol=5)
    try:
        wire.send_block(sock, encoded)
    except OSError:
        os._exit(1)  # nobody waits any more
