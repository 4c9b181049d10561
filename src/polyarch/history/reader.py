"""Reads records back: which builds there were, and everything about one of them."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from polyarch.errors import NotFoundError, UsageError
from polyarch.history import lines
from polyarch.history.keeping import SUFFIX
from polyarch.history.lines import Began, Ended, Finished, Log, Plan, PlanVertex, Started, Transfer, Warned

_TAIL = 1 << 20  # bytes in which the last line of a record is looked for
_MAX_LINE = 64 << 20
_NAME = re.compile(r"\d{13}-([0-9a-z]{25})" + re.escape(SUFFIX))
_REF = re.compile(r"[0-9a-z]{1,25}")


@dataclass(frozen=True)
class Record:
    """One build in the list. ``finished`` is None for one that runs or was killed (``running``)."""

    path: Path
    began: Began
    finished: Finished | None
    running: bool

    @property
    def id(self) -> str:
        return self.began.id

    @property
    def status(self) -> str:
        """running, interrupted, completed, error or canceled."""
        if self.finished is not None:
            return self.finished.status
        return "running" if self.running else "interrupted"


@dataclass
class VertexRecord:
    """What happened to one vertex. ``started`` and ``ended`` are seconds since 1970, 0 where it never did;
    ``number`` is what progress showed: in the order in which they began."""

    plan: PlanVertex
    number: int = 0
    started: float = 0.0
    ended: float = 0.0
    outcome: Ended | None = None
    logs: list[Log] = field(default_factory=list)
    transfers: dict[str, Transfer] = field(default_factory=dict)
    size: int = 0

    @property
    def state(self) -> str:
        """waiting, running, cached, done, error or canceled."""
        if self.outcome is None:
            return "running" if self.started else "waiting"
        if self.outcome.cancelled:
            return "canceled"
        if self.outcome.error:
            return "error"
        return "cached" if self.outcome.cached else "done"

    @property
    def text(self) -> str:
        """The whole output."""
        return "".join(log.text for log in self.logs)

    @property
    def transferred(self) -> int:
        """Bytes that went over a network."""
        return sum(each.current for each in self.transfers.values())


@dataclass
class BuildRecord:
    """Everything about one build."""

    record: Record
    file: str = ""
    dockerfile: str = ""
    vertices: dict[str, VertexRecord] = field(default_factory=dict)
    warnings: list[Warned] = field(default_factory=list)
    last: float = 0.0
    numbered: int = 0

    def number(self) -> int:
        """The next vertex's number."""
        self.numbered += 1
        return self.numbered

    @property
    def seconds(self) -> float:
        """How long it took, or has taken so far as is known."""
        return max(0.0, self.last - self.record.began.at)

    def done(self) -> frozenset[str]:
        """The digests of the vertices that ended well."""
        return frozenset(name for name, each in self.vertices.items() if each.state in ("done", "cached"))


def records(folder: Path) -> list[Record]:
    """All builds, the newest first. What is no record is left out."""
    try:
        names = sorted((name for name in os.listdir(folder) if _NAME.fullmatch(name)), reverse=True)
    except OSError:
        return []
    found = (_look(folder / name) for name in names)
    return [record for record in found if record is not None]


def find(folder: Path, reference: str = "") -> Record:
    """The build ``reference`` means: an id, the beginning of one, BUILDER/NODE/ID, ``^N`` for the N-th before
    the last, or nothing for the last. NotFoundError, or UsageError where several begin so."""
    all_of_them = records(folder)
    if not all_of_them:
        raise NotFoundError(
            "there are no build records", hint="polyarch build makes them", reason="no-history"
        )
    offset = re.fullmatch(r"\^(\d{0,6})", reference)
    if not reference or offset:
        number = int(offset[1] or 1) if offset else 0
        if number < len(all_of_them):
            return all_of_them[number]
        raise _unknown(reference)
    wanted = reference.rpartition("/")[2]
    if not _REF.fullmatch(wanted):
        raise _unknown(reference)
    found = [record for record in all_of_them if record.id.startswith(wanted)]
    if len(found) > 1:
        raise UsageError(
            f"{reference!r} may be any of {len(found)} builds",
            hint="write more of it",
            reason="ambiguous-ref",
        )
    if not found:
        raise _unknown(reference)
    return found[0]


def _unknown(reference: str) -> NotFoundError:
    return NotFoundError(
        f"there is no record of a build {reference!r}",
        hint="'polyarch history ls' lists them; ^1 is the one before the last",
        reason="no-such-record",
    )


def load(record: Record) -> BuildRecord:
    """Read the whole record."""
    build = BuildRecord(record, last=record.began.at)
    for line in _lines(record.path):
        _add(build, line)
    for vertex in build.vertices.values():
        vertex.number = vertex.number or build.number()
    return build


def _add(build: BuildRecord, line: lines.Line) -> None:
    match line:
        case Plan():
            build.file, build.dockerfile = line.file, line.text
            for vertex in line.vertices:
                _vertex(build, vertex.digest).plan = vertex
        case Started():
            vertex_record = _vertex(build, line.vertex, line.name)
            vertex_record.started, vertex_record.outcome = line.at, None
            vertex_record.number = vertex_record.number or build.number()
        case Ended():
            vertex_record = _vertex(build, line.vertex)
            vertex_record.outcome, vertex_record.ended = line, line.at
        case Log():
            _vertex(build, line.vertex).logs.append(line)
        case Transfer():
            _vertex(build, line.vertex).transfers[line.id] = line
        case Warned():
            build.warnings.append(line)
        case Finished():
            for digest, size in line.sizes.items():
                _vertex(build, digest).size = size
    build.last = max(build.last, getattr(line, "at", 0.0))


def _vertex(build: BuildRecord, digest: str, name: str = "") -> VertexRecord:
    found = build.vertices.get(digest)
    if found is None:
        plan = PlanVertex(digest=digest, name=name or digest)
        found = build.vertices[digest] = VertexRecord(plan)
    return found


def _lines(path: Path) -> Iterator[lines.Line]:
    try:
        with path.open("rb") as stream:
            while data := stream.readline(_MAX_LINE):
                line = lines.decode(data)
                if line is not None:
                    yield line
    except OSError:
        return  # removed meanwhile


def _look(path: Path) -> Record | None:
    """First and last line of a record."""
    try:
        with path.open("rb") as stream:
            began = lines.decode(stream.readline(_MAX_LINE))
            if not isinstance(began, Began):
                return None
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - _TAIL))
            tail = stream.read().rstrip(b"\n").rpartition(b"\n")[2]
            last = lines.decode(tail)
            if isinstance(last, Finished):
                return Record(path, began, last, running=False)
            return Record(path, began, None, running=_is_locked(stream.fileno()))
    except OSError:
        return None


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False
