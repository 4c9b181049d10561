"""Errors as they travel: what a caller branches on arrives as the same class."""

from __future__ import annotations

from typing import Any

import msgspec

from polyarch import errors
from polyarch.errors import PolyarchError, RegistryError, StepError
from polyarch.layer.stored import ImportedLayerError

_PLAIN: dict[str, type[PolyarchError]] = {
    kind.__name__: kind
    for kind in (
        errors.PolyarchError,
        errors.UsageError,
        errors.DockerfileError,
        errors.NotFoundError,
        errors.ContentError,
        errors.UnsupportedError,
        errors.CancelledError,
    )
}


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """An error's fields."""

    kind: str
    summary: str
    detail: str = ""
    hint: str = ""
    reason: str = "error"
    exit_code: int = 0
    platform: str = ""
    output: str = ""
    status: int = 0
    layer: str = ""


_DECODER = msgspec.msgpack.Decoder(Fault)


def encode(error: BaseException) -> bytes:
    """``error`` as bytes; what is no PolyarchError is told by its class and text."""
    if not isinstance(error, PolyarchError):
        text = f"{type(error).__name__}: {error}".encode("utf-8", "replace").decode()
        return msgspec.msgpack.encode(Fault("PolyarchError", text, reason="internal"))
    kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in _KINDS)
    fault = Fault(kind, _text(error.summary), _text(error.detail), _text(error.hint), error.reason)
    if isinstance(error, StepError):
        fault = msgspec.structs.replace(
            fault,
            exit_code=error.process_exit_code,
            platform=error.platform,
            output=_text(error.output),
        )
    if isinstance(error, RegistryError):
        fault = msgspec.structs.replace(fault, status=error.status)
    if isinstance(error, ImportedLayerError):
        fault = msgspec.structs.replace(fault, layer=error.layer_id)
    return msgspec.msgpack.encode(fault)


def decode(data: bytes) -> PolyarchError:
    """The error; an unreadable one is an error too."""
    try:
        fault = _DECODER.decode(data)
    except (msgspec.DecodeError, ValueError):
        return PolyarchError("the other side failed, and cannot be understood", reason="protocol")
    plain: Any = {"detail": fault.detail, "hint": fault.hint, "reason": fault.reason}
    if fault.kind == "StepError":
        return StepError(
            fault.summary,
            process_exit_code=fault.exit_code,
            platform=fault.platform,
            output=fault.output,
            **plain,
        )
    if fault.kind == "RegistryError":
        return RegistryError(fault.summary, status=fault.status, **plain)
    if fault.kind == "ImportedLayerError":
        imported = ImportedLayerError(fault.layer, PolyarchError(fault.summary, detail=fault.detail))
        imported.summary = fault.summary
        return imported
    return _PLAIN.get(fault.kind, PolyarchError)(fault.summary, **plain)


_KINDS = frozenset((*_PLAIN, "StepError", "RegistryError", "ImportedLayerError"))


def _text(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
