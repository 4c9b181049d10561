"""QEMU registered with the host's kernel for as long as a row needs it: BuildKit cannot emulate without."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

BINFMT = Path("/proc/sys/fs/binfmt_misc")
NAME = "polyarch-bench-aarch64"
MAGIC = r"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r"\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"


@contextlib.contextmanager
def host_handlers(*, enabled: bool) -> Iterator[None]:
    """An arm64 handler, taken away at the end, and binfmt_misc unmounted again where it was not mounted."""
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if not enabled or emulator is None:
        yield
        return
    mounted = (BINFMT / "register").exists()
    if not mounted:
        subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", str(BINFMT)], check=True)
    try:
        (BINFMT / "register").write_text(f":{NAME}:M::{MAGIC}:{MASK}:{emulator}:FPC")
        yield
    finally:
        with contextlib.suppress(OSError):
            (BINFMT / NAME).write_text("-1")
        if not mounted:
            subprocess.run(["umount", str(BINFMT)], check=False)
