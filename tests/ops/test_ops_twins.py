"""Which programs have a native twin: package databases, the gates, and what a program of dpkg is told."""

from __future__ import annotations

import base64
import hashlib
import io
import os
from pathlib import Path

import pytest

from polyarch.executor.machines import MACHINES
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.index import IndexedLayer
from polyarch.layer.rootfs import Rootfs
from polyarch.oci.digest import of
from polyarch.oci.platform import host
from polyarch.ops.twins import links
from polyarch.ops.twins.accelerator import told
from polyarch.ops.twins.choose import Twin, Twins, choose
from polyarch.ops.twins.packages import owned

NATIVE = next(m for m in MACHINES if m.architecture == host().architecture).program()
FOREIGN = next(m for m in MACHINES if m.architecture not in ("386", "arm", host().architecture)).program()


Tree = dict[str, bytes | str]


class Files(IndexedLayer):
    """A layer of files by path; a text is where a symbolic link leads."""

    def __init__(self, files: Tree, *, mode: int = 0o755, place: Path | None = None) -> None:
        super().__init__()
        self._files, self._place, self.id = files, place, f"files:{id(self)}"
        folders = {f for path in files for f in map(str, Path(path).parents)} - {"."}
        entries = [Entry(folder, "directory", 0o755) for folder in folders] + [
            Entry(path, "symlink", 0o777, link=what)
            if isinstance(what, str)
            else Entry(path, "file", mode, size=len(what), digest=of(what))
            for path, what in files.items()
        ]
        self._toc = Toc(tuple(sorted(entries, key=lambda entry: entry.path)))

    def toc(self) -> Toc:
        return self._toc

    def tree(self) -> Path:
        assert self._place is not None
        return self._place

    def open(self, entry: Entry) -> io.BytesIO:
        content = self._files[entry.path]
        assert isinstance(content, bytes)
        return io.BytesIO(content)


def debian(program: bytes, version: str = "9.1-1", name: str = "cat", **more: bytes | str) -> Tree:
    """A root filesystem with one program of a package."""
    checksum = hashlib.md5(program, usedforsecurity=False).hexdigest()
    status = f"Package: tools\nStatus: install ok installed\nVersion: {version}\nArchitecture: any\nx: y\n\n"
    return {
        "bin": "usr/bin",
        f"usr/bin/{name}": program,
        "var/lib/dpkg/status": status.encode(),
        "var/lib/dpkg/info/tools.md5sums": f"{checksum}  bin/{name}\n".encode(),
        **more,
    }


def alpine(program: bytes) -> Tree:
    checksum = base64.b64encode(hashlib.sha1(program, usedforsecurity=False).digest()).decode()
    text = f"C:Q1x=\nP:busybox\nV:1.36-r1\nA:x\nF:bin\nR:busybox\na:0:0:755\nZ:Q1{checksum}\nR:sh\n\n"
    return {"bin/busybox": program, "bin/sh": "/bin/busybox", "lib/apk/db/installed": text.encode()}


def twins(foreign: Tree, native: Tree) -> list[Twin]:
    return list(choose(Rootfs([Files(foreign)]), Rootfs([Files(native)])).twins)


def test_the_same_file_of_the_same_package_is_a_twin():
    (twin,) = twins(debian(FOREIGN), debian(NATIVE))
    assert (twin.path, twin.native, twin.kind, twin.digest) == (
        "usr/bin/cat",
        "usr/bin/cat",
        "s",
        of(FOREIGN),
    )


def test_a_program_compiled_again_is_of_the_same_version():
    assert twins(debian(FOREIGN, "9.1-1+b2"), debian(NATIVE, "9.1-1+b7"))


def test_busybox_has_applets_and_none_of_them_tells_the_architecture():
    (twin,) = twins(alpine(FOREIGN), alpine(NATIVE))
    assert {"sh", "ls", "tar"} <= set(twin.applets)
    assert not {"uname", "arch", "printf", "awk", "seq", "busybox"} & set(twin.applets)


@pytest.mark.parametrize("name", ["uname", "arch", "bash", "perl", "printf", "seq", "mawk", "od", "apt-get"])
def test_what_tells_the_architecture_never_has_one(name):
    assert not twins(debian(FOREIGN, name=name), debian(NATIVE, name=name))


@pytest.mark.parametrize(
    ("foreign", "native"),
    [
        (debian(FOREIGN, "9.1-1"), debian(NATIVE, "9.1-2")),
        (debian(FOREIGN), debian(FOREIGN)),  # not a program of this machine
        (debian(FOREIGN) | {"usr/bin/cat": FOREIGN + b"edited"}, debian(NATIVE)),
        (debian(FOREIGN), debian(NATIVE) | {"usr/bin/cat": NATIVE + b"edited"}),
        (debian(FOREIGN) | {"var/lib/dpkg/status": b""}, debian(NATIVE)),
        (debian(FOREIGN), {"usr/bin/cat": NATIVE}),  # nobody vouches for it
        (debian(FOREIGN), alpine(NATIVE)),
    ],
)
def test_no_twin(foreign, native):
    assert not twins(foreign, native)


def test_a_setuid_program_has_none():
    foreign = Rootfs([Files(debian(FOREIGN), mode=0o4755)])
    assert not choose(foreign, Rootfs([Files(debian(NATIVE))])).twins


def test_a_file_of_two_packages_is_doubtful():
    second = {"var/lib/dpkg/info/other.md5sums": b"0" * 32 + b"  usr/bin/cat\n"}
    status = b"Package: other\nStatus: install ok installed\nVersion: 1\n\n"
    files = debian(FOREIGN, **second)
    files["var/lib/dpkg/status"] = bytes(files["var/lib/dpkg/status"]) + status  # type: ignore[arg-type]
    assert not owned(Rootfs([Files(files)]), lambda path: path.endswith("cat"))


@pytest.mark.parametrize("text", [b"", b"\xff\xfe", b"P:\nF:bin\nR:busybox\nZ:Q1***\n", b"Package\n\n\n: \n"])
def test_strange_databases_say_nothing(text):
    for place in ("lib/apk/db/installed", "var/lib/dpkg/status"):
        assert not owned(Rootfs([Files({place: text, "bin/busybox": b"x"})]), lambda path: True)


def test_dpkg_is_told_another_architecture():
    assert told(b"..\0amd64\0..1.21 (amd64)\0", "amd64", "arm64") == b"..\0arm64\0..1.21 (arm64)\0"
    assert told(b"no name", "amd64", "arm64") == b"no name"
    assert told(b"\0amd64\0 \0amd64\0", "amd64", "arm64") is None
    assert told(b"\0amd64\0", "amd64", "ppc64le") is None  # ppc64el is longer


def test_links_name_the_very_file(tmp_path):
    tree, folder = tmp_path / "tree", tmp_path / "links"
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/cat").write_bytes(FOREIGN)
    folder.mkdir()
    foreign = Rootfs([Files(debian(FOREIGN), place=tree)])
    twin = Twin("usr/bin/cat", of(FOREIGN), "usr/bin/cat", "g", "g")
    assert links.write(folder, Twins((twin,), "lib/ld.so", ("lib", "usr/lib")), foreign, {}) == 1
    status = (tree / "usr/bin/cat").stat()
    name = f"{status.st_ino:x}-{status.st_size:x}-{status.st_ctime_ns:x}"
    assert os.readlink(folder / "files" / name) == "gg/dev/.polyarch/native/usr/bin/cat"
    assert os.readlink(folder / "loader") == "/dev/.polyarch/native/lib/ld.so"
    assert os.readlink(folder / "libraries") == "/dev/.polyarch/native/lib:/dev/.polyarch/native/usr/lib"


def test_a_file_replaced_by_a_later_layer_has_no_link(tmp_path):
    foreign = Rootfs([Files(debian(FOREIGN)), Files({"usr/bin/cat": b"mine"})])
    twin = Twin("usr/bin/cat", of(FOREIGN), "usr/bin/cat", "s")
    assert links.write(tmp_path, Twins((twin,)), foreign, {}) == 0
