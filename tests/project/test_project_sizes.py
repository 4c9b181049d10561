"""scripts/check_sizes.py finds what it is for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "check_sizes.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("long.py", '"""x."""\n' + "x = 1\n" * 500, "501 lines"),
        ("grown.py", '"""x."""\ndef f():\n' + "    x = 1\n" * 80, "f has 81 lines"),
        ("utils.py", '"""x."""\n', "says nothing"),
        ("silent.py", "x = 1\n", "opens with what it owns"),
    ],
)
def test_each_limit_is_found(tmp_path: Path, name: str, text: str, complaint: str) -> None:
    folder = tmp_path / "src"
    folder.mkdir()
    (folder / name).write_text(text)
    result = run(folder)
    assert result.returncode == 1
    assert complaint in result.stdout


def test_what_is_fine_passes(tmp_path: Path) -> None:
    (tmp_path / "fine.py").write_text('"""x."""\ndef f():\n' + "    x = 1\n" * 79)
    assert run(tmp_path).returncode == 0
