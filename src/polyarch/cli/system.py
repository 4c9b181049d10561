"""``polyarch system``: where polyarch keeps its state, and how much of it there is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from polyarch.cli.goflags import GoCommand


@click.group()
def system() -> None:
    """Show where polyarch keeps its state."""


@system.command(cls=GoCommand)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def info(*, as_json: bool) -> None:
    """Show the state directory, what is in it, and versions."""
    found = _collect()
    if as_json:
        import json

        print(json.dumps(found, indent=2))
        return
    from polyarch.cli.tables import size, table

    print(f"Root:      {found['root']}")
    print(f"Version:   {found['version']} (Python {found['python']})")
    print(f"Platform:  {found['platform']}")
    print(f"Images:    {found['images']}")
    print(f"Free:      {size(found['free'])}")
    print()
    rows = [
        [name, size(part["size"]), str(part["files"]), part["path"]] for name, part in found["parts"].items()
    ]
    print(table(("PART", "SIZE", "FILES", "PATH"), rows))


def _collect() -> dict[str, Any]:
    import platform as interpreter
    import shutil
    from importlib.metadata import version

    from polyarch.content.layout import Layout
    from polyarch.content.state import State
    from polyarch.oci.platform import host

    state = State.default()
    parts = {
        "content": state.content,
        "trees": state.trees,
        "cache": state.database,
        "mounts": state.cache_mounts,
        "sources": state.sources,
        "uploads": state.uploads,
        "builders": state.builders,
        "history": state.history,
        "temporary": state.temporary,
    }
    known = {path.name for path in parts.values()}
    if state.root.is_dir():
        parts |= {path.name: path for path in sorted(state.root.iterdir()) if path.name not in known}
    there = next((folder for folder in (state.root, *state.root.parents) if folder.exists()), Path("/"))
    return {
        "root": str(state.root),
        "version": version("polyarch"),
        "python": interpreter.python_version(),
        "platform": str(host()),
        "images": len({root.digest for root in Layout(state.content).roots()}),
        "free": shutil.disk_usage(there).free,
        "parts": {name: _measure(path) for name, path in parts.items()},
    }


def _measure(path: Path) -> dict[str, Any]:
    """Bytes on disk and files, each inode once. What cannot be read, such as trees that belong to other
    users, is counted by what can be seen of it."""
    import os

    size = files = 0
    seen: set[tuple[int, int]] = set()
    stack = [path]
    while stack:
        current = stack.pop()
        try:
            status = current.lstat()
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                size += status.st_blocks * 512
            if current.is_dir() and not current.is_symlink():
                stack += [Path(entry.path) for entry in os.scandir(current)]
            else:
                files += 1
        except OSError:
            continue
    return {"path": str(path), "size": size, "files": files}
