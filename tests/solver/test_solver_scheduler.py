"""The scheduler: what runs, what is cached, what is run again, how failures stop the rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from polyarch.errors import CancelledError, PolyarchError
from polyarch.solver.cache import MemoryCache
from polyarch.solver.events import VertexCompleted
from polyarch.solver.locks import FileLocks
from polyarch.solver.op import CacheKey, Identity, Input, Step
from polyarch.solver.scheduler import Scheduler, Task


@dataclass(frozen=True, eq=False)
class Node:
    digest: str
    inputs: tuple[Node, ...] = ()


@dataclass
class Fake:
    """An operation on strings: its result is its name and its inputs' results."""

    name: str
    store: dict[str, str]
    cacheable: bool = True
    exclusive: bool = False
    content: str = ""
    fails: str = ""
    waits: Event | None = None
    runs: list[str] = field(default_factory=list)

    def keys(self, inputs: Sequence[Input], step: Step) -> Iterator[CacheKey]:
        value = f"{self.name}({','.join(i.identity[0] for i in inputs)})"
        yield CacheKey(value, (("the instruction", self.name),))
        if self.content:
            yield CacheKey(f"content {self.content}", (("the content", self.content),))

    def run(self, inputs: Sequence[Input], step: Step) -> Any:
        if self.waits is not None:
            while not self.waits.wait(0.01):
                if step.cancelled.is_set():
                    raise CancelledError("stopped")
        if self.fails:
            raise PolyarchError(self.fails)
        self.runs.append(self.name)
        result = f"{self.name}[{'+'.join(i.result() for i in inputs)}]"
        self.store[self.content or result] = result
        return result

    def record(self, result: Any) -> str:
        return self.content or str(result)

    def identity(self, record: str, inputs: Sequence[Input]) -> Identity:
        return (record,)

    def restore(self, record: str, inputs: Sequence[Input]) -> Any | None:
        return self.store.get(record)


def make(cache: MemoryCache, events: list[Any] | None = None) -> Scheduler:
    sink = events.append if events is not None else (lambda event: None)
    return Scheduler(cache, sink, Event(), workers=4)


def chain(store: dict[str, str], **changes: Fake) -> tuple[list[Task], dict[str, Fake]]:
    """a → b → c."""
    a = Node("a")
    b = Node("b", (a,))
    c = Node("c", (b,))
    ops = {name: changes.get(name, Fake(name, store)) for name in "abc"}
    return [Task(node, ops[node.digest], node.digest, f"slot {node.digest}") for node in (a, b, c)], ops


def test_everything_runs_once_and_then_nothing() -> None:
    cache, store = MemoryCache(), {}
    tasks, ops = chain(store)
    assert make(cache).solve(tasks, ["c"]) == {"c": "c[b[a[]]]"}
    again, ops_again = chain(store)
    events: list[Any] = []
    assert make(cache, events).solve(again, ["c"]) == {"c": "c[b[a[]]]"}
    assert not any(op.runs for op in ops_again.values())
    assert all(event.cached for event in events if isinstance(event, VertexCompleted))
    assert [op.runs for op in ops.values()] == [["a"], ["b"], ["c"]]


def test_what_is_not_needed_does_not_run() -> None:
    cache, store = MemoryCache(), {}
    tasks, ops = chain(store)
    make(cache).solve(tasks, ["b"])
    assert ops["c"].runs == []


def test_a_lost_result_is_made_again_only_where_it_is_needed() -> None:
    cache, store = MemoryCache(), {}
    make(cache).solve(chain(store)[0], ["c"])
    del store["b[a[]]"]
    tasks, ops = chain(store)
    make(cache).solve(tasks, ["c"])
    assert [op.runs for op in ops.values()] == [[], [], []]
    tasks, ops = chain(store, c=Fake("changed", store))
    assert make(cache).solve(tasks, ["c"]) == {"c": "changed[b[a[]]]"}
    assert [op.runs for op in ops.values()] == [[], ["b"], ["changed"]]


def test_equal_content_meets_again_under_another_definition() -> None:
    cache, store = MemoryCache(), {}
    tasks, _ = chain(store, b=Fake("b", store, content="same"))
    make(cache).solve(tasks, ["c"])
    tasks, ops = chain(store, b=Fake("renamed", store, content="same"))
    assert make(cache).solve(tasks, ["c"]) == {"c": "c[b[a[]]]"}
    assert [op.runs for op in ops.values()] == [[], [], []]


def test_a_miss_says_what_changed() -> None:
    cache, store = MemoryCache(), {}
    make(cache).solve(chain(store)[0], ["c"])
    tasks, _ = chain(store, b=Fake("changed", store))
    events: list[Any] = []
    make(cache, events).solve(tasks, ["c"])
    reasons = {e.digest: e.reason for e in events if isinstance(e, VertexCompleted)}
    assert reasons["b"] == "changed: the instruction"


def test_fresh_tasks_ignore_the_cache() -> None:
    cache, store = MemoryCache(), {}
    make(cache).solve(chain(store)[0], ["c"])
    tasks, ops = chain(store)
    tasks = [Task(t.node, t.op, t.name, t.slot, fresh=t.node.digest == "b") for t in tasks]
    make(cache).solve(tasks, ["c"])
    assert [op.runs for op in ops.values()] == [[], ["b"], []]


def test_the_first_failure_stops_the_rest_and_is_the_one_raised() -> None:
    store: dict[str, str] = {}
    never = Event()
    slow, bad = Node("slow"), Node("bad")
    both = Node("both", (slow, bad))
    ops = {"slow": Fake("slow", store, waits=never), "bad": Fake("bad", store, fails="broken")}
    tasks = [Task(slow, ops["slow"], "slow"), Task(bad, ops["bad"], "bad")]
    tasks.append(Task(both, Fake("both", store), "both"))
    with pytest.raises(PolyarchError, match="broken"):
        make(MemoryCache()).solve(tasks, ["both"])


def test_independent_tasks_run_side_by_side() -> None:
    store: dict[str, str] = {}
    meeting = threading.Barrier(2, timeout=20)

    class Meets(Fake):
        def run(self, inputs: Sequence[Input], step: Step) -> Any:
            meeting.wait()
            return super().run(inputs, step)

    left, right = Node("left"), Node("right")
    tasks = [Task(left, Meets("left", store), "left"), Task(right, Meets("right", store), "right")]
    assert set(make(MemoryCache()).solve(tasks, ["left", "right"])) == {"left", "right"}


def test_only_so_many_processes_at_once() -> None:
    store: dict[str, str] = {}
    running: list[int] = [0, 0]
    lock = threading.Lock()

    class Counts(Fake):
        def run(self, inputs: Sequence[Input], step: Step) -> Any:
            with lock:
                running[0] += 1
                running[1] = max(running)
            time.sleep(0.02)
            with lock:
                running[0] -= 1
            return super().run(inputs, step)

    nodes = [Node(str(number)) for number in range(6)]
    tasks = [Task(node, Counts(node.digest, store, exclusive=True), node.digest) for node in nodes]
    scheduler = Scheduler(MemoryCache(), lambda event: None, Event(), workers=6, processes=2)
    scheduler.solve(tasks, [node.digest for node in nodes])
    assert running[1] <= 2


def test_a_preview_runs_nothing_but_sources() -> None:
    cache, store = MemoryCache(), {}
    tasks, ops = chain(store, a=Fake("a", store, cacheable=False))
    verdicts = [verdict for _, verdict in make(cache).preview(tasks, ["c"])]
    assert verdicts == ["source", "never built", "an input is made anew"]
    assert [op.runs for op in ops.values()] == [["a"], [], []]


def test_two_processes_share_the_work(tmp_path: Path) -> None:
    """Two schedulers on one cache, as two processes have it: the second waits and takes the result."""
    cache, store = MemoryCache(), {}
    started, go = Event(), Event()

    class Slow(Fake):
        def run(self, inputs: Sequence[Input], step: Step) -> Any:
            started.set()
            go.wait(20)
            return super().run(inputs, step)

    ops = [Slow("a", store, exclusive=True), Slow("a", store, exclusive=True)]
    results: list[Any] = []

    def build(op: Fake) -> None:
        scheduler = Scheduler(cache, lambda event: None, Event(), locks=FileLocks(tmp_path / "locks"))
        results.append(scheduler.solve([Task(Node("a"), op, "a")], ["a"]))

    threads = [threading.Thread(target=build, args=(op,)) for op in ops]
    threads[0].start()
    started.wait(20)
    threads[1].start()
    time.sleep(0.2)
    go.set()
    for thread in threads:
        thread.join()
    assert results == [{"a": "a[]"}] * 2
    assert [op.runs for op in ops] == [["a"], []]
