"""A root filesystem of packages that are unpacked and never run: for any platform, without any privilege.

What maintainer scripts would have made and nothing works without is made here: users and groups, the links of
a few alternatives, the bundle of certificates, dpkg's database. dpkg's database says "unpacked", which is the
truth, so that ``dpkg --configure -a`` or the next ``apt-get install`` runs the scripts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from polyarch.base.archive import Package
from polyarch.base.deb import Deb
from polyarch.base.recipe import Recipe
from polyarch.base.tree import Tree
from polyarch.errors import ContentError
from polyarch.layer.compress import workers

# What update-alternatives would choose: the generic name, and the candidates in its order of preference.
_ALTERNATIVES = {
    "usr/bin/awk": ("usr/bin/gawk", "usr/bin/mawk", "usr/bin/original-awk"),
    "usr/bin/which": ("usr/bin/which.gnu", "usr/bin/which.debianutils"),
    "usr/bin/cc": ("usr/bin/gcc", "usr/bin/clang"),
    "usr/bin/c++": ("usr/bin/g++", "usr/bin/clang++"),
    "usr/bin/pager": ("usr/bin/less", "usr/bin/more"),
    "usr/bin/editor": ("usr/bin/vim.basic", "usr/bin/nano", "usr/bin/vim.tiny"),
}
_DIRECTORIES = {
    "dev": 0o755,
    "etc": 0o755,
    "home": 0o755,
    "media": 0o755,
    "mnt": 0o755,
    "opt": 0o755,
    "proc": 0o555,
    "root": 0o700,
    "run": 0o755,
    "srv": 0o755,
    "sys": 0o555,
    "tmp": 0o1777,
    "usr/bin": 0o755,
    "usr/sbin": 0o755,
    "usr/local/bin": 0o755,
    "var/lib": 0o755,
    "var/tmp": 0o1777,
}
_PASSWD = b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
_GROUP = b"root:x:0:\ntty:x:5:\nstaff:x:50:\nnogroup:x:65534:\n"
_NSSWITCH = b"passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
_BUSYBOX = "bin/busybox"


def assemble(
    recipe: Recipe,
    packages: Sequence[Package],
    folder: Path,
    sources: str,
    sink: Callable[[bytes], object],
    *,
    temporary: Path,
    progress: Callable[[str], None],
) -> int:
    """Write the root filesystem of ``packages`` (files in ``folder``) as a tar to ``sink``.

    ``sources`` becomes the image's sources.list where apt is in it. ``temporary`` needs room for everything
    unpacked. Returns the epoch that times were clamped to.
    """
    tree = Tree()
    with tempfile.TemporaryDirectory(dir=temporary, prefix="base-") as name:
        scratch = Path(name)
        database = _Database(tree)
        # Decompressing is most of the work, and lets go of the interpreter's lock.
        with ThreadPoolExecutor(workers(), "unpack") as pool:
            unpacked = [pool.submit(_unpack, folder, package, scratch) for package in packages]
            try:
                for package, future in zip(packages, unpacked, strict=True):
                    control, path = future.result()
                    progress(f"unpacking {package.label}")
                    database.add(control, tree.add_archive(path))
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        database.write()
        epoch = tree.newest() if recipe.epoch is None else recipe.epoch
        _complete(tree, sources, busybox=recipe.source == "busybox")
        tree.write(sink, epoch=epoch)
    return epoch


def _unpack(folder: Path, package: Package, scratch: Path) -> tuple[dict[str, bytes], Path]:
    """The control files of ``package``, and its data as an uncompressed tar in ``scratch``."""
    deb = Deb(folder / package.file)
    deb.verify(package.checksum)
    path = scratch / f"{package.file}.tar"
    with path.open("wb") as stream:
        deb.data(stream)
    return deb.control(), path


class _Database:
    """dpkg's database of what is unpacked (dpkg's lib/dpkg/dbmodify.c reads it)."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._stanzas: list[str] = []

    def add(self, control: dict[str, bytes], names: Sequence[str]) -> None:
        text = control.pop("control").decode(errors="replace").strip("\n")
        fields = _fields(text)
        package = fields.get("Package", "")
        if not package or "/" in package:
            raise ContentError("a package's control file does not name it", reason="invalid-package")
        unique = f"{package}:{fields['Architecture']}" if fields.get("Multi-Arch") == "same" else package
        lines = text.splitlines()
        lines.insert(1, "Status: install ok unpacked")
        self._stanzas.append("\n".join(lines) + "\n")
        info = "var/lib/dpkg/info/" + unique
        self._tree.file(
            f"{info}.list", "".join(f"{name}\n" for name in names).encode(errors="surrogateescape")
        )
        for name, content in control.items():
            executable = name in ("preinst", "postinst", "prerm", "postrm", "config")
            self._tree.file(f"{info}.{name}", content, 0o755 if executable else 0o644)

    def write(self) -> None:
        self._tree.file("var/lib/dpkg/info/format", b"1\n")
        self._tree.file("var/lib/dpkg/status", "\n".join(sorted(self._stanzas)).encode() + b"\n")
        self._tree.file("var/lib/dpkg/available", b"")
        self._tree.directory("var/lib/dpkg/updates")
        self._tree.directory("var/lib/dpkg/triggers")


def _fields(stanza: str) -> dict[str, str]:
    pairs = (line.partition(":") for line in stanza.splitlines() if line[:1] not in (" ", "\t"))
    return {name: value.strip() for name, _, value in pairs}


def _complete(tree: Tree, sources: str, *, busybox: bool) -> None:
    """Add what scripts would have made."""
    for path, mode in _DIRECTORIES.items():
        tree.directory(path, mode)
    _accounts(tree)
    for generic, candidates in _ALTERNATIVES.items():
        found = next((candidate for candidate in candidates if candidate in tree), None)
        if found and generic not in tree:
            alternative = "etc/alternatives/" + generic.rpartition("/")[2]
            tree.symlink(generic, "/" + alternative)
            tree.symlink(alternative, "/" + found)
    if busybox:
        _applets(tree)
    if certificates := [tree.read(path) for path in tree.files("usr/share/ca-certificates", ".crt")]:
        tree.file("etc/ssl/certs/ca-certificates.crt", b"".join(certificates))
    if "usr/bin/apt-get" in tree and "etc/apt/sources.list" not in tree:
        tree.file("etc/apt/sources.list", sources.encode())
        tree.directory("var/lib/apt/lists/partial")
        tree.directory("var/cache/apt/archives/partial")
    if "usr/share/base-files/dot.profile" in tree and "root/.profile" not in tree:
        tree.file("root/.profile", tree.read("usr/share/base-files/dot.profile"))


def _accounts(tree: Tree) -> None:
    """Users, groups and how they are looked up, as base-passwd and libc-bin would have made them."""
    passwd = tree.read("usr/share/base-passwd/passwd.master").replace(b":*:", b":x:")
    group = tree.read("usr/share/base-passwd/group.master").replace(b":*:", b":x:")
    for path, content in (("etc/passwd", passwd or _PASSWD), ("etc/group", group or _GROUP)):
        if path not in tree:
            tree.file(path, content)
    if "etc/shadow" not in tree:
        users = [line.partition(b":")[0] for line in tree.read("etc/passwd").splitlines()]
        tree.file("etc/shadow", b"".join(user + b":*:19000:0:99999:7:::\n" for user in users), 0o640, gid=42)
    if "etc/nsswitch.conf" not in tree:
        tree.file("etc/nsswitch.conf", tree.read("usr/share/libc-bin/nsswitch.conf") or _NSSWITCH)


def _applets(tree: Tree) -> None:
    """A link for each applet of busybox, where no package brought a program of that name."""
    for name in applets(tree.read(_BUSYBOX)):
        if not any(f"usr/{folder}/{name}" in tree for folder in ("bin", "sbin")):
            tree.symlink(f"usr/bin/{name}", "busybox")


def applets(program: bytes) -> list[str]:
    """The names of busybox's applets, read from its own table: it cannot be asked where it cannot run.

    The table (``applet_names``) holds the sorted names, each ended by a zero byte; an empty one ends it.
    """
    for first in (b"\0[\0[[\0", b"\0[\0"):
        start = program.find(first)
        end = program.find(b"\0\0", start + 1)
        if start >= 0 and end > start:
            names = [name.decode("ascii", "replace") for name in program[start + 1 : end].split(b"\0")]
            if "sh" in names and names == sorted(names):
                return [name for name in names if name != "busybox" and "/" not in name]
    raise ContentError("busybox's table of applets is not where it always was", reason="no-applets")
