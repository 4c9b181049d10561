"""A root filesystem by mmdebstrap, with maintainer scripts run: natively, or under an emulator that only
mmdebstrap's own user namespace knows of. Nothing on the host changes, and root is not needed.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from polyarch.base.archive import Archive, Package, without_credentials
from polyarch.base.deb import Deb
from polyarch.base.recipe import VARIANTS, Recipe
from polyarch.base.tree import Tree
from polyarch.content.state import State
from polyarch.errors import PolyarchError, UnsupportedError
from polyarch.executor import binfmt
from polyarch.executor.emulator import Emulators
from polyarch.executor.machines import MACHINES
from polyarch.oci.platform import Platform

# What a container image has no use for, or what the runtime makes.
_LEFT_OUT = (
    "var/lib/apt/lists",
    "var/cache/apt/pkgcache.bin",
    "var/cache/apt/srcpkgcache.bin",
    "var/cache/debconf/templates.dat-old",
    "var/cache/debconf/config.dat-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/diversions-old",
    "var/log/apt",
    "var/log/dpkg.log",
    "var/log/alternatives.log",
    "var/log/bootstrap.log",
    "etc/hostname",
    "etc/resolv.conf",
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/apt/sources.list.d/0000sources.list",  # the mirror that was used
    "dev",
    "etc/machine-id",
    "var/lib/dbus/machine-id",
)
_TOLD = ("I: extracting", "I: installing", "I: creating", "W: ", "E: ")
# As in Debian's own container images: no daemon is started by a package's script.
_POLICY = b"#!/bin/sh\nexit 101\n"


def bootstrap(
    recipe: Recipe,
    suite: str,
    platform: Platform,
    archive: Archive,
    packages: Sequence[Package],
    sources: str,
    sink: Callable[[bytes], object],
    *,
    state: State,
    progress: Callable[[str], None],
) -> int:
    """Write the root filesystem as a tar to ``sink``; returns the epoch that times were clamped to.

    ``archive`` has fetched ``packages``. UnsupportedError where mmdebstrap, an emulator or the permission to
    make namespaces is missing; PolyarchError with mmdebstrap's last words when it fails.
    """
    program = shutil.which("mmdebstrap")
    if program is None:
        raise UnsupportedError(
            "running the packages' scripts needs mmdebstrap, which is not here",
            hint="apt-get install mmdebstrap; or --scripts skip, which only unpacks the packages",
            reason="no-mmdebstrap",
        )
    emulators = Emulators.discover()
    strategy = emulators.require(platform)
    how = "natively" if strategy.kind == "native" else "emulated"
    lines = handlers(emulators) if strategy.via == "private" else []
    with tempfile.TemporaryDirectory(dir=state.temporary, prefix="bootstrap-") as name:
        scratch = Path(name)
        scratch.chmod(0o711)  # mmdebstrap's user in the namespace must get to its folder
        output = scratch / "root.tar"
        epoch = _epoch(recipe, archive, packages)
        command = [program, *_arguments(recipe, archive, packages, scratch)]
        command += [suite, str(output), str(scratch / "sources.list")]
        progress(f"running mmdebstrap, scripts {how}")
        _run(command, lines, scratch, epoch, progress)
        tree = Tree()
        tree.add_archive(output, devices=True)
        for path in _LEFT_OUT:
            tree.remove(path)
        tree.directory("dev")
        tree.directory("var/lib/apt/lists/partial")
        tree.file("etc/apt/sources.list", sources.encode())
        if recipe.variant != "essential":
            tree.file("usr/sbin/policy-rc.d", _POLICY, 0o755)
        tree.write(sink, epoch=epoch)
    return epoch


def handlers(emulators: Emulators) -> list[bytes]:
    """Registrations of every emulator for the namespace: its own binfmt_misc hides those of the host."""
    by_name = {machine.qemu: machine for machine in MACHINES}
    return [
        binfmt.registration(by_name[name], path, keep_name=keep_name)
        for name, path, keep_name in emulators.registrations()
    ]


def _epoch(recipe: Recipe, archive: Archive, packages: Sequence[Package]) -> int:
    """The recipe's, or when the newest package was built: the same for the same packages."""
    if recipe.epoch is not None:
        return recipe.epoch
    return max((Deb(archive.packages / package.file).built for package in packages), default=0)


def _arguments(recipe: Recipe, archive: Archive, packages: Sequence[Package], scratch: Path) -> list[str]:
    """mmdebstrap's options. Packages come from our cache; settings for apt are there for the making only."""
    settings = scratch / "apt.conf"
    settings.write_text(archive.settings())
    sources = scratch / "sources.list"
    sources.write_text(archive.sources())
    (scratch / "packages").write_text("".join(f"{archive.packages / package.file}\0" for package in packages))
    copy = f'xargs -0 -a {shlex.quote(str(scratch / "packages"))} cp {{}} -t "$1/var/cache/apt/archives/"'
    hooks = [
        f'cp {shlex.quote(str(settings))} "$1/etc/apt/apt.conf.d/00polyarch"',
        'mkdir -p "$1/var/cache/apt/archives/partial"',
        f"{copy.format('-l')} 2>/dev/null || {copy.format('')}",
    ]
    arguments = [
        "--mode=root",
        "--format=tar",
        f"--architectures={archive.architecture}",
        f"--variant={recipe.variant}",
        "--skip=check/qemu",
        "--skip=download/empty",
        "--hook-dir=/usr/share/mmdebstrap/hooks/maybe-merged-usr",
        '--aptopt=APT::Sandbox::User "root"',
        *(f"--setup-hook={hook}" for hook in hooks),
        '--customize-hook=rm -f "$1/etc/apt/apt.conf.d/00polyarch"',
    ]
    # mmdebstrap's own variant stands for the patterns of ours.
    rest = recipe.wanted[len(VARIANTS[recipe.variant]) :]
    arguments += [f"--include={package}" for package in rest]
    return arguments


def _run(
    command: list[str],
    handlers: list[bytes],
    scratch: Path,
    epoch: int,
    progress: Callable[[str], None],
) -> None:
    """Run mmdebstrap in namespaces of its own; its words go to ``progress`` line by line."""
    (scratch / "tmp").mkdir()
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(scratch / "tmp"),
        "SOURCE_DATE_EPOCH": str(epoch),
        "DEBIAN_FRONTEND": "noninteractive",
        "DEBCONF_NONINTERACTIVE_SEEN": "true",
        **{name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")},
    }
    helper = [sys.executable, "-m", "polyarch.base.namespace"]
    lines = [f"--binfmt={line.hex()}" for line in handlers]
    last: deque[str] = deque(maxlen=15)
    process = subprocess.Popen(
        [*helper, *lines, "--", *command],
        env={**environment, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        for raw in process.stdout:
            line = without_credentials(raw.rstrip())
            last.append(line)
            if line.startswith(_TOLD):
                progress("mmdebstrap: " + line[3:])
        code = process.wait()
    finally:
        # The helper is the first process of a process namespace: with it, everything in there ends.
        process.kill()
        process.wait()
    if code:
        raise PolyarchError(
            "mmdebstrap failed",
            detail="\n".join(last),
            hint="its own messages are above; --scripts skip makes the base without running anything",
            reason="mmdebstrap",
        )
