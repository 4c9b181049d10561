"""Small things that docker's images have and that are easy to get wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import polyarch
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.graph.vertex import HttpOp
from polyarch.layer.direct import DirectPrivilege
from polyarch.layer.entry import Entry
from polyarch.layer.store import LayerStore


def entries(state: State, name: str) -> dict[str, Entry]:
    """The entries of the first variant's layers, by path."""
    store = LayerStore(state, Layout(state.content), DirectPrivilege())
    variant = polyarch.inspect(name).variants[0]
    ids = variant.config.rootfs.diff_ids or ()
    layers = [store.image_layer(d, i, store.content) for d, i in zip(variant.layers, ids, strict=True)]
    return {entry.path: entry for layer in layers for entry in layer.toc().entries}


def test_matches_of_a_pattern_are_not_linked(state: State, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY h* l /pattern/\nCOPY . /whole/\n")
    (tmp_path / "h1").write_text("x")
    os.link(tmp_path / "h1", tmp_path / "h2")
    os.symlink("h1", tmp_path / "l")
    polyarch.build(tmp_path, tags=["links:1"])
    found = entries(state, "links:1")
    assert [found[f"pattern/{name}"].type for name in ("h1", "h2", "l")] == ["file"] * 3
    assert [found[f"whole/{name}"].type for name in ("h1", "h2", "l")] == ["file", "hardlink", "symlink"]


def test_an_absolute_working_directory_stays_as_written(state: State, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nWORKDIR /app/\nCOPY Dockerfile x/\n")
    polyarch.build(tmp_path, tags=["workdir:1"])
    config = polyarch.inspect("workdir:1").variants[0].config
    assert config.config is not None and config.config.working_dir == "/app/"
    assert "app/x/Dockerfile" in entries(state, "workdir:1")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://host/a/b.txt?x=/y", "b.txt"),
        ("http://host/a%20b", "a b"),
        ("http://host/a/", "a"),
        ("http://host/", "__unnamed__"),
        ("http://host", "__unnamed__"),
        ("http://host/x/..", "__unnamed__"),
        ("http://host/x%2F%2e%2e", "__unnamed__"),
    ],
)
def test_what_a_downloaded_file_is_called(url: str, name: str) -> None:
    assert HttpOp(url=url).file_name == name


def test_what_has_no_time_fits_into_a_zip(state: State, tmp_path: Path) -> None:
    """Zip files begin in 1980; a directory of 1970 makes Python's shutil.make_archive fail in a later RUN."""
    (tmp_path / "Dockerfile").write_text(
        "FROM scratch\nWORKDIR /app\nCOPY Dockerfile sub/\nCOPY <<EOF /app/file\ntext\nEOF\n"
    )
    polyarch.build(tmp_path, tags=["times:1"])
    found = entries(state, "times:1")
    times = [found[path].mtime_ns // 10**9 for path in ("app", "app/sub", "app/file")]
    assert times == [946_684_800] * 3
    polyarch.build(tmp_path, tags=["times:2"], build_args={"SOURCE_DATE_EPOCH": "5"})
    assert entries(state, "times:2")["app/sub"].mtime_ns == 5 * 10**9
