"""A cache in front of others: what is found there is known here once it has proved good."""

from __future__ import annotations

from collections.abc import Sequence

from polyarch.solver.cache import MemoryCache
from polyarch.solver.remote import ChainedCache, Notes, known_keys, remember_keys

A, B, C = ("sha256:" + letter * 64 for letter in "abc")


class Elsewhere:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def result(self, key: str) -> tuple[Sequence[str], str] | None:
        self.asked.append(key)
        return ((A, B), "record") if key in (A, B) else None

    def note(self, key: str) -> str | None:
        return "noted" if key == A else None


def test_local_results_go_first_and_nobody_else_is_asked() -> None:
    local, remote = MemoryCache(), Elsewhere()
    local.put(A, "here")
    assert ChainedCache(local, remote).get(A) == "here"
    assert remote.asked == []


def test_keys_that_mean_nothing_elsewhere_stay_here() -> None:
    remote = Elsewhere()
    assert ChainedCache(MemoryCache(), remote).get("here:" + A) is None
    assert remote.asked == []


def test_what_is_found_elsewhere_is_kept_only_when_told() -> None:
    local = MemoryCache()
    cache = ChainedCache(local, Elsewhere())
    assert cache.get(B) == "record"
    cache.put("here:first", "record")  # the scheduler remembers it under the keys it asked for before
    assert local.get(B) is None and local.get("here:first") is None
    cache.keep()
    assert local.get(A) == local.get(B) == local.get("here:first") == "record"
    assert known_keys(local, [A]) == (A, B)


def test_what_turned_out_bad_is_forgotten() -> None:
    local = MemoryCache()
    cache = ChainedCache(local, Elsewhere())
    cache.get(A)
    cache.forget()
    cache.put(C, "mine")
    cache.keep()
    assert local.get(A) is None and local.get(C) == "mine"


def test_keys_stay_together_whichever_was_hit() -> None:
    cache = MemoryCache()
    remember_keys(cache, ["here:1", A, B])
    assert known_keys(cache, ["here:2", A]) == ("here:2", A, B)
    remember_keys(cache, ["here:2", A])
    assert known_keys(cache, ["here:2"]) == ("here:2", A, B)
    cache.put("keys of " + C, "not json")
    assert known_keys(cache, [C]) == (C,)


def test_notes_are_collected() -> None:
    local = MemoryCache()
    notes = Notes(local, Elsewhere())
    assert notes.get(A) == "noted" and notes.get(B) is None
    notes.put(C, "told")
    assert notes.seen == {A: "noted", C: "told"}
    assert local.get(A) == "noted"
