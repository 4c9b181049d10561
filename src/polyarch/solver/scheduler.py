"""Solves a graph: looks results up, runs what is missing, side by side where nothing forbids it.

Every vertex gets an *outcome*: the identity of its result, and, when somebody needs the bytes, the result.
A cache hit gives the identity only. When a later vertex misses and needs the bytes of an input whose bytes
are gone, the input is run again; nothing else is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from threading import BoundedSemaphore, Event, RLock
from typing import Any, Protocol

from polyarch.errors import CancelledError, PolyarchError
from polyarch.solver.cache import CacheStore
from polyarch.solver.events import EventSink, VertexCompleted, VertexStarted
from polyarch.solver.locks import FileLocks
from polyarch.solver.op import FILES, CacheKey, Explains, Identity, Op, Step
from polyarch.solver.remote import is_portable, known_keys, remember_keys

_RECORD = "\0record"  # beside the parts of a key: the result it led to
_NAMED = 3  # changed files that are named


class _NotHereError(Exception):
    """The bytes of a result are gone, and nothing is to be made."""


class Node(Protocol):
    """What the scheduler needs to know of a vertex. Inputs come before their users."""

    @property
    def digest(self) -> str: ...

    @property
    def inputs(self) -> Sequence[Node]: ...


@dataclass(frozen=True)
class Task:
    """A vertex with what to do for it. ``slot`` is its place in the Dockerfile; ``fresh`` means its cached
    results do not count (``--no-cache``)."""

    node: Node
    op: Op
    name: str
    slot: str = ""
    fresh: bool = False


@dataclass(frozen=True)
class Finding:
    """A result in the cache: every key that leads to it, cheapest first, and its record."""

    keys: tuple[str, ...]
    record: str


@dataclass
class _Outcome:
    task: Task
    inputs: list[_Outcome]
    scheduler: Scheduler
    lock: RLock = field(default_factory=RLock)
    record: str = ""
    identity: Identity = ()
    value: Any = None
    keys: list[CacheKey] = field(default_factory=list)

    def result(self) -> Any:
        """The result with its bytes; runs the operation again when they are gone."""
        with self.lock:
            if self.value is None:
                self.value = self.task.op.restore(self.record, self.inputs)
            if self.value is None and self.scheduler.looking:
                raise _NotHereError
            if self.value is None:
                self.scheduler.execute(self, "its result was removed")
            return self.value


@dataclass(frozen=True)
class _Renamed:
    """An input under the name that another machine gave its result."""

    identity: Identity
    outcome: _Outcome

    def result(self) -> Any:
        return self.outcome.result()


class Scheduler:
    """One solve. ``processes`` is how many operations may run processes at the same time.

    With ``keep_going`` a failure stops only what depends on it; ``failures`` are, after ``solve``, all that
    failed of themselves, by vertex.
    """

    def __init__(
        self,
        cache: CacheStore,
        events: EventSink,
        cancelled: Event,
        *,
        workers: int = 16,
        processes: int = 4,
        locks: FileLocks | None = None,
        keep_going: bool = False,
    ) -> None:
        self._cache = cache
        self._events = events
        self._cancelled = cancelled
        self._workers = workers
        self._processes = BoundedSemaphore(processes)
        self._locks = locks
        self._keep_going = keep_going
        self.looking = False  # whether nothing may be executed
        self.failures: dict[str, BaseException] = {}
        self._solved: list[_Outcome] = []

    def solve(self, tasks: Sequence[Task], wanted: Sequence[str]) -> Mapping[str, Any]:
        """The results of ``wanted`` (digests), with their bytes within reach.

        The first failure cancels the rest (unless this keeps going) and is raised after everything has
        stopped.
        """
        needed = _needed(tasks, wanted)
        outcomes: dict[str, _Outcome] = {}
        for task in needed:
            inputs = [outcomes[node.digest] for node in task.node.inputs]
            outcomes[task.node.digest] = _Outcome(task, inputs, self)
        with ThreadPoolExecutor(self._workers, thread_name_prefix="solve") as pool:
            try:
                self._walk(outcomes, pool)
                finals = {digest: pool.submit(outcomes[digest].result) for digest in wanted}
                self._collect(list(finals.values()))
                self._solved = list(outcomes.values())
                return {digest: future.result() for digest, future in finals.items()}
            except BaseException:  # also Ctrl-C: leaving the pool waits for what runs, so stop it first
                self._cancelled.set()
                raise

    def findings(self) -> dict[str, Finding]:
        """After ``solve``: by digest, what the cache can be asked for to get each result again."""
        found = {}
        for outcome in self._solved:
            if outcome.task.op.cacheable and outcome.keys:
                keys = known_keys(self._cache, [key.value for key in outcome.keys])
                found[outcome.task.node.digest] = Finding(keys, outcome.record)
        return found

    def findings_over(self, known: Callable[[str], str | None]) -> dict[str, Finding]:
        """The findings as if the results that ``known`` has (records by key) had been used where it has any.

        Two machines that ran one step have two results of it, either as good as the other. Who joins their
        caches keeps one, and what stands on the other is then found on top of that.
        """
        found: dict[str, Finding] = {}
        renamed: dict[str, _Renamed] = {}
        before = self.findings()
        for outcome in self._solved:
            task, digest = outcome.task, outcome.task.node.digest
            inputs = [renamed[entry.task.node.digest] for entry in outcome.inputs]
            record = outcome.record
            if digest in before:
                keys = before[digest].keys
                if any(
                    one.identity != entry.identity for one, entry in zip(inputs, outcome.inputs, strict=True)
                ):
                    keys = tuple(dict.fromkeys((*_cheap_keys(task, inputs, self._events), *keys)))
                theirs = (known(key) for key in keys)
                record = next((other for other in theirs if other is not None), record)
                found[digest] = Finding(keys, record)
            renamed[digest] = _Renamed(task.op.identity(record, inputs), outcome)
        return found

    def _walk(self, outcomes: Mapping[str, _Outcome], pool: ThreadPoolExecutor) -> None:
        """Decide every vertex, each as soon as its inputs are decided."""
        waiting = {digest: {i.task.node.digest for i in o.inputs} for digest, o in outcomes.items()}
        running: dict[Future[None], str] = {}
        failure: BaseException | None = None
        first: BaseException | None = None  # that did not stop the rest
        while waiting or running:
            if failure is None:
                for digest in [d for d, missing in waiting.items() if not missing]:
                    del waiting[digest]
                    running[pool.submit(self._decide, outcomes[digest])] = digest
            elif not running:
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                digest = running.pop(future)
                error = future.exception()
                if error is not None and self._goes_on_after(digest, error):
                    _drop_users(waiting, digest)
                    first = first or error
                elif error is not None:
                    failure = _worse(failure, error)
                    self._cancelled.set()
                for missing in waiting.values():
                    missing.discard(digest)
        if failure is not None or first is not None:
            raise failure or first  # type: ignore[misc]  # one of them is there

    def _goes_on_after(self, digest: str, error: BaseException) -> bool:
        """Whether the rest is to be done all the same."""
        if not self._keep_going or not isinstance(error, PolyarchError) or isinstance(error, CancelledError):
            return False
        self.failures[digest] = error
        return True

    def preview(self, tasks: Sequence[Task], wanted: Sequence[str]) -> list[tuple[Task, str]]:
        """What ``solve`` would do, without doing it: each task with "source", "cached", or why it would run.

        Only sources are looked at; keys are asked for as far as they need nothing that is not here.
        """
        self.looking = True
        outcomes: dict[str, _Outcome] = {}
        verdicts: list[tuple[Task, str]] = []
        for task in _needed(tasks, wanted):
            inputs = [outcomes[node.digest] for node in task.node.inputs if node.digest in outcomes]
            outcome = _Outcome(task, inputs, self)
            if len(inputs) < len(task.node.inputs):
                verdict = "an input is made anew"
            elif not task.op.cacheable:
                self._run(outcome, "")
                verdict = "source"
            else:
                verdict = self._foresee(outcome)
            if verdict in ("source", "cached"):
                outcomes[task.node.digest] = outcome
            verdicts.append((task, verdict))
        return verdicts

    def _foresee(self, outcome: _Outcome) -> str:
        task = outcome.task
        step = Step(task.node.digest, self._events, self._cancelled, looking=True)
        try:
            for key in task.op.keys(outcome.inputs, step):
                outcome.keys.append(key)
                record = None if task.fresh else self._cache.get(key.value)
                if record is not None:
                    outcome.record = record
                    outcome.identity = task.op.identity(record, outcome.inputs)
                    return "cached"
        except _NotHereError:
            pass  # more cannot be known without making it
        return self._explain(outcome)

    def _collect(self, futures: Sequence[Future[Any]]) -> None:
        failure: BaseException | None = None
        for future in futures:
            error = future.exception()
            if error is not None:
                failure = _worse(failure, error)
                self._cancelled.set()
        if failure is not None:
            raise failure

    def _decide(self, outcome: _Outcome) -> None:
        """Find the result in the cache, or make it."""
        with outcome.lock:
            self._stop_if_cancelled()
            task = outcome.task
            if not task.op.cacheable:
                self.execute(outcome, "source" if not task.node.inputs else "costs nothing")
                return
            try:
                found = self._find(outcome)
            except BaseException as error:
                self._events(VertexStarted(task.node.digest, task.name, time.time()))
                self._report(task, error)
                raise
            if not found:
                self.execute(outcome, self._explain(outcome))
                self._remember_parts(outcome)
                return
            self._announce_cached(task)
            self._remember_parts(outcome)

    def _find(self, outcome: _Outcome) -> bool:
        """Ask for the keys one by one; a hit under a later key is remembered under the earlier ones."""
        task = outcome.task
        step = Step(task.node.digest, self._events, self._cancelled)
        for key in task.op.keys(outcome.inputs, step):
            outcome.keys.append(key)
            record = None if task.fresh else self._cache.get(key.value)
            if record is not None:
                outcome.record = record
                outcome.identity = task.op.identity(record, outcome.inputs)
                for earlier in outcome.keys[:-1]:
                    self._cache.put(earlier.value, record)
                self._remember_keys(outcome)
                return True
        return False

    def execute(self, outcome: _Outcome, reason: str) -> None:
        """Run the operation and remember its result under every key asked for."""
        task = outcome.task
        self._stop_if_cancelled()
        if task.op.exclusive:
            for entry in outcome.inputs:  # waiting for bytes must not hold one of the few places
                entry.result()
            self._run_alone(outcome, reason)
        else:
            self._run(outcome, reason)

    def _run_alone(self, outcome: _Outcome, reason: str) -> None:
        """Run a process, unless another process on this store is running the same: then take its result."""
        task = outcome.task
        with ExitStack() as stack:
            if self._locks is not None and outcome.keys and not task.fresh:
                waited = stack.enter_context(self._locks.hold(outcome.keys[0].value, self._cancelled))
                record = self._cache.get(outcome.keys[0].value) if waited else None
                value = task.op.restore(record, outcome.inputs) if record is not None else None
                if record is not None and value is not None:
                    outcome.record, outcome.value = record, value
                    outcome.identity = task.op.identity(record, outcome.inputs)
                    self._announce_cached(task)
                    return
            stack.enter_context(self._processes)
            self._run(outcome, reason)

    def _announce_cached(self, task: Task) -> None:
        now = time.time()
        self._events(VertexStarted(task.node.digest, task.name, now))
        self._events(VertexCompleted(task.node.digest, task.name, now, cached=True))

    def _run(self, outcome: _Outcome, reason: str) -> None:
        task = outcome.task
        digest = task.node.digest
        self._stop_if_cancelled()
        self._events(VertexStarted(digest, task.name, time.time()))
        try:
            step = Step(digest, self._events, self._cancelled)
            outcome.value = task.op.run(outcome.inputs, step)
        except BaseException as error:
            self._report(task, error)
            raise
        outcome.record = task.op.record(outcome.value)
        outcome.identity = task.op.identity(outcome.record, outcome.inputs)
        if task.op.cacheable:
            for key in outcome.keys:
                self._cache.put(key.value, outcome.record)
            self._remember_keys(outcome)
        how = str(getattr(outcome.value, "how", ""))
        share = getattr(outcome.value, "emulation", None)
        self._events(VertexCompleted(digest, task.name, time.time(), reason=reason, how=how, emulation=share))

    def _report(self, task: Task, error: BaseException) -> None:
        stopped = isinstance(error, CancelledError)
        message = error.summary if isinstance(error, PolyarchError) else str(error)
        self._events(
            VertexCompleted(task.node.digest, task.name, time.time(), error=message, cancelled=stopped)
        )

    def _explain(self, outcome: _Outcome) -> str:
        """Why the cache had nothing, in words."""
        task = outcome.task
        if task.fresh:
            return "the cache is not to be used"
        if not task.slot or not outcome.keys:
            return ""
        before = self._cache.parts(task.slot)
        if before is None:
            return "never built"
        parts = [part for key in outcome.keys for part in key.parts]
        changed = dict.fromkeys(name for name, value in parts if before.get(name) != value)
        if not changed:
            return "its result was removed"
        told = self._changes(outcome, before.get(_RECORD, ""))
        rest = [name for name in changed if not told or name != FILES]
        return "; ".join(([f"changed: {', '.join(rest)}"] if rest else []) + ([told] if told else []))

    def _changes(self, outcome: _Outcome, record: str) -> str:
        """How the inputs differ from those of the last time, in words."""
        op = outcome.task.op
        found = list(op.changes(record, outcome.inputs)) if record and isinstance(op, Explains) else []
        more = [f"and {len(found) - _NAMED} more"] if len(found) > _NAMED else []
        return ", ".join(found[:_NAMED] + more)

    def _remember_keys(self, outcome: _Outcome) -> None:
        """Which dear keys belong to a cheap one: later hits ask for the cheap one only."""
        remember_keys(self._cache, [key.value for key in outcome.keys])

    def _remember_parts(self, outcome: _Outcome) -> None:
        parts = {name: value for key in outcome.keys for name, value in key.parts}
        if outcome.task.slot and parts:
            if isinstance(outcome.task.op, Explains):
                parts[_RECORD] = outcome.record
            self._cache.put_parts(outcome.task.slot, parts)

    def _stop_if_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise CancelledError("the build was stopped", reason="cancelled")


def _needed(tasks: Sequence[Task], wanted: Sequence[str]) -> list[Task]:
    """The tasks that ``wanted`` depend on, in order."""
    needed = set(wanted)
    chosen = []
    for task in reversed(tasks):
        if task.node.digest in needed:
            needed.update(node.digest for node in task.node.inputs)
            chosen.append(task)
    return chosen[::-1]


def _drop_users(waiting: dict[str, set[str]], failed: str) -> None:
    """Take from ``waiting`` whatever depends on a vertex that failed."""
    gone = {failed}
    for digest, missing in list(waiting.items()):  # inputs come before their users
        if missing & gone:
            gone.add(digest)
            del waiting[digest]


def _cheap_keys(task: Task, inputs: Sequence[_Renamed], events: EventSink) -> list[str]:
    """The first key that others can use, and those before it."""
    keys = []
    for key in task.op.keys(inputs, Step(task.node.digest, events, Event())):
        keys.append(key.value)
        if is_portable(key.value):
            break
    return keys


def _worse(first: BaseException | None, second: BaseException) -> BaseException:
    """The error to show: the one that came first, but never a mere consequence of it."""
    if first is None or (isinstance(first, CancelledError) and not isinstance(second, CancelledError)):
        return second
    return first
