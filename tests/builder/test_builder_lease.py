"""Leases: what a living process found or wrote is not removed, whatever happens at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from polyarch.content.lease import Claim, Lease
from polyarch.content.state import State

OLD = (1_000_000_000, 1_000_000_000)  # seconds; long before any lease


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "leases"


@pytest.fixture
def item(tmp_path: Path) -> Path:
    path = tmp_path / "item"
    path.write_text("content")
    os.utime(path, OLD)
    return path


def removable(folder: Path, item: Path) -> bool:
    with Claim.make(folder).removing(item) as idle:
        return idle


def test_what_nobody_holds_may_go(folder: Path, item: Path) -> None:
    assert removable(folder, item)
    assert not removable(folder, item.with_name("missing"))


def test_what_was_held_stays_while_the_lease_lives(folder: Path, item: Path) -> None:
    with Lease(folder) as lease:
        assert removable(folder, item)  # a lease alone holds nothing
        assert lease.hold(item, item.stat())
        assert not removable(folder, item)
    time.sleep(0.02)  # clocks of file systems tick
    assert removable(folder, item)


def test_what_is_written_under_a_lease_stays(folder: Path, item: Path) -> None:
    with Lease(folder):
        item.write_text("again")
        time.sleep(0.02)
        assert not removable(folder, item)


def test_a_claim_does_not_reach_what_was_taken_up_after_it(folder: Path, item: Path) -> None:
    claim = Claim.make(folder)
    with Lease(folder) as lease:
        assert lease.hold(item, item.stat())
        with claim.removing(item) as idle:
            assert not idle


def test_holding_what_is_gone_says_so(folder: Path, item: Path) -> None:
    with Lease(folder) as lease:
        status = item.stat()
        item.unlink()
        assert not lease.hold(item, status)


def test_a_clock_that_was_set_back_changes_nothing(folder: Path, item: Path) -> None:
    with Lease(folder) as lease:
        (path,) = folder.glob("*.lease")
        future = time.time_ns() + 3600 * 10**9
        os.utime(path, ns=(future, future))
        lease._since = future  # as if it had been taken an hour later than now
        assert lease.hold(item, item.stat())
        assert item.stat().st_mtime_ns >= future


def test_a_folder_that_cannot_be_made_stops_nobody(tmp_path: Path, item: Path) -> None:
    (tmp_path / "file").write_text("")
    lease = Lease(tmp_path / "file" / "leases")
    assert not lease.take()
    assert lease.hold(item, item.stat())


@contextmanager
def another_process(folder: Path, item: Path) -> Iterator[subprocess.Popen[str]]:
    code = (
        "import sys; from pathlib import Path; from polyarch.content.lease import Lease;"
        "lease = Lease(Path(sys.argv[1])); item = Path(sys.argv[2]);"
        "lease.hold(item, item.stat()); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder), str(item)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdin is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("end", ["exit", "kill"])
def test_another_process_holds_until_its_end(folder: Path, item: Path, end: str) -> None:
    with another_process(folder, item) as process:
        assert not removable(folder, item)
        assert Claim.make(folder).living == 1
        if end == "kill":
            process.kill()
        else:
            assert process.stdin is not None
            process.stdin.close()
        process.wait()
        time.sleep(0.02)
        assert removable(folder, item)
        assert Claim.make(folder).living == 0
    assert not list(folder.glob("*.lease"))


def test_nothing_is_made_by_looking(tmp_path: Path) -> None:
    state = State(tmp_path / "none")
    assert Claim.make(state.leases).living == 0
    assert not state.root.exists()
