"""Calls and files across the border of the user namespace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from polyarch.errors import ContentError, PolyarchError, StepError

pytestmark = pytest.mark.userns


def test_results_and_arguments(bench):
    call = bench.sandbox.privilege.call
    assert call("posixpath:join", "a", "b") == "a/b"
    odd = os.fsdecode(b"name-\xff")
    assert call("posixpath:join", odd, "b") == odd + "/b"
    assert call("os.path:basename", Path("/x/y")) == "y"


def test_large_arguments(bench):
    assert bench.sandbox.privilege.call("hashlib:sha256", b"") is not None if bench.mode == "root" else True
    assert bench.sandbox.privilege.call("builtins:len", "x" * 5_000_000) == 5_000_000


def test_errors_pass_through(bench, tmp_path):
    call = bench.sandbox.privilege.call
    with pytest.raises(ContentError) as caught:
        call("polyarch.oci.digest:parse", "nope")
    assert caught.value.reason == "invalid-digest" and caught.value.hint
    with pytest.raises(FileNotFoundError) as missing:
        call("os:rmdir", str(tmp_path / "absent"))
    assert missing.value.filename == str(tmp_path / "absent")
    with pytest.raises((RuntimeError, ZeroDivisionError)):
        call("operator:truediv", 1, 0)
    with pytest.raises((RuntimeError, ModuleNotFoundError)):
        call("polyarch.absent:x")
    assert issubclass(StepError, PolyarchError)


def test_files_of_other_owners(bench):
    bench.sh(
        "echo mine > /private; chmod 600 /private; chown 33:44 /private; mkdir /d; chmod 700 /d; chown 33 /d"
    )
    path = bench.upper / "private"
    with bench.sandbox.privilege.open(path) as file:
        assert file.read() == b"mine\n"
    if bench.mode == "single":
        assert os.getxattr(path, "user.polyarch.owner") == b"33:44"
    else:
        status = bench.sandbox.privilege.call("os:lstat", str(path))
        assert (status.st_uid, status.st_gid) == (33, 44)
    bench.sandbox.privilege.call("shutil:rmtree", str(bench.upper / "d"))
    assert not (bench.upper / "d").exists()


def test_open_of_what_is_no_file(bench):
    with pytest.raises(OSError):
        bench.sandbox.privilege.open(bench.upper / "absent")
    with pytest.raises(OSError):
        bench.sandbox.privilege.open(bench.upper)


def test_open_files_cross(bench, tmp_path):
    (tmp_path / "f").write_text("through a descriptor")
    with open(tmp_path / "f", "rb") as file:
        assert (
            bench.sandbox.privilege.call("executor_calls:read_all", files=[file.fileno()])
            == b"through a descriptor"
        )
