"""What must not stand in the repository's files."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from polyarch.base import host_sources

ROOT = Path(__file__).parents[2]
PUBLIC = {
    "deb.debian.org",
    "security.debian.org",
    "archive.ubuntu.com",
    "ports.ubuntu.com",
    "security.ubuntu.com",
}


def tracked() -> list[Path]:
    result = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in result.stdout.split("\0") if name]


def mirrors() -> set[str]:
    """The hosts this machine's apt downloads from or through, but for those everybody knows."""
    texts = [entry.uri for entry in host_sources.read()]
    try:
        dump = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False)
        texts += [line for line in dump.stdout.splitlines() if "proxy" in line.lower()]
    except FileNotFoundError:
        pass  # no apt, no mirrors
    found = {host for text in texts for host in re.findall(r"https?://(?:[^/@\s\"]*@)?([\w.-]+)", text)}
    return {host for host in found if "." in host} - PUBLIC


def test_no_file_names_a_mirror_of_this_machine() -> None:
    hosts = mirrors()
    guilty = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in tracked()
        if path.is_file() and path.suffix not in {".lock", ".png"}
        for host in hosts
        if host in path.read_text(encoding="utf-8", errors="replace")
    ]
    assert not guilty
