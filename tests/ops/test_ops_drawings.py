"""One drawing for several bases: only where the bases look the same to it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from typing import BinaryIO

import pytest

from polyarch.graph.vertex import CopyAction
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.index import IndexedLayer
from polyarch.layer.rootfs import Rootfs
from polyarch.ops.canvas import Canvas
from polyarch.ops.copying import Copying
from polyarch.ops.drawings import Drawing, Drawings
from polyarch.ops.owner import file_owner

PASSWD = b"app:x:1000:1000::/:\n"


class Layer(IndexedLayer):
    """A layer in memory: entries, and the content of its files by path."""

    def __init__(self, *entries: Entry, **files: bytes) -> None:
        super().__init__()
        made = [
            Entry(path, "file", size=len(data), digest="sha256:" + hashlib.sha256(data).hexdigest())
            for path, data in ((name.replace("_", "/"), data) for name, data in files.items())
        ]
        self._files = {entry.path: data for entry, data in zip(made, files.values(), strict=True)}
        self._toc = Toc(tuple(sorted((*entries, *made), key=lambda entry: entry.path)))

    id = "memory"

    def toc(self) -> Toc:
        return self._toc

    def open(self, entry: Entry) -> BinaryIO:
        return io.BytesIO(self._files[entry.path])


ETC = Entry("etc", "directory", 0o755)
USR = Entry("usr", "directory", 0o755)
SOURCE = Rootfs((Layer(a=b"one", b=b"two"),))  # type: ignore[arg-type]
BASE = Layer(ETC, USR, etc_passwd=PASSWD)


def onto(destination: str, chown: str = "") -> Callable[[Rootfs], Drawing]:
    def draw(base: Rootfs) -> Drawing:
        canvas = Canvas(base, 0)
        owner = file_owner(chown, canvas.read) if chown else None
        action = CopyAction(input=1, source="/", destination=destination, contents_only=True)
        Copying(canvas, SOURCE, action, owner).run()
        return Drawing(canvas, {})

    return draw


@pytest.mark.parametrize(
    ("destination", "chown", "other", "same"),
    [
        ("/new/", "", Layer(ETC, Entry("usr", "directory", 0o700)), True),
        ("/usr/", "", Layer(ETC, USR), True),
        ("/usr/", "", Layer(ETC, Entry("usr", "directory", 0o700)), False),
        ("/usr/", "", Layer(ETC, Entry("usr", "directory", 0o755, mtime_ns=10**9)), False),
        ("/usr/", "", Layer(ETC, Entry("usr", "symlink", 0o777, link="etc")), False),
        ("/usr/", "", Layer(ETC, USR, usr_a=b"there"), False),
        ("/new/", "", Layer(ETC, Entry("new", "directory", 0o700)), False),
        ("/new/", "app", Layer(ETC, etc_passwd=PASSWD), True),
        ("/new/", "app", Layer(ETC, etc_passwd=PASSWD.replace(b"1000", b"1001")), False),
        ("/new/", "app", Layer(ETC, etc_passwd=PASSWD + b"more:x:1:1::/:\n"), False),
    ],
)
def test_what_was_looked_at_decides(destination: str, chown: str, other: Layer, *, same: bool) -> None:
    drawings, draw, drawn = Drawings(), onto(destination, chown), []

    def counted(base: Rootfs) -> Drawing:
        drawn.append(base)
        return draw(base)

    bases = [Rootfs((layer,)) for layer in (BASE, other, other)]  # type: ignore[arg-type]
    found = [drawings.get("what", base, lambda base=base: counted(base)) for base in bases]  # type: ignore[misc]
    assert (found[0] is found[1]) == same and found[1] is found[2]
    assert len(drawn) == (1 if same else 2)
    for base, drawing in zip(bases, found, strict=True):
        assert drawing.toc == draw(base).toc


def test_other_work_is_drawn_anew() -> None:
    drawings, base = Drawings(), Rootfs((BASE,))  # type: ignore[arg-type]
    one = drawings.get("one", base, lambda: onto("/a/")(base))
    assert drawings.get("two", base, lambda: onto("/b/")(base)) is not one
