"""Package files, whole and damaged."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from debian_mirror import ar_of, tar_of

from polyarch.base.deb import Deb
from polyarch.errors import ContentError

CONTROL = tar_of({"control": b"Package: x\n", "postinst": b"#!/bin/sh\n"})
DATA = tar_of({"usr": None, "usr/bin/x": b"program"})


def package(path: Path, members: dict[str, bytes]) -> Path:
    path.write_bytes(ar_of({"debian-binary": b"2.0\n", **members}))
    return path


@pytest.mark.parametrize(
    ("suffix", "compress"),
    [
        ("", bytes),
        (".gz", gzip.compress),
        (".xz", lzma.compress),
        (".zst", lambda data: zstandard.ZstdCompressor().compress(data)),
    ],
)
def test_reads_every_compression(tmp_path: Path, suffix: str, compress: Callable[[bytes], bytes]) -> None:
    members = {f"control.tar{suffix}": compress(CONTROL), f"data.tar{suffix}": compress(DATA)}
    deb = Deb(package(tmp_path / "x.deb", members))
    assert deb.control() == {"control": b"Package: x\n", "postinst": b"#!/bin/sh\n"}
    unpacked = io.BytesIO()
    deb.data(unpacked)
    assert unpacked.getvalue() == DATA
    assert deb.built == 1_600_000_000


def test_members_may_end_in_a_slash(tmp_path: Path) -> None:
    members = {"control.tar.xz/": lzma.compress(CONTROL), "data.tar.xz/": lzma.compress(DATA)}
    assert Deb(package(tmp_path / "x.deb", members)).control()["control"] == b"Package: x\n"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "not an ar archive"),
        (b"PK\x03\x04 something else", "not an ar archive"),
        (b"!<arch>\n", "no debian-binary"),
        (b"!<arch>\ndebian-binary   short", "header is damaged"),
        (ar_of({"debian-binary": b"2.0\n"}), "no control.tar"),
        (ar_of({"debian-binary": b"2.0\n", "control.tar.xz": lzma.compress(CONTROL)[:100]}), "can be used"),
        (ar_of({"debian-binary": b"2.0\n", "control.tar.xz": b"garbage"}), "can be used"),
        (ar_of({"debian-binary": b"2.0\n", "control.tar": tar_of({"md5sums": b""})}), "no control file"),
    ],
)
def test_damage_is_named(tmp_path: Path, data: bytes, why: str) -> None:
    path = tmp_path / "broken.deb"
    path.write_bytes(data)
    with pytest.raises(ContentError, match=why) as caught:
        Deb(path).control()
    assert "broken.deb" in caught.value.summary


def test_a_package_that_is_not_what_was_promised_is_removed(tmp_path: Path) -> None:
    path = package(tmp_path / "x.deb", {"control.tar": CONTROL, "data.tar": DATA})
    Deb(path).verify("SHA256:" + hashlib.sha256(path.read_bytes()).hexdigest())
    Deb(path).verify("MD5Sum:whatever")
    with pytest.raises(ContentError, match="not what its list promised"):
        Deb(path).verify("SHA256:" + "0" * 64)
    assert not path.exists()
