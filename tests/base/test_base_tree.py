"""Archives into one table of paths, and out as one tar."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from debian_mirror import tar_of

from polyarch.base.assemble import applets
from polyarch.base.tree import Tree
from polyarch.errors import ContentError


def archive(path: Path, files: dict[str, bytes | str | None], *, mtime: int = 1_600_000_000) -> Path:
    path.write_bytes(tar_of(files, mtime=mtime))
    return path


def written(tree: Tree, epoch: int = 2_000_000_000) -> dict[str, tarfile.TarInfo]:
    parts: list[bytes] = []
    tree.write(parts.append, epoch=epoch)
    with tarfile.open(fileobj=io.BytesIO(b"".join(parts))) as read:
        return {info.name: info for info in read}


def test_usr_is_merged(tmp_path: Path) -> None:
    tree = Tree()
    files = {"bin": None, "bin/sh": b"shell", "lib": None, "lib/x/libc.so": b"c", "usr/bin/env": b"env"}
    names = tree.add_archive(archive(tmp_path / "a.tar", files))
    assert names == ["/bin", "/bin/sh", "/lib", "/lib/x/libc.so", "/usr/bin/env"]
    found = written(tree)
    assert found["bin"].linkname == "usr/bin"
    assert found["lib"].linkname == "usr/lib"
    assert found["usr/bin/sh"].isfile()
    assert found["usr/lib/x/libc.so"].isfile()
    assert "sbin" not in found
    assert tree.read("bin/sh") == b"shell"
    assert "bin/sh" in tree


def test_later_archives_win_but_directories_stay(tmp_path: Path) -> None:
    tree = Tree()
    tree.add_archive(archive(tmp_path / "a.tar", {"etc": None, "etc/x": b"one", "var/run": "/run"}))
    tree.add_archive(archive(tmp_path / "b.tar", {"etc": None, "etc/x": b"two", "var/run": None}))
    assert tree.read("etc/x") == b"two"
    assert written(tree)["var/run"].issym()


def test_times_are_clamped_and_parents_come_first(tmp_path: Path) -> None:
    tree = Tree()
    tree.add_archive(archive(tmp_path / "a.tar", {"a/b/old": b"x"}, mtime=1_000))
    tree.add_archive(archive(tmp_path / "b.tar", {"a/b/new": b"x"}, mtime=3_000))
    tree.file("a/made", b"x")
    assert tree.newest() == 3_000
    found = written(tree, epoch=2_000)
    assert list(found) == ["a", "a/b", "a/b/new", "a/b/old", "a/made"]
    assert {name: info.mtime for name, info in found.items()} == {
        "a": 2_000,
        "a/b": 2_000,
        "a/b/new": 2_000,
        "a/b/old": 1_000,
        "a/made": 2_000,
    }


def test_hardlinks_follow_what_they_link_to(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        file = tarfile.TarInfo("./bin/zz")
        file.size = 1
        made.addfile(file, io.BytesIO(b"x"))
        link = tarfile.TarInfo("./bin/aa")
        link.type, link.linkname = tarfile.LNKTYPE, "./bin/zz"
        made.addfile(link)
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    tree = Tree()
    tree.add_archive(tmp_path / "a.tar")
    found = written(tree)
    assert list(found)[-2:] == ["usr/bin/zz", "usr/bin/aa"]
    assert found["usr/bin/aa"].linkname == "usr/bin/zz"


@pytest.mark.parametrize("name", ["../escape", "a/../../escape", "/a/../../../etc/passwd"])
def test_nothing_leads_out(tmp_path: Path, name: str) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        made.addfile(tarfile.TarInfo(name))
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    with pytest.raises(ContentError, match="out of its root"):
        Tree().add_archive(tmp_path / "a.tar")


def test_devices_are_refused_or_left_out(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        device = tarfile.TarInfo("dev/null")
        device.type = tarfile.CHRTYPE
        made.addfile(device)
    (tmp_path / "a.tar").write_bytes(buffer.getvalue())
    with pytest.raises(ContentError, match="device"):
        Tree().add_archive(tmp_path / "a.tar")
    tree = Tree()
    tree.add_archive(tmp_path / "a.tar", devices=True)
    assert written(tree) == {}


def test_remove_takes_what_is_below(tmp_path: Path) -> None:
    tree = Tree()
    tree.add_archive(archive(tmp_path / "a.tar", {"dev": None, "dev/pts": None, "device": b"x"}))
    tree.remove("dev")
    assert list(written(tree)) == ["device"]


def test_applets_are_read_from_the_programs_own_table() -> None:
    program = b"\x7fELF junk [ junk\0[\0[[\0ash\0busybox\0cat\0sh\0\0more"
    assert applets(program) == ["[", "[[", "ash", "cat", "sh"]
    with pytest.raises(ContentError, match="table of applets"):
        applets(b"\x7fELF nothing in here")
