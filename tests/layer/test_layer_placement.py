"""What members mean: duplicates, links, whiteouts."""

from __future__ import annotations

import io
import tarfile

import pytest

from polyarch.layer import tar_toc
from polyarch.layer.entry import Entry


def _toc(*members: tuple[str, str] | tuple[str, str, str]) -> dict[str, tuple[str, str]]:
    out = io.BytesIO()
    kinds = {"f": tarfile.REGTYPE, "d": tarfile.DIRTYPE, "l": tarfile.SYMTYPE, "h": tarfile.LNKTYPE}
    with tarfile.open(fileobj=out, mode="w") as archive:
        for kind, name, *rest in members:
            info = tarfile.TarInfo(name)
            info.type = kinds[kind]
            data = b""
            if kind == "f":
                data = (rest[0] if rest else "").encode()
                info.size = len(data)
            elif rest:
                info.linkname = rest[0]
            archive.addfile(info, io.BytesIO(data))
    return {
        _name(e): (e.type, e.link or str(e.size))
        for e in tar_toc.read(io.BytesIO(out.getvalue())).toc.entries
    }


def _name(entry: Entry) -> str:
    return entry.path + ("/*" if entry.type == "opaque" else "")


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ([("f", "a", "1"), ("f", "a", "22")], {"a": ("file", "2")}),
        ([("d", "a"), ("f", "a/x"), ("f", "a", "1")], {"a": ("file", "1")}),
        ([("f", "a/x"), ("f", "a", "1")], {"a": ("file", "1")}),
        ([("f", "a"), ("d", "a"), ("f", "a/x")], {"a": ("directory", "0"), "a/x": ("file", "0")}),
        ([("d", "a"), ("f", "a/x"), ("d", "a")], {"a": ("directory", "0"), "a/x": ("file", "0")}),
        ([("f", "a", "1"), ("h", "b", "a"), ("f", "a", "22")], {"a": ("file", "2"), "b": ("file", "1")}),
        ([("f", "a", "1"), ("h", "b", "a"), ("h", "c", "b"), ("f", "a", "22")],
         {"a": ("file", "2"), "b": ("file", "1"), "c": ("hardlink", "b")}),
        ([("f", "b", "1"), ("h", "a", "b")], {"a": ("file", "1"), "b": ("hardlink", "a")}),
        ([("l", "bin", "usr/bin"), ("f", "bin/sh", "1")],
         {"bin": ("symlink", "usr/bin"), "usr/bin/sh": ("file", "1")}),
        ([("l", "e", "/../../etc"), ("f", "e/passwd", "1")],
         {"e": ("symlink", "/../../etc"), "etc/passwd": ("file", "1")}),
        ([("l", "e", "../../.."), ("f", "e/x")], {"e": ("symlink", "../../.."), "x": ("file", "0")}),
        ([("f", ".wh.gone")], {"gone": ("whiteout", "0")}),
        ([("f", "d/.wh..wh..opq"), ("d", "d")], {"d": ("directory", "0"), "d/*": ("opaque", "0")}),
        ([("f", ".wh..wh..opq")], {"/*": ("opaque", "0")}),
        ([("f", "a", "1"), ("f", ".wh.a")], {"a": ("file", "1")}),
        ([("f", ".wh.d"), ("d", "d"), ("f", "d/x")],
         {"d": ("directory", "0"), "d/*": ("opaque", "0"), "d/x": ("file", "0")}),
        ([("f", ".wh.d"), ("f", "d/x")],
         {"d": ("directory", "0"), "d/*": ("opaque", "0"), "d/x": ("file", "0")}),
        ([("f", ".wh..wh.plnk/1.2"), ("d", ".wh..wh.orph"), ("f", "ok")], {"ok": ("file", "0")}),
    ],
)  # fmt: skip
def test_meaning(members: list[tuple[str, str]], expected: dict[str, tuple[str, str]]) -> None:
    assert _toc(*members) == expected
