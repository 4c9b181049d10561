"""The lines of a build's record: one JSON object each, appended as things happen.

A record that ends without ``Finished`` is of a build that runs (its file is locked) or was killed. A line
that cannot be read, such as the last one of a killed build, is left out. Times are seconds since 1970.
"""

from __future__ import annotations

import msgspec


class _Line(msgspec.Struct, frozen=True, kw_only=True, tag_field="line", omit_defaults=True):
    """What all lines share."""


class Began(_Line, frozen=True, kw_only=True, tag="began"):
    """The first line. ``options`` are the command line's, without anything secret (``recall``); ``folder`` is
    where relative paths among them start."""

    id: str
    at: float
    version: str
    context: str
    dockerfile: str = ""
    target: str = ""
    platforms: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    folder: str = ""
    epoch: str = ""
    options: dict[str, object] = {}


class PlanVertex(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """See ``events.PlannedVertex``."""

    digest: str
    name: str
    inputs: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    start: int = 0
    end: int = 0


class Plan(_Line, frozen=True, kw_only=True, tag="plan"):
    """The graph and the Dockerfile, once both are known."""

    file: str
    text: str
    vertices: tuple[PlanVertex, ...]


class Started(_Line, frozen=True, kw_only=True, tag="started"):
    """A vertex began; ``name`` where the plan does not have it (exports)."""

    vertex: str
    at: float
    name: str = ""


class Ended(_Line, frozen=True, kw_only=True, tag="ended"):
    """A vertex ended. See ``events.VertexCompleted``."""

    vertex: str
    at: float
    cached: bool = False
    error: str = ""
    cancelled: bool = False
    reason: str = ""
    how: str = ""
    emulation: float | None = None


class Log(_Line, frozen=True, kw_only=True, tag="log"):
    """Whole lines of a step's output."""

    vertex: str
    at: float
    text: str
    stream: int = 1


class Transfer(_Line, frozen=True, kw_only=True, tag="transfer"):
    """Progress inside a vertex: ``current`` of ``total`` bytes of ``id``."""

    vertex: str
    at: float
    id: str
    current: int = 0
    total: int = 0
    done: bool = False


class Warned(_Line, frozen=True, kw_only=True, tag="warned"):
    """Something that stopped nothing."""

    rule: str
    message: str
    url: str = ""
    at_line: int = 0


class Variant(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One platform of the result; ``size`` in bytes, compressed."""

    platform: str
    how: str
    manifest: str = ""
    size: int = 0


class Finished(_Line, frozen=True, kw_only=True, tag="finished"):
    """The last line. ``status`` is completed, error or canceled; ``sizes`` are the compressed bytes that a
    vertex added to the image."""

    at: float
    status: str
    steps: int = 0
    cached: int = 0
    digest: str = ""
    names: tuple[str, ...] = ()
    variants: tuple[Variant, ...] = ()
    sizes: dict[str, int] = {}
    error: str = ""
    detail: str = ""
    hint: str = ""
    reason: str = ""


Line = Began | Plan | Started | Ended | Log | Transfer | Warned | Finished
encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


def decode(data: bytes) -> Line | None:
    """The line in ``data``; None for anything else."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
        return None
