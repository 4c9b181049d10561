"""A state directory inside the build context is not part of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.context.main import open_directory
from polyarch.layer.direct import DirectPrivilege
from polyarch.layer.store import LayerStore


@pytest.mark.parametrize("name", [".polyarch", "deep/state", "odd[1]*"])
def test_the_state_directory_stays_out(tmp_path: Path, name: str) -> None:
    state = State(tmp_path / name)
    (state.root / "history").mkdir(parents=True)
    (state.root / "history/record").write_text("growing")
    (tmp_path / "file").write_text("x")
    (tmp_path / ".dockerignore").write_text("nothing\n!deep\n")
    store = LayerStore(state, Layout(state.content), DirectPrivilege())
    paths = [entry.path for entry in open_directory(tmp_path, state, store).walk()]
    assert "file" in paths and not [path for path in paths if path.startswith(f"{name}/")]
