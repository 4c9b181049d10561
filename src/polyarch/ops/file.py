"""File operations: COPY, ADD, WORKDIR, and the joining of layers. No platform, no privilege, no mount."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from polyarch.errors import PolyarchError
from polyarch.graph.vertex import CopyAction, FileOp, MakeDirectoryAction, MergeOp
from polyarch.layer import toc as tocs
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.rootfs import Rootfs
from polyarch.ops.canvas import TIMELESS_NS, Canvas
from polyarch.ops.copying import Copying
from polyarch.ops.drawings import Drawing
from polyarch.ops.owner import file_owner
from polyarch.ops.result import (
    Result,
    base_identity,
    definition,
    digest_of,
    encode_record,
    first_key,
    key_of,
    record_layers,
    restore,
    rootfs_of,
)
from polyarch.ops.session import Session
from polyarch.solver.op import FILES, CacheKey, Identity, Input, Step


class FileOperation:
    """A layer made of files.

    Three keys: the definition with the identities of the inputs (for a directory of the client that is the
    names, sizes and times of its files); when that misses, the same with the content of what is selected from
    ``local`` inputs instead, for which a base need not be looked at; and the drawn layer's content without
    its times. The last does not depend on the base, so a layer survives a new base and a fresh checkout.
    """

    cacheable = True
    exclusive = False

    def __init__(self, op: FileOp, session: Session, local: frozenset[int] = frozenset()) -> None:
        self.op = op
        self.session = session
        self.local = local
        self._drawn: Drawing | None = None

    @property
    def _base(self) -> int | None:
        return None if self.op.detached else 0

    def keys(self, inputs: Sequence[Input], step: Step) -> Iterator[CacheKey]:
        parts = [("the instruction", definition(self.op))]
        parts += [
            ("the base" if number == self._base else f"source {number}", digest_of(*entry.identity))
            for number, entry in enumerate(inputs)
        ]
        first = key_of("file", *(value for _, value in parts))
        yield CacheKey(first_key(first, local=bool(self.local)), tuple(parts[:1]))
        if self._base is not None and self.local and (selected := self._select(inputs)):
            kept = [
                (name, value)
                for (name, value), n in zip(parts[1:], range(len(inputs)), strict=True)
                if n not in self.local
            ]
            yield CacheKey(
                key_of("file selection", parts[0][1], *(value for _, value in kept), *selected),
                ((FILES, digest_of(*selected)), *(each for each in kept if each[0] == "the base")),
            )
        if step.looking and not self._is_described(inputs):
            return
        content = self._draw(inputs).content
        times = "" if self.op.epoch is None else f"@{self.op.epoch}"  # where one is wanted, it counts
        yield CacheKey(key_of("file content", content + times), ((FILES, content + times),))

    def run(self, inputs: Sequence[Input], step: Step) -> Result:
        drawing = self._draw(inputs)
        base = Rootfs() if self._base is None else rootfs_of(inputs[0])
        if not drawing.toc.entries and not self.op.actions:
            return Result(base)
        layer = drawing.layer(self.session.layers)
        return Result(base.with_layer(layer), (layer,))

    def record(self, result: Result) -> str:
        return encode_record(result)

    def identity(self, record: str, inputs: Sequence[Input]) -> Identity:
        return base_identity(inputs, self._base) + record_layers(record)

    def restore(self, record: str, inputs: Sequence[Input]) -> Result | None:
        base = Rootfs() if self._base is None else rootfs_of(inputs[0])
        return restore(record, self.session.layers, base)

    def changes(self, record: str, inputs: Sequence[Input]) -> Sequence[str]:
        """See ``Explains``: the files of the layer against those of the layer made last time."""
        ids = record_layers(record)
        before = self.session.layers.forms.toc(ids[-1]) if ids and self._drawn is not None else None
        return differences(before, self._draw(inputs).toc) if before is not None else ()

    def _is_described(self, inputs: Sequence[Input]) -> bool:
        """Whether the layer can be drawn without fetching anything."""
        others = (entry for number, entry in enumerate(inputs) if number not in self.local)
        return all(self.session.layers.is_described(id) for entry in others for id in entry.identity)

    def _select(self, inputs: Sequence[Input]) -> tuple[str, ...]:
        """The content of what each copy action takes of a local input; empty where that cannot be said.

        Drawing the layer tells it, too, but needs the tables of contents of all the base's layers, which may
        have to be fetched.
        """
        if all(self.session.layers.is_described(id) for id in inputs[0].identity):
            selected = self._draw(inputs).selected
        else:
            selected = {}
            try:
                for number, action in enumerate(self.op.actions):
                    if isinstance(action, CopyAction) and action.input in self.local:
                        canvas = Canvas(Rootfs(), 0)
                        copying = Copying(canvas, rootfs_of(inputs[action.input]), action, None, packed=True)
                        copying.run()
                        selected[number] = selection_digest(copying)
            except PolyarchError:
                return ()  # what is wrong is said when the layer is drawn
        return tuple(selected[number] for number in sorted(selected))

    def _scratch(self) -> Path:
        folder = self.session.state.temporary
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _draw(self, inputs: Sequence[Input]) -> Drawing:
        if self._drawn is None:
            base = Rootfs() if self._base is None else rootfs_of(inputs[0])
            sources = [entry.identity for number, entry in enumerate(inputs) if number != self._base]
            what = digest_of(definition(self.op), *(digest_of(*identity) for identity in sources))
            # Now: who holds the lock on a drawing must not wait for anybody else's.
            used = {a.input: rootfs_of(inputs[a.input]) for a in self.op.actions if isinstance(a, CopyAction)}
            self._drawn = self.session.drawings.get(what, base, lambda: self._draw_on(base, used))
        return self._drawn

    def _draw_on(self, base: Rootfs, sources: Mapping[int, Rootfs]) -> Drawing:
        epoch_ns = None if self.op.epoch is None else self.op.epoch * 10**9
        canvas = Canvas(base, TIMELESS_NS if epoch_ns is None else epoch_ns)
        selected: dict[int, str] = {}
        for number, action in enumerate(self.op.actions):
            match action:
                case MakeDirectoryAction():
                    owner = file_owner(action.owner, canvas.read)
                    canvas.make_directories(canvas.resolve(action.path), *owner, action.mode)
                case CopyAction():
                    source = sources[action.input]
                    given = file_owner(action.chown, canvas.read) if action.chown else None
                    copying = Copying(canvas, source, action, given, epoch_ns, self._scratch())
                    copying.run()
                    if action.input in self.local:
                        selected[number] = selection_digest(copying)
        return Drawing(canvas, selected)


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


def selection_digest(copying: Copying) -> str:
    """A digest of what a copy action found in its source, times aside."""
    found = tuple(entry for _, entry in sorted(copying.selected.items()))
    return tocs.name(Toc(found), kind="selection", times=False)


def differences(before: Toc, after: Toc) -> list[str]:
    """What differs between two layers, times aside, such as "/main.go changed"; directories come last."""
    old, new = ({entry.path: _facts(entry) for entry in toc.entries} for toc in (before, after))
    folders = {entry.path for toc in (before, after) for entry in toc.entries if entry.type == "directory"}
    found = dict.fromkeys(new.keys() - old.keys(), "added")
    found |= dict.fromkeys(old.keys() - new.keys(), "removed")
    found |= {path: "changed" for path in new.keys() & old.keys() if new[path] != old[path]}
    return [f"/{path} {found[path]}" for path in sorted(found, key=lambda path: (path in folders, path))]


def _facts(entry: Entry) -> Entry:
    return msgspec.structs.replace(entry, mtime_ns=0, machine="")
