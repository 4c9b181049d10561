"""SOURCE_DATE_EPOCH with rewrite-timestamp: one digest, whatever the folder, order, umask or processor."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from polyarch.history.keeping import FOLDER

pytestmark = pytest.mark.userns
_START = (
    "import os, sys; os.umask(int(sys.argv.pop(1), 8)); os.sched_setaffinity(0, eval(sys.argv.pop(1)));"
    "from polyarch.cli.entry import run; run()"
)
_DOCKERFILE = """\
FROM base/busybox AS work
RUN mkdir -p /out/a /out/b; for n in 9 3 7 1; do echo $n > /out/a/$n; ln /out/a/$n /out/b/$n; done; \\
    umask 077; echo private > /out/private; ln -s private /out/link; mkfifo /out/pipe
FROM base/busybox
WORKDIR /made/by/workdir
COPY . /context/
COPY --from=work /out /out
COPY --link --chmod=640 file-3 /linked
RUN find /context | sort > /list; date > /dev/null
"""


def context(folder: Path, names: list[str], mask: int, time: int) -> Path:
    """The same files, made in the order of ``names`` under another umask and at another time."""
    old = os.umask(mask)
    try:
        folder.mkdir(parents=True)
        (folder / "Dockerfile").write_text(_DOCKERFILE)
        (folder / "tree").mkdir()
        for name in names:
            for path in (folder / name, folder / "tree" / name):
                path.write_text(name * 1000)
        for path in (folder, *folder.rglob("*")):
            os.chmod(path, 0o755 if path.is_dir() else 0o644)
            os.utime(path, (time, time))
    finally:
        os.umask(old)
    return folder


def built(folder: Path, where: Path, base: Path, mask: str, processors: set[int], zone: str) -> str:
    """The image's digest, built in a store of its own."""
    shutil.copytree(base, where / "content")
    environment = os.environ | {"POLYARCH_ROOT": str(where), "TZ": zone, "LC_ALL": "C" if zone else "C.UTF-8"}
    environment |= {"SOURCE_DATE_EPOCH": "1700000000", "PYTHONHASHSEED": str(len(zone))}
    file = where / "metadata.json"
    words = ["build", "--platform", "linux/amd64,linux/arm64", "--metadata-file", str(file), "-t", "same:1"]
    words += ["-o", "type=image,rewrite-timestamp=true", str(folder)]
    done = subprocess.run(
        [sys.executable, "-c", _START, mask, repr(processors), *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert list((where / FOLDER).iterdir())
    digest: str = json.loads(file.read_text())["containerimage.digest"]
    return digest


@pytest.mark.qemu
def test_two_machines_make_one_image(tmp_path: Path, busybox_layout: Path) -> None:
    names = [f"file-{number}" for number in range(20)]
    every = os.sched_getaffinity(0)
    first = context(tmp_path / "here" / "project", names, 0o022, 1_600_000_000)
    chance = random.Random(7)
    others = chance.sample(names, len(names))
    second = context(tmp_path / "elsewhere" / "other-name", others, 0o077, 1_650_000_000)
    one = built(first, tmp_path / "one", busybox_layout, "022", every, "")
    other = built(second, tmp_path / "two", busybox_layout, "077", {min(every)}, "Pacific/Chatham")
    assert one == other
    # And twice in a row, from what the store has, on other processors.
    shutil.rmtree(tmp_path / "two")
    assert built(first, tmp_path / "two", busybox_layout, "027", {max(every)}, "UTC") == one
