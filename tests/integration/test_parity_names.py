"""Names that are legal in a file system and awkward everywhere else: they are built as they are."""

from __future__ import annotations

import os
from pathlib import Path

import polyarch
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.layer.direct import DirectPrivilege
from polyarch.layer.store import LayerStore


def paths(state: State, name: str) -> list[str]:
    """Every path of the first variant's layers."""
    store = LayerStore(state, Layout(state.content), DirectPrivilege())
    variant = polyarch.inspect(name).variants[0]
    config_ids = variant.config.rootfs.diff_ids or ()
    layers = [store.image_layer(d, i, store.content) for d, i in zip(variant.layers, config_ids, strict=True)]
    return [entry.path for layer in layers for entry in layer.toc().entries]


def test_names_that_are_no_utf8(state: State, tmp_path: Path) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM scratch\nCOPY data /\nCOPY data/d* /again/\n")
    data = os.fsencode(context / "data")
    os.makedirs(data + b"/d\xf0")
    for name in (b"/n\xff", b"/d\xf0/\xfe", b"/new\nline", b"/back\\slash", b"/" + b"l" * 255):
        with open(data + name, "wb") as file:
            file.write(name)
    os.symlink(b"\xff", data + b"/link")
    for _ in range(2):  # the second time from the cache
        polyarch.build(context, tags=["names:1"])
        found = paths(state, "names:1")
        assert {"n\udcff", "d\udcf0/\udcfe", "new\nline", "back\\slash", "l" * 255, "link"} <= set(found)
        assert "again/\udcfe" in found
