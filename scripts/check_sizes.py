"""Checks what no linter checks here: sizes of files and functions, module docstrings, names of modules.

    python scripts/check_sizes.py [FOLDER…]

Limits are those of docs/architecture.md: a file has 500 lines at most, a function 80.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FOLDERS = ("src", "scripts", "tests", "bench")
MAX_FILE = 500
MAX_FUNCTION = 80
VAGUE_NAMES = {"utils", "util", "helpers", "common", "manager", "misc"}


def complaints(path: Path) -> Iterator[str]:
    """One line for each thing wrong with the Python file ``path``."""
    text = path.read_text(encoding="utf-8")
    lines = text.count("\n")
    if lines > MAX_FILE:
        yield f"{path}: {lines} lines; {MAX_FILE} at most"
    if path.stem in VAGUE_NAMES:
        yield f"{path}: a module called {path.stem!r} says nothing about what it owns"
    tree = ast.parse(text, str(path))
    if "src" in path.parts and tree.body and ast.get_docstring(tree) is None:
        yield f"{path}:1: a module opens with what it owns"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > MAX_FUNCTION:
                yield f"{path}:{node.lineno}: {node.name} has {length} lines; {MAX_FUNCTION} at most"


def main(arguments: list[str]) -> int:
    """Print every complaint; 1 where there is one."""
    folders = [Path(name) for name in arguments or FOLDERS]
    found = [
        complaint
        for folder in folders
        if folder.exists()
        for path in sorted(folder.rglob("*.py"))
        for complaint in complaints(path)
    ]
    print("\n".join(found) if found else "sizes: fine")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
