"""A root filesystem as a list of what to write: hard links point at files written before, times may be fixed,
and several platforms may share one destination."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from polyarch.errors import UsageError
from polyarch.export.result import PlatformResult
from polyarch.layer.entry import Entry
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.toc import NANOSECONDS
from polyarch.oci.platform import Platform


@dataclass
class Tree:
    """One platform's files under ``prefix`` ("" or a folder's name)."""

    result: PlatformResult
    prefix: str
    epoch: int | None = None
    _originals: dict[str, str] = field(default_factory=dict)

    def entries(self) -> Iterator[Entry]:
        """Everything but the root itself, which is there only as the folder ``prefix``; directories before
        what is in them."""
        rootfs = self.result.rootfs
        written: dict[int, str] = {}
        for entry in rootfs.walk():
            if not entry.path and not self.prefix:
                continue
            original = entry.path
            if entry.type in ("file", "hardlink"):
                entry = _linked(rootfs, entry, written)
            if self.epoch is not None:
                entry = msgspec.structs.replace(entry, mtime_ns=self.epoch * NANOSECONDS)
            if self.prefix:
                entry = self._prefixed(entry)
            self._originals[entry.path] = original
            yield entry

    def original(self, entry: Entry) -> str:
        """The path in the root filesystem of an entry that ``entries`` gave."""
        return self._originals[entry.path]

    def _prefixed(self, entry: Entry) -> Entry:
        path = f"{self.prefix}/{entry.path}" if entry.path else self.prefix
        link = f"{self.prefix}/{entry.link}" if entry.type == "hardlink" else entry.link
        return msgspec.structs.replace(entry, path=path, link=link)


def folder(platform: Platform) -> str:
    """The folder of a platform, as BuildKit names it: ``linux_arm_v7``."""
    return platform.full().replace("/", "_")


def trees(results: Sequence[PlatformResult], *, split: bool | None, epoch: int | None) -> list[Tree]:
    """One tree per platform, in folders of their own if ``split`` or, by default, if there are several.
    UsageError where several in one folder would overwrite each other."""
    if split is None:
        split = len(results) > 1
    made = [Tree(one, folder(one.platform) if split else "", epoch) for one in results]
    if not split and len(made) > 1:
        _check_disjoint(results)
    return made


def _linked(rootfs: Rootfs, entry: Entry, written: dict[int, str]) -> Entry:
    """A file where its content comes first, a hard link to that where it comes again. A file that a hard
    link once led to may be gone or replaced in a higher layer, so links are drawn anew."""
    content = rootfs._content(entry.path)[0]  # the entry that stands for the inode
    first = written.setdefault(id(content), entry.path)
    if first == entry.path:
        return content if content.path == entry.path else msgspec.structs.replace(content, path=entry.path)
    return msgspec.structs.replace(content, path=entry.path, type="hardlink", link=first)


def _check_disjoint(results: Sequence[PlatformResult]) -> None:
    seen: dict[str, Platform] = {}
    for one in results:
        for entry in one.rootfs.walk():
            other = seen.setdefault(entry.path, one.platform)
            if entry.type != "directory" and other != one.platform:
                raise UsageError(
                    f"/{entry.path} of {one.platform} would overwrite that of {other}",
                    hint="leave out platform-split=false, so that each platform gets a folder of its own",
                    reason="platforms-overlap",
                )
