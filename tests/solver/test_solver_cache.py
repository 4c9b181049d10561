"""The cache on disk: kept between processes, dropped when it cannot be read."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

from polyarch.solver.cache import SqliteCache


def test_what_is_put_is_found_by_another_process(tmp_path: Path) -> None:
    SqliteCache(tmp_path / "cache.db").put("key", "record")
    other = SqliteCache(tmp_path / "cache.db")
    assert other.get("key") == "record"
    assert other.get("another") is None


def test_parts_are_kept_for_each_slot(tmp_path: Path) -> None:
    cache = SqliteCache(tmp_path / "cache.db")
    cache.put_parts("slot", {"the base": "1"})
    cache.put_parts("slot", {"the base": "2"})
    assert cache.parts("slot") == {"the base": "2"}
    assert cache.parts("none") is None


def test_a_damaged_file_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "cache.db"
    path.write_bytes(b"this is no database" * 1000)
    cache = SqliteCache(path)
    assert cache.get("key") is None
    cache.put("key", "record")
    assert SqliteCache(path).get("key") == "record"


def test_threads_share_it(tmp_path: Path) -> None:
    cache = SqliteCache(tmp_path / "cache.db")
    threads = [Thread(target=cache.put, args=(str(n), "x")) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(cache.get(str(n)) == "x" for n in range(20))
