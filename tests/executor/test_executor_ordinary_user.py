"""The executor's tests once more, by an ordinary user with subordinate ids.

The user exists only in a mount namespace of the test's own (bind-mounted copies of /etc/passwd,
/etc/subuid, …), where interpreter, packages and checkout are bound to places anybody may read: nothing of the
machine is changed and no permission is loosened.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import executor_debian
import pytest

from polyarch.executor import syscalls

CHECKOUT = Path(__file__).resolve().parents[2]
UID = 54321
TESTS = "process mounts lifecycle privilege emulation terminal escapes helper"

pytestmark = [
    pytest.mark.userns,
    pytest.mark.slow,
    pytest.mark.skipif(
        os.geteuid() != 0 or not syscalls.may_mount(), reason="only root can become somebody else"
    ),
]


@pytest.fixture
def place(tmp_path_factory):
    """A folder whose every parent anybody may enter."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="polyarch-user-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    # Files of subordinate ids are root's to remove.
    shutil.rmtree(folder, ignore_errors=True)


def account(place: Path, *, subordinate: bool) -> list[tuple[Path, str]]:
    """Copies of the account files with one more user; (copy, where it goes)."""
    ranges = "tester:700000:65536\n" if subordinate else ""
    additions = {
        "/etc/passwd": f"tester:x:{UID}:{UID}::{place}/home:/bin/sh\n",
        "/etc/group": f"tester:x:{UID}:\n",
        "/etc/subuid": ranges,
        "/etc/subgid": ranges,
    }
    pairs = []
    for path, addition in additions.items():
        copy = place / path.replace("/", "_")
        old = Path(path).read_text() if subordinate or "sub" not in path else ""
        copy.write_text(old.rstrip("\n") + "\n" + addition)
        pairs.append((copy, path))
    return pairs


def as_user(
    place: Path, arguments: list[str], *, subordinate: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with ``arguments`` as the ordinary user."""
    (place / "home").mkdir(exist_ok=True)
    os.chown(place / "home", UID, UID)
    binds = account(place, subordinate=subordinate)
    python = Path(sys.base_prefix)
    for name, source in (
        ("python", python),
        ("checkout", CHECKOUT),
        ("packages", Path(sysconfig.get_path("purelib"))),
    ):
        (place / name).mkdir(exist_ok=True)
        binds.append((source, str(place / name)))
    lines = ["set -e"]
    for source, target in binds:
        if not Path(target).exists():
            Path(target).touch()
        lines.append(f"mount --bind {shlex.quote(str(source))} {shlex.quote(target)}")
    interpreter = place / "python/bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": f"{place}/home",
        "PYTHONPATH": f"{place}/checkout/src:{place}/packages",
        "PYTHONDONTWRITEBYTECODE": "1",
        "POLYARCH_TEST_BUSYBOX": f"{place}/busybox",
        "CI": os.environ.get("CI", ""),
    }
    words = [
        "setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups", "--inh-caps=-all",
        "env", "-i", *(f"{name}={value}" for name, value in environment.items() if value),
        str(interpreter), *arguments,
    ]  # fmt: skip
    lines.append(f"cd {place}/checkout; exec {shlex.join(words)}")
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", "\n".join(lines)],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def test_every_test_of_this_room(place, tmp_path):
    for architecture in ("arm64", "armhf"):
        executor_debian.busybox(architecture, tmp_path / architecture)
    shutil.copytree(executor_debian.CACHE, place / "busybox")
    tests = [f"tests/executor/test_executor_{name}.py" for name in TESTS.split()]
    done = as_user(
        place,
        [
            "-m",
            "pytest",
            "-v",
            "-p",
            "no:cacheprovider",
            f"--basetemp={place}/home/tmp",
            "--tb=short",
            *tests,
        ],
    )
    print(done.stdout[-6000:], done.stderr[-2000:])
    assert done.returncode == 0
    assert " passed" in done.stdout


def test_without_subordinate_ids_a_single_one_does(place):
    code = """
import sys
import threading
from pathlib import Path
from polyarch.content.state import State
from polyarch.executor.machines import find
from polyarch.executor.sandbox import Sandbox
from polyarch.executor.spec import Identity, Process, RootFilesystem
from polyarch.oci import platform as platforms
state = State(Path(sys.argv[1]))
lower = state.root / "lower"
lower.mkdir(parents=True)
machine = find(platforms.host().architecture)
who = {"amd64": "b86b0000000f0589c7b83c0000000f05", "arm64": "e81580d2010000d4a80b80d2010000d4"}
(lower / "who").write_bytes(machine._replace(code=who[machine.architecture]).program())
(lower / "who").chmod(0o755)
with Sandbox.start(state) as sandbox:
    assert sandbox.privilege.call("polyarch.layer.owners:mapped") == 1
    process = Process(("/who",), platforms.host(), identity=Identity(33, 33))
    root = RootFilesystem((lower,))
    print(sandbox.run(process, root, (), lambda *_: None, threading.Event()).code)
"""
    done = as_user(place, ["-c", code, f"{place}/home/state"], subordinate=False)
    assert done.stdout == "33\n", done.stderr
