"""The folder that tells the dispatcher, which finds it at ``/dev/.polyarch``, what has a native twin.

It is made for one step: a foreign file is named by inode, size and change time, so that it has a twin only as
long as it is the very file of the image. The sibling's root filesystem is mounted beside, read-only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from polyarch.layer.rootfs import Rootfs
from polyarch.ops.twins.choose import Twin, Twins

PLACE = "/dev/.polyarch"
NATIVE = PLACE + "/native"


def write(folder: Path, twins: Twins, foreign: Rootfs, patched: Mapping[str, bytes]) -> int:
    """Fill the empty ``folder`` for a step on ``foreign``; how many twins it has. ``patched`` holds, by path,
    the bytes of twins that had to be told their architecture."""
    for name in ("files", "applets", "patched", "native"):
        (folder / name).mkdir(mode=0o755)
    count = 0
    for twin in twins.twins:
        name = _identity(foreign, twin)
        if not name or (twin.patch and twin.path not in patched):
            continue
        target = f"{NATIVE}/{twin.native}"
        if twin.patch:
            file = folder / "patched" / twin.path.replace("/", "-")
            file.write_bytes(patched[twin.path])
            file.chmod(0o755)
            target = f"{PLACE}/patched/{file.name}"
        text = f"{twin.kind}{twin.avoid or '-'}{target}"
        if twin.applets:
            (folder / "applets" / name).mkdir(mode=0o755)
            for applet in twin.applets:
                os.symlink(text, folder / "applets" / name / applet)
        else:
            os.symlink(text, folder / "files" / name)
        count += 1
    if twins.loader:
        os.symlink(f"{NATIVE}/{twins.loader}", folder / "loader")
        os.symlink(":".join(f"{NATIVE}/{path}" for path in twins.libraries), folder / "libraries")
    return count


def _identity(foreign: Rootfs, twin: Twin) -> str:
    """The file's name as the dispatcher computes it; "" when it is another file now, or hidden from us."""
    found = foreign.content(twin.path)
    if found is None or foreign.digest(twin.path) != twin.digest:
        return ""
    entry, number = found
    try:
        status = os.lstat(foreign.layers[number].tree() / entry.path)
    except OSError:
        return ""
    return f"{status.st_ino:x}-{status.st_size:x}-{status.st_ctime_ns:x}"
