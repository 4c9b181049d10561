"""What runs on a node's host before there is a polyarch: sent as text, with any Python 3 and nothing else.

``look`` prints what the host is; ``install FOLDER VERSION`` takes a tar of wheels from standard input and
puts what is in them into ``FOLDER/VERSION``, as a whole or not at all.
"""

import io
import json
import os
import platform
import shutil
import sys
import tarfile
import tempfile
import zipfile


def look() -> None:
    """Print the facts as JSON, behind a mark, because a login shell may print before it."""
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    place = data
    while not os.path.exists(place):
        place = os.path.dirname(place)
    disk = shutil.disk_usage(place)
    libc = platform.libc_ver(sys.executable)
    facts = {
        "system": platform.system(),
        "machine": platform.machine(),
        "python": list(sys.version_info[:3]),
        "implementation": platform.python_implementation(),
        "executable": sys.executable,
        "libc": [libc[0] or "musl", libc[1]],
        "folder": os.path.join(data, "polyarch", "node"),
        "writable": os.access(place, os.W_OK),
        "free": disk.free,
    }
    sys.stdout.write("polyarch-host " + json.dumps(facts) + "\n")


def install(folder: str, version: str) -> None:
    """Unpack the wheels; what was there of this version is replaced."""
    os.makedirs(folder, exist_ok=True)
    fresh = tempfile.mkdtemp(prefix=".new-", dir=folder)
    target = os.path.join(folder, version)
    try:
        library = os.path.join(fresh, "lib")
        os.mkdir(library)
        with tarfile.open(fileobj=sys.stdin.buffer, mode="r|") as archive:
            for member in archive:
                stream = archive.extractfile(member)
                if stream is not None:
                    _unpack(stream.read(), library)
        os.mkdir(os.path.join(fresh, "bin"))
        program = os.path.join(fresh, "bin", "polyarch")
        with open(program, "w") as file:
            file.write(
                "#!/bin/sh\n"
                'here=$(dirname "$(dirname "$(readlink -f "$0")")")\n'
                f'PYTHONPATH="$here/lib" PYTHONNOUSERSITE=1 exec "{sys.executable}" -m polyarch "$@"\n'
            )
        os.chmod(program, 0o755)
        os.chmod(fresh, 0o755)
        if os.path.exists(target):
            old = tempfile.mkdtemp(prefix=".old-", dir=folder)
            os.rename(target, os.path.join(old, "was"))
            os.rename(fresh, target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(fresh, target)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    sys.stdout.write("polyarch-installed " + target + "\n")


def _unpack(wheel: bytes, library: str) -> None:
    with zipfile.ZipFile(io.BytesIO(wheel)) as files:
        for name in files.namelist():
            if name.startswith("/") or ".." in name.split("/"):
                raise ValueError("a wheel holds " + name)
        files.extractall(library)


if __name__ == "__main__":
    if sys.argv[1] == "look":
        look()
    else:
        install(sys.argv[2], sys.argv[3])
