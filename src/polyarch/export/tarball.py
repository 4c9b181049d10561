"""``type=tar``: the root filesystem of each platform in one tar, owners and all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Event
from typing import BinaryIO

from polyarch.errors import CancelledError
from polyarch.export.result import PlatformResult
from polyarch.export.tree import Tree, trees
from polyarch.layer import tar_writer
from polyarch.layer.entry import Entry


def write(
    results: Sequence[PlatformResult],
    sink: BinaryIO,
    *,
    split: bool | None,
    epoch: int | None,
    cancelled: Event,
) -> None:
    """Write every platform's files to ``sink``."""
    made = trees(results, split=split, epoch=epoch)
    owners: dict[str, Tree] = {}

    def entries() -> Iterator[Entry]:
        seen: set[str] = set()
        for tree in made:
            for entry in tree.entries():
                if cancelled.is_set():
                    raise CancelledError("the export was stopped", reason="cancelled")
                if entry.path not in seen:  # directories that platforms share
                    seen.add(entry.path)
                    owners[entry.path] = tree
                    yield entry

    def content(entry: Entry) -> BinaryIO:
        tree = owners[entry.path]
        return tree.result.rootfs.open(tree.original(entry))

    tar_writer.write(entries(), content, sink.write)
