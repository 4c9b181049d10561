"""Foreign programs for the tests: busybox-static of another architecture, by the host's apt with a
configuration of its own. Kept in the user's cache folder, so that it is downloaded once."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polyarch-tests" / "executor"


def busybox(architecture: str, folder: Path) -> Path:
    """The path of a static busybox of a Debian architecture; skips where it cannot be had."""
    given = os.environ.get("POLYARCH_TEST_BUSYBOX", "")  # a folder that holds them already
    for place in (Path(given) if given else CACHE, CACHE):
        if (place / f"busybox-{architecture}").is_file():
            return place / f"busybox-{architecture}"
    if not shutil.which("apt-get") or os.environ.get("POLYARCH_OFFLINE"):
        pytest.skip("needs apt-get and the network")
    return _download(architecture, folder)


def _download(architecture: str, folder: Path) -> Path:
    for name in ("state/lists/partial", "cache/archives/partial", "download"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()
    options = [
        f"APT::Architecture={architecture}",
        f"APT::Architectures::={architecture}",
        f"Dir::State={folder}/state",
        f"Dir::State::status={folder}/status",
        f"Dir::Cache={folder}/cache",
        "APT::Sandbox::User=root" if os.geteuid() == 0 else "Debug::NoLocking=true",
    ]
    words = [word for option in options for word in ("-o", option)]
    subprocess.run(["apt-get", *words, "-qq", "update"], capture_output=True, check=False)
    subprocess.run(
        ["apt-get", *words, "-qq", "download", "busybox-static"],
        cwd=folder / "download",
        capture_output=True,
        check=False,
    )
    packages = list((folder / "download").glob("*.deb"))
    if not packages:
        pytest.skip(f"busybox-static:{architecture} cannot be downloaded")
    subprocess.run(["dpkg-deb", "-x", packages[0], folder / "unpacked"], check=True)
    CACHE.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / "unpacked/bin/busybox", CACHE / f"busybox-{architecture}.new")
    os.replace(CACHE / f"busybox-{architecture}.new", CACHE / f"busybox-{architecture}")
    return CACHE / f"busybox-{architecture}"
