"""Any toc becomes a tree, scanning the tree gives the toc again, and many at once do not disturb another."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from threading import Thread

import msgspec
import pytest
from hypothesis import given, settings
from layer_fixtures import file, layer, new_store
from test_layer_tar import tocs

from polyarch.layer.entry import Entry, Toc
from polyarch.layer.layer import Compression
from polyarch.layer.pipes import memory_file
from polyarch.layer.scan import receive, scan
from polyarch.layer.toc import canonical

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others needs root")


def _possible(entry: Entry) -> Entry:
    """What a file system can hold: no capabilities made of random bytes, user attributes on files only."""
    kept = {}
    if entry.type in ("file", "directory"):
        kept = {name: value for name, value in entry.xattrs.items() if name.startswith("user.")}
    mode = 0o777 if entry.type == "symlink" else entry.mode
    return msgspec.structs.replace(entry, xattrs=kept, mode=mode)


@given(tocs())
@settings(max_examples=60, deadline=None)
def test_tree_and_scan(made: tuple[Toc, dict[str, bytes]]) -> None:
    given = [_possible(entry) for entry in made[0].entries]
    with tempfile.TemporaryDirectory() as folder:
        store = new_store(Path(folder) / "state")
        tree = layer(store, given, made[1]).tree()
        with memory_file() as out:
            scan(str(tree), [out.fileno()])
            found = receive(out.fileno())
        described = {
            e.path: e for e in store.describe_in(tree, [e for e in found.entries if e.type == "file"])
        }
        implied = {path for e in given for path in _parents(e.path)} - {e.path for e in given}
        entries = [described.get(e.path, e) if e.type == "file" else e for e in found.entries]
        assert canonical(e for e in entries if e.path and e.path not in implied) == canonical(given)
        store.remove(layer(store, given, made[1]).id)
        assert not list(store.state.trees.iterdir())


def _parents(path: str) -> list[str]:
    return [path[:at] for at, character in enumerate(path) if character == "/"]


def test_processes_that_want_the_same_do_not_disturb_each_other(tmp_path: Path) -> None:
    entries = [Entry("d", "directory", 0o755), *(file(f"d/{n}", b"x" * n) for n in range(200))]
    contents = {f"d/{n}": b"x" * n for n in range(200)}
    found: list[tuple[Path, str]] = []

    def work() -> None:
        made = layer(new_store(tmp_path / "state"), entries, contents)  # a store of its own, as a process has
        found.append((made.tree(), made.blob(Compression()).descriptor.digest))

    threads = [Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(set(found)) == 1
    assert len(list(found[0][0].rglob("*"))) == 201
    assert not list((tmp_path / "state/tmp").iterdir())
