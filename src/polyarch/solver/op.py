"""What the scheduler asks of an operation. Results are opaque to it; implementations live in ``ops/``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Any, Protocol, runtime_checkable

from polyarch.solver.events import EventSink

Identity = tuple[str, ...]  # names the content of a result; equal identities mean interchangeable results


FILES = "the files"  # the part of a key that ``Explains.changes`` has more to say about


@dataclass(frozen=True)
class CacheKey:
    """A key under which a result may be found. ``parts`` names what went into it (name, digest), so that a
    miss can be explained by comparing with the last build's parts. A value is a digest, with ``here:`` in
    front of it where it means nothing on other machines."""

    value: str
    parts: tuple[tuple[str, str], ...] = ()


class Input(Protocol):
    """The result of an input: its identity costs nothing; ``result()`` may have to redo work whose bytes
    are gone."""

    @property
    def identity(self) -> Identity: ...

    def result(self) -> Any: ...


@dataclass(frozen=True)
class Step:
    """What a running operation may use: where its output goes, and whether it should stop. With ``looking``
    it is asked for keys alone: nothing is to be fetched or made for them, and dear ones are left out."""

    digest: str
    events: EventSink
    cancelled: Event
    looking: bool = False


@runtime_checkable
class Explains(Protocol):
    """An operation that can tell how its inputs differ from those of an earlier result."""

    def changes(self, record: str, inputs: Sequence[Input]) -> Sequence[str]:
        """Such as "main.go changed", when its keys have been asked for; empty where that cannot be said."""
        ...


class Op(Protocol):
    """One operation of the graph."""

    @property
    def cacheable(self) -> bool:
        """False for sources, which look every time and are quick about it."""
        ...

    @property
    def exclusive(self) -> bool:
        """True for what runs processes: only so many of these at a time."""
        ...

    def keys(self, inputs: Sequence[Input], step: Step) -> Iterator[CacheKey]:
        """Cheap keys first. A later key is asked for only when the earlier ones missed."""
        ...

    def run(self, inputs: Sequence[Input], step: Step) -> Any:
        """Do it. The result's identity is ``identity(record(result), inputs)``."""
        ...

    def record(self, result: Any) -> str:
        """What the cache keeps of a result."""
        ...

    def identity(self, record: str, inputs: Sequence[Input]) -> Identity:
        """The identity of the result a record stands for; no bytes are touched."""
        ...

    def restore(self, record: str, inputs: Sequence[Input]) -> Any | None:
        """The result itself, or None when its bytes are gone."""
        ...
