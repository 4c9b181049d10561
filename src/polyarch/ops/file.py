"""File operations: COPY, ADD, WORKDIR, and the joining of layers. No platform, no privilege, no mount."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from polyarch.graph.vertex import CopyAction, FileOp, MakeDirectoryAction, MergeOp
from polyarch.layer import toc as tocs
from polyarch.layer.entry import Toc
from polyarch.layer.layer import Layer
from polyarch.layer.rootfs import Rootfs
from polyarch.ops.canvas import TIMELESS_NS, Canvas
from polyarch.ops.copying import Copying
from polyarch.ops.owner import file_owner
from polyarch.ops.result import (
    Result,
    base_identity,
    definition,
    digest_of,
    encode_record,
    record_layers,
    restore,
    rootfs_of,
)
from polyarch.ops.session import Session
from polyarch.solver.op import CacheKey, Identity, Input, Step


class FileOperation:
    """A layer made of files.

    Two keys: the definition with the identities of the inputs (for a directory of the client that is the
    names, sizes and times of its files), and, when that misses, the drawn layer's content without its times.
    The second does not depend on the base, so a layer survives a new base and a fresh checkout.
    """

    cacheable = True
    exclusive = False

    def __init__(self, op: FileOp, session: Session) -> None:
        self.op = op
        self.session = session
        self._drawn: Canvas | None = None

    @property
    def _base(self) -> int | None:
        return None if self.op.detached else 0

    def keys(self, inputs: Sequence[Input], step: Step) -> Iterator[CacheKey]:
        parts = [("the instruction", definition(self.op))]
        parts += [
            ("the base" if number == self._base else f"source {number}", digest_of(*entry.identity))
            for number, entry in enumerate(inputs)
        ]
        yield CacheKey(digest_of("file", *(value for _, value in parts)), tuple(parts[:1]))
        content = content_digest(self._draw(inputs).toc())
        times = "" if self.op.epoch is None else f"@{self.op.epoch}"  # where one is wanted, it counts
        yield CacheKey(digest_of("file content", content + times), (("the files", content + times),))

    def run(self, inputs: Sequence[Input], step: Step) -> Result:
        canvas = self._draw(inputs)
        toc = canvas.toc()
        base = Rootfs() if self._base is None else rootfs_of(inputs[0])
        if not toc.entries and not self.op.actions:
            return Result(base)
        layer: Layer = self.session.layers.file_layer(toc, canvas.open)
        return Result(base.with_layer(layer), (layer,))

    def record(self, result: Result) -> str:
        return encode_record(result)

    def identity(self, record: str, inputs: Sequence[Input]) -> Identity:
        return base_identity(inputs, self._base) + record_layers(record)

    def restore(self, record: str, inputs: Sequence[Input]) -> Result | None:
        base = Rootfs() if self._base is None else rootfs_of(inputs[0])
        return restore(record, self.session.layers, base)

    def _scratch(self) -> Path:
        folder = self.session.state.temporary
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _draw(self, inputs: Sequence[Input]) -> Canvas:
        if self._drawn is None:
            base = Rootfs() if self._base is None else rootfs_of(inputs[0])
            epoch_ns = None if self.op.epoch is None else self.op.epoch * 10**9
            canvas = Canvas(base, TIMELESS_NS if epoch_ns is None else epoch_ns)
            for action in self.op.actions:
                match action:
                    case MakeDirectoryAction():
                        owner = file_owner(action.owner, canvas.read)
                        canvas.make_directories(canvas.resolve(action.path), *owner, action.mode)
                    case CopyAction():
                        source = rootfs_of(inputs[action.input])
                        given = file_owner(action.chown, canvas.read) if action.chown else None
                        Copying(canvas, source, action, given, epoch_ns, self._scratch()).run()
            self._drawn = canvas
        return self._drawn


class MergeOperation:
    """The layers of one result on those of another: ``COPY --link``. Nothing is read."""

    cacheable = False
    exclusive = False

    def __init__(self, op: MergeOp, session: Session) -> None:
        self.op = op
        self.session = session

    def keys(self, inputs: Sequence[Input], step: Step) -> Iterator[CacheKey]:
        return iter(())

    def run(self, inputs: Sequence[Input], step: Step) -> Result:
        lower, upper = rootfs_of(inputs[0]), rootfs_of(inputs[1])
        for layer in upper.layers:
            lower = lower.with_layer(layer)
        return Result(lower, upper.layers)

    def record(self, result: Result) -> str:
        return encode_record(result)

    def identity(self, record: str, inputs: Sequence[Input]) -> Identity:
        return inputs[0].identity + inputs[1].identity

    def restore(self, record: str, inputs: Sequence[Input]) -> Result | None:
        return None


def content_digest(toc: Toc) -> str:
    """A digest of what the entries are, their times aside."""
    timeless = [msgspec.structs.replace(entry, mtime_ns=0, machine="") for entry in toc.entries]
    return tocs.name(Toc(tuple(timeless)), kind="content")
