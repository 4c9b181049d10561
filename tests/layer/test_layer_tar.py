"""Tar: what is written is read back the same, by us and by others; what is hostile is refused."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_fixtures import file, tar

from polyarch.errors import ContentError
from polyarch.layer import tar_toc
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.tar_reader import TarReader, clean
from polyarch.layer.toc import canonical, decode, encode

SECOND = 1_000_000_000
_part = st.one_of(
    st.text("abcdefXYZ._- ", min_size=1, max_size=12),
    st.text(min_size=1, max_size=8),
    st.binary(min_size=1, max_size=6).map(lambda raw: raw.decode("utf-8", "surrogateescape")),
    st.just("long" * 40),
).filter(lambda s: "/" not in s and "\0" not in s and s not in (".", "..") and not s.startswith(".wh."))
_path = st.lists(_part, min_size=1, max_size=4).map("/".join).filter(lambda p: len(os.fsencode(p)) < 900)
_id = st.one_of(st.integers(0, 70000), st.just(3_000_000), st.just(2**32 - 2))
_time = st.one_of(st.integers(-5, 2**33), st.just(9 * 10**9)).map(lambda s: s * SECOND)
_xattrs = st.dictionaries(
    st.sampled_from(["user.a", "security.capability", "user.ünï"]), st.binary(max_size=40), max_size=2
)


@st.composite
def tocs(draw: st.DrawFn) -> tuple[Toc, dict[str, bytes]]:
    paths = draw(st.lists(_path, max_size=12, unique=True))
    taken: set[str] = set()
    entries: list[Entry] = []
    contents: dict[str, bytes] = {}
    plain: list[str] = []
    for path in paths:
        parents = {path[:at] for at, c in enumerate(path) if c == "/"}
        if parents & set(plain) or any(other.startswith(path + "/") for other in taken):
            continue
        taken.add(path)
        kind = draw(
            st.sampled_from(["file", "file", "directory", "symlink", "fifo", "character", "whiteout"])
        )
        common = {"uid": draw(_id), "gid": draw(_id), "mtime_ns": draw(_time), "xattrs": draw(_xattrs)}
        mode = draw(st.integers(0, 0o7777))
        if kind != "directory":
            plain.append(path)
        match kind:
            case "file":
                contents[path] = draw(st.binary(max_size=1500))
                entries.append(file(path, contents[path], mode=mode, **common))
            case "symlink":
                entries.append(Entry(path, "symlink", 0o777, link=draw(_path), **common))
            case "character":
                entries.append(
                    Entry(path, "character", mode, major=draw(st.integers(1, 4000)), minor=3, **common)
                )
            case "whiteout":
                entries.append(Entry(path, "whiteout", 0))
            case "directory":
                entries.append(Entry(path, "directory", mode, **common))
                if draw(st.booleans()):
                    entries.append(Entry(path, "opaque", 0))
            case _:
                entries.append(Entry(path, "fifo", mode, **common))
    return canonical(entries), contents


@given(tocs())
@settings(max_examples=150, deadline=None)
def test_tar_round_trip(made: tuple[Toc, dict[str, bytes]]) -> None:
    toc, contents = made
    data = tar(list(toc.entries), contents)
    assert tar_toc.read(io.BytesIO(data)).toc == toc
    assert tar(list(toc.entries), contents) == data
    assert decode(encode(toc)) == toc
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:  # another reader agrees on the names
        names = {m.name for m in archive if ".wh." not in m.name}
    assert names == {e.path.rstrip("/") for e in toc.entries if e.type not in ("whiteout", "opaque")}


@given(st.binary(max_size=3000))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for candidate in (data, data.ljust(1536, b"\0")):
        try:
            tar_toc.read(io.BytesIO(candidate))
        except ContentError:
            pass


@given(
    tocs(), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4), st.integers(0, 6000)
)
@settings(max_examples=100, deadline=None)
def test_damaged_tars_never_crash(
    made: tuple[Toc, dict[str, bytes]], changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(tar(list(made[0].entries), made[1]))
    for at, value in changes:
        data[at % len(data)] = value
    try:
        tar_toc.read(io.BytesIO(bytes(data[: len(data) - cut])))
    except ContentError:
        pass


def _python_tar(*members: tuple[tarfile.TarInfo, bytes], fmt: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=fmt) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def _info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info


@pytest.mark.parametrize("fmt", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_other_writers_are_read(fmt: int) -> None:
    name = "dir/" + "x" * 90 if fmt == tarfile.USTAR_FORMAT else "dir/" + "x" * 300
    info = _info("./" + name)
    info.uid, info.mtime, info.mode = 1234, 987654321, 0o4755
    if fmt != tarfile.USTAR_FORMAT:
        info.uid = 2**31 + 5
    link = _info("/abs/link", tarfile.SYMTYPE, "../" + "t" * (50 if fmt == tarfile.USTAR_FORMAT else 200))
    toc = tar_toc.read(io.BytesIO(_python_tar((info, b"hi"), (link, b""), fmt=fmt))).toc
    entry = {e.path: e for e in toc.entries}
    assert (entry[name].uid, entry[name].mode, entry[name].mtime_ns) == (info.uid, 0o4755, 987654321 * SECOND)
    assert entry["abs/link"].link == link.linkname


@pytest.mark.parametrize(
    "flags",
    [
        ["--format=gnu"],
        ["--format=pax"],
        ["--format=pax", "--sparse-version=0.1"],
        ["--format=pax", "--sparse-version=0.0"],
    ],
)
def test_sparse_files_of_gnu_tar(tmp_path: Path, flags: list[str]) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as stream:
        for at in range(8):
            stream.seek(at * 3 << 20)
            stream.write(b"data%d" % at)
        stream.truncate(30 << 20)
    (tmp_path / "after").write_bytes(b"after")
    done = subprocess.run(["tar", "-cSf", "out.tar", *flags, "sparse", "after"], cwd=tmp_path, check=False)
    if done.returncode:
        pytest.skip("this tar cannot write sparse files like that")
    assert (tmp_path / "out.tar").stat().st_size < 1 << 20
    with (tmp_path / "out.tar").open("rb") as stream:
        spool = tar_toc.Spool(stream, tmp_path)
    entries = {e.path: e for e in spool.contents.toc.entries}
    assert entries["sparse"].size == 30 << 20
    with spool.open(entries["sparse"]) as found:
        assert found.read() == sparse.read_bytes()
    with spool.open(entries["after"]) as found:
        assert found.read() == b"after"


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/../evil", "a/b/../../../c", ".."])
def test_names_that_climb_out_are_refused(name: str) -> None:
    for data in (
        _python_tar((_info(name), b"x")),
        _python_tar((_info("ok"), b""), (_info("l", tarfile.LNKTYPE, name), b"")),
    ):
        with pytest.raises(ContentError) as caught:
            tar_toc.read(io.BytesIO(data))
        assert caught.value.reason == "path-escape"
        assert name in caught.value.summary


def test_hostile_tars_are_refused() -> None:
    good = tar([file("a", b"content")], {"a": b"content"})
    nul = bytearray(_python_tar((_info("x" * 200), b""))).replace(b"x" * 50, b"x" * 49 + b"\0", 1)
    cases = {
        "truncated content": good[:515],
        "truncated header": good[:100],
        "checksum": good[:10] + b"!" + good[11:],
        "lone zero block": bytes(512) + good,
        "garbage": b"\xff" * 1024,
        "file under a file": _python_tar((_info("a"), b""), (_info("a/b"), b"")),
        "hardlink to itself": _python_tar((_info("a", tarfile.LNKTYPE, "a"), b"")),
        "hardlink to directory": _python_tar(
            (_info("d", tarfile.DIRTYPE), b""), (_info("h", tarfile.LNKTYPE, "d"), b"")
        ),
        "whiteout of nothing": _python_tar((_info("d/.wh."), b"")),
        "whiteout of a parent": _python_tar((_info("d/.wh..."), b"")),
        "inside a whiteout": _python_tar((_info(".wh.d/x"), b"")),
        "loop": _python_tar(
            (_info("a", tarfile.SYMTYPE, "b"), b""),
            (_info("b", tarfile.SYMTYPE, "a"), b""),
            (_info("a/x"), b""),
        ),
        "NUL in a PAX name": bytes(nul),
        "unknown type": _python_tar((_info("q", b"Q"), b"")),
        "root is a file": _python_tar((_info("."), b"")),
    }
    for what, data in cases.items():
        with pytest.raises(ContentError):
            print(what, tar_toc.read(io.BytesIO(data)).toc)


def test_huge_sizes_do_not_reserve_memory() -> None:
    header = bytearray(_python_tar((_info("big"), b""))[:512])
    header[124:136] = b"\x80" + (1 << 60).to_bytes(11, "big")
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(ContentError):
        tar_toc.read(io.BytesIO(bytes(header)))


def test_overlay_xattrs_do_not_get_in() -> None:
    info = _info("d", tarfile.DIRTYPE)
    info.pax_headers = {
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.overlay.opaque": "y",
        "SCHILY.xattr.user.kept": "v",
    }
    (entry,) = tar_toc.read(io.BytesIO(_python_tar((info, b"")))).toc.entries
    assert entry.xattrs == {"user.kept": b"v"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("./", ""),
        ("/", ""),
        ("a//b/./c/", "a/b/c"),
        ("/etc/passwd", "etc/passwd"),
        ("a/../b", "b"),
        ("a/..", ""),
        ("..a/b..", "..a/b.."),
        (".hidden", ".hidden"),
    ],
)
def test_clean(name: str, expected: str) -> None:
    assert clean(name) == expected


def test_headers_only_where_needed() -> None:
    assert len(tar([file("plain")], {"plain": b""})) == 512 + 1024
    assert len(tar([file("d" * 100 + "/" + "f" * 100)], {})) == 512 + 1024
    assert len(tar([file("ü")], {})) == 512 * 3 + 1024


def test_members_are_skipped_when_not_read() -> None:
    data = tar([file("a", b"x" * 3_000_000), file("b", b"y")], {"a": b"x" * 3_000_000, "b": b"y"})
    reader = TarReader(io.BytesIO(data))
    assert [member.path for member in reader] == ["a", "b"]


def test_content_that_changed_is_refused() -> None:
    for now in (b"othr", b"longer", b"s"):
        with pytest.raises(ContentError) as caught:
            tar([file("a", b"some")], {"a": now})
        assert caught.value.reason == "changed-while-read"


def test_reserved_names_are_refused() -> None:
    with pytest.raises(ContentError) as caught:
        tar([file("d/.wh.x")], {"d/.wh.x": b""})
    assert caught.value.reason == "reserved-name"
