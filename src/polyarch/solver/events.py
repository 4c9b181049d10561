"""What happens while a graph is solved, as a stream of frozen values. Times are seconds since 1970."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class PlannedVertex:
    """A vertex before anything runs: what it waits for, the platforms it is for ("linux/arm64"), and its
    lines of the Dockerfile (1-based and inclusive; 0 for what has none)."""

    digest: str
    name: str
    inputs: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class Planned:
    """What is about to be solved, inputs before those that use them, and the Dockerfile it comes from."""

    vertices: tuple[PlannedVertex, ...]
    file: str = ""
    text: str = ""


@dataclass(frozen=True)
class VertexStarted:
    digest: str
    name: str
    time: float


@dataclass(frozen=True)
class VertexCompleted:
    """``cached`` when nothing was done; ``reason`` says why something was ("src/main.go changed"), ``how``
    is "native", "emulated", "accelerated" (emulated, with native twins) or "" for what runs no code.
    ``emulation`` is the share of a step's processor time that went into emulation, None where not seen."""

    digest: str
    name: str
    time: float
    cached: bool = False
    error: str = ""
    cancelled: bool = False
    reason: str = ""
    how: str = ""
    emulation: float | None = None


@dataclass(frozen=True)
class VertexLog:
    """A piece of a step's output; ``stream`` is 1 or 2."""

    digest: str
    stream: int
    data: bytes
    time: float


@dataclass(frozen=True)
class VertexStatus:
    """Progress inside a vertex: ``current`` of ``total`` bytes of ``id`` (total 0 when unknown)."""

    digest: str
    id: str
    current: int
    total: int
    time: float
    done: bool = False


@dataclass(frozen=True)
class Warning:
    """Something the user should know that stops nothing."""

    rule: str
    message: str
    url: str = ""
    file: str = ""
    line: int = 0


Event = Planned | VertexStarted | VertexCompleted | VertexLog | VertexStatus | Warning
EventSink = Callable[[Event], None]  # called from several threads


def ignore(event: Event) -> None:
    """A sink for those who do not want to know."""


def made(how: str, emulation: float | None) -> str:
    """How a vertex was made, in words: "accelerated, 38 % emulated"."""
    if how != "accelerated" or emulation is None:
        return how
    return f"{how}, {emulation * 100:.0f} % emulated"
