"""type=local and type=tar: the files themselves."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import tempfile
from pathlib import Path

import pytest
from export_workshop import Workshop

from polyarch.errors import UsageError
from polyarch.export.output import parse
from polyarch.layer.entry import Entry
from polyarch.layer.layer import Layer

ROOT = os.geteuid() == 0


def stack(workshop: Workshop) -> list[Layer]:
    lower = workshop.layer(
        {"bin/app": b"program", "etc/gone": b"deleted above", "etc/kept": b"kept"},
        Entry("etc", "directory", 0o750, uid=7, gid=8, mtime_ns=1_000_000_000_000_000_000),
        Entry("bin/alias", "hardlink", link="bin/app"),
        Entry("bin/other", "hardlink", link="bin/app"),
        Entry("sbin", "symlink", 0o777, link="/bin"),
        Entry("run/pipe", "fifo", 0o622),
    )
    etc = Entry("etc", "directory", 0o750, uid=7, gid=8, mtime_ns=1_000_000_000_000_000_000)
    upper = workshop.layer({"bin/app": b"newer program"}, etc, Entry("etc/gone", "whiteout"))
    return [lower, upper]


def test_a_directory_per_platform(workshop: Workshop, tmp_path: Path) -> None:
    summary = workshop.export(workshop.two(), parse(str(tmp_path / "out")))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["linux_amd64", "linux_arm64"]
    assert (tmp_path / "out/linux_arm64/bin/app").read_bytes() == b"arm64 program"
    assert (tmp_path / "out/linux_amd64/etc/motd").read_bytes() == b"hello\n"
    assert summary.descriptor is None
    assert summary.digest == summary.image_id == ""
    assert summary.destinations == (f"4 files in {tmp_path / 'out'}",)
    workshop.export(workshop.one(), parse(f"type=local,dest={tmp_path / 'split'},platform-split=true"))
    assert (tmp_path / "split/linux_amd64/bin/app").exists()


def test_modes_times_links_and_deletions(workshop: Workshop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    workshop.export(workshop.result({"linux/amd64": stack(workshop)}), parse(str(out)))
    assert (out / "bin/app").read_bytes() == b"newer program"
    assert (out / "bin/alias").read_bytes() == (out / "bin/other").read_bytes() == b"program"
    assert (out / "bin/alias").stat().st_ino == (out / "bin/other").stat().st_ino
    assert (out / "bin/alias").stat().st_nlink == 2
    assert not (out / "etc/gone").exists()
    assert os.readlink(out / "sbin") == "/bin"
    status = (out / "etc").stat()
    assert stat.S_IMODE(status.st_mode) == 0o750
    assert status.st_mtime == 1_000_000_000
    assert (status.st_uid, status.st_gid) == ((7, 8) if ROOT else (os.geteuid(), os.getegid()))
    assert stat.S_ISFIFO((out / "run/pipe").stat().st_mode)
    assert (out / "bin/app").stat().st_mtime == 1_700_000_000


def test_nothing_leaves_the_destination(workshop: Workshop, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "app").write_text("precious")
    out = tmp_path / "out"
    out.mkdir()
    (out / "bin").symlink_to(victim)
    (out / "etc").mkdir()
    (out / "etc/motd").symlink_to(victim / "app")
    (out / "own").write_text("stays")
    layer = workshop.layer({"bin/app": b"program", "etc/motd": b"hello"})
    workshop.export(workshop.result({"linux/amd64": [layer]}), parse(str(out)))
    assert (victim / "app").read_text() == "precious"
    assert [p.name for p in victim.iterdir()] == ["app"]
    assert (out / "bin/app").read_bytes() == b"program"
    assert not (out / "etc/motd").is_symlink()
    assert (out / "own").read_text() == "stays"


def test_again_over_what_is_there(workshop: Workshop, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = workshop.result({"linux/amd64": stack(workshop)})
    for _ in range(2):
        workshop.export(result, parse(str(out)))
    (out / "bin/app").unlink()
    (out / "bin/app").mkdir()
    (out / "bin/app/inside").write_text("in the way")
    workshop.export(result, parse(str(out)))
    assert (out / "bin/app").read_bytes() == b"newer program"
    assert not list(out.rglob(".polyarch-*"))


@pytest.mark.skipif(not ROOT, reason="root becomes somebody else here")
def test_as_an_ordinary_user_everything_is_theirs(workshop: Workshop, request: pytest.FixtureRequest) -> None:
    layer = workshop.layer(
        {"bin/app": b"program"},
        Entry("locked", "directory", 0o555, uid=7),
        Entry("locked/sub", "directory", 0o555),
        Entry("dev/null", "character", 0o666, major=1, minor=3),
        Entry("bin/su", "hardlink", 0o4755, link="bin/app"),
    )
    result = workshop.result({"linux/amd64": [layer]})
    out = Path(tempfile.mkdtemp(prefix="polyarch-test-", dir="/tmp"))
    request.addfinalizer(lambda: shutil.rmtree(out))
    os.chown(out, 4242, 4242)
    os.setegid(4242)
    os.seteuid(4242)
    try:
        summary = workshop.export(result, parse(str(out)))
    finally:
        os.seteuid(0)
        os.setegid(0)
    assert (out / "locked/sub").stat().st_uid == 4242
    assert stat.S_IMODE((out / "locked").stat().st_mode) == 0o555
    assert not (out / "dev/null").exists()
    assert "only root" in summary.destinations[0]


def test_one_tar_for_all_platforms(workshop: Workshop, tmp_path: Path) -> None:
    target = tmp_path / "all.tar"
    workshop.export(workshop.two(), parse(f"type=tar,dest={target}"))
    with tarfile.open(target) as tar:
        found = tar.getnames()
        assert found[:3] == ["linux_amd64", "linux_amd64/bin", "linux_amd64/bin/app"]
        content = tar.extractfile("linux_arm64/bin/app")
        assert content is not None
        assert content.read() == b"arm64 program"


def test_a_tar_keeps_owners_links_and_times(workshop: Workshop) -> None:
    sink = io.BytesIO()
    workshop.export(workshop.result({"linux/amd64": stack(workshop)}), parse("-"), stdout=sink)
    sink.seek(0)
    with tarfile.open(fileobj=sink) as tar:
        etc = tar.getmember("etc")
        assert (etc.mode, etc.uid, etc.gid, etc.mtime) == (0o750, 7, 8, 1_000_000_000)
        assert tar.getmember("bin/alias").isreg()
        assert tar.getmember("bin/other").islnk()
        assert tar.getmember("bin/other").linkname == "bin/alias"
        assert "etc/gone" not in tar.getnames()
    sink = io.BytesIO()
    workshop.export(workshop.two(epoch=12), parse("-"), stdout=sink)
    sink.seek(0)
    with tarfile.open(fileobj=sink) as tar:
        assert {m.mtime for m in tar} == {12}
        assert "linux_amd64/bin/app" in tar.getnames()


def test_platforms_in_one_folder_must_not_collide(workshop: Workshop, tmp_path: Path) -> None:
    output = parse(f"type=local,dest={tmp_path / 'out'},platform-split=false")
    with pytest.raises(UsageError, match="would overwrite"):
        workshop.export(workshop.two(), output)
    apart = workshop.result(
        {"linux/amd64": [workshop.layer({"bin/a": b"1"})], "linux/arm64": [workshop.layer({"bin/b": b"2"})]}
    )
    workshop.export(apart, output)
    assert sorted(p.name for p in (tmp_path / "out/bin").iterdir()) == ["a", "b"]
