"""What would fail in the middle of a build, found before anything runs; all of it told at once."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Literal, Protocol

import msgspec

from polyarch.content.state import State
from polyarch.content.store import Store
from polyarch.errors import Location, PolyarchError, UnsupportedError
from polyarch.executor import binfmt
from polyarch.executor.emulator import Emulators
from polyarch.graph.vertex import ExecOp, Graph, ImageOp, VertexMeta
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.registry.credentials import Credential
from polyarch.registry.lifetime import ends_at

_NO_SPACE = 128 << 20  # bytes below which nothing sensible can be done
_LITTLE_SPACE = 1 << 30
_UNPACKED = 3  # a layer's tree takes about three times what its blob does


class Verdicts(Protocol):
    """Where it is kept that an emulator worked: ``solver.cache.SqliteCache``."""

    def get(self, key: str) -> str | None: ...

    def put(self, key: str, record: str) -> None: ...


class Check(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing looked at: ``subject`` is what it is about. An "error" keeps the build from running."""

    subject: str
    state: Literal["ok", "warning", "error"]
    detail: str
    hint: str = ""


@dataclass(frozen=True)
class Problem:
    """What is wrong. ``vertices`` are the steps that would fail, empty when all of the build would."""

    subject: str
    error: PolyarchError
    vertices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Given:
    """What the user brings along: ids of secrets and of ssh agents, and what is allowed."""

    secrets: Collection[str] = ()
    agents: Collection[str] = ()
    allow: Collection[str] = ()


def check_steps(graph: Graph, given: Given) -> Iterator[Problem]:
    """Secrets and agents that steps require, and entitlements they need."""
    for digest, op, meta in _steps(graph):
        for mount in op.mounts:
            if mount.type == "secret" and mount.required and mount.id not in given.secrets:
                hint = f"give it with --secret id={mount.id},src=FILE or id={mount.id},env=NAME"
                yield _problem(
                    f"secret {mount.id}", "not found", hint, "secret-not-found", digest, meta.location
                )
            if mount.type == "ssh" and mount.required and mount.id not in given.agents:
                hint = f"give it with --ssh {mount.id} or --ssh {mount.id}=SOCKET_OR_KEY"
                yield _problem(
                    f"ssh agent {mount.id}", "not found", hint, "ssh-not-found", digest, meta.location
                )
        for needed, option in (
            ("security.insecure", "--security=insecure" if op.security == "insecure" else ""),
            ("network.host", "--network=host" if op.network == "host" else ""),
        ):
            if option and needed not in given.allow:
                hint = f"allow it with --allow {needed}"
                yield _problem(
                    f"RUN {option}", "is not allowed", hint, "not-allowed", digest, meta.location, colon=False
                )


def _steps(graph: Graph) -> Iterator[tuple[str, ExecOp, VertexMeta]]:
    for digest, vertex in graph.vertices.items():
        if isinstance(vertex.op, ExecOp):
            yield digest, vertex.op, graph.meta[digest]


def _problem(
    subject: str,
    what: str,
    hint: str,
    reason: str,
    digest: str,
    location: Location | None,
    *,
    colon: bool = True,
) -> Problem:
    summary = f"{subject}{':' if colon else ''} {what}"
    return Problem(subject, PolyarchError(summary, hint=hint, location=location, reason=reason), (digest,))


# --- executors ----------------------------------------------------------------------------------------------


def run_platforms(graph: Graph) -> dict[Platform, list[str]]:
    """The platforms steps run on, each with the steps' vertices."""
    found: dict[Platform, list[str]] = {}
    for digest, op, _ in _steps(graph):
        found.setdefault(op.platform, []).append(digest)
    return found


def check_executors(
    graph: Graph, verdicts: Verdicts, emulators: Emulators | None = None, *, taken: Path | None = None
) -> Iterator[Problem | Check]:
    """How steps run on every platform, or why they cannot. An emulator that worked since this machine was
    started is not tried again. ``taken`` is a folder with emulators of our own."""
    wanted = run_platforms(graph)
    foreign = [one for one in wanted if platforms.choose(platforms.host(), [one], strict=True) is None]
    if not foreign:
        yield from (Check(subject=f"steps for {one}", state="ok", detail="native") for one in wanted)
        return
    emulators = emulators or Emulators.discover(taken=taken)
    for one, digests in wanted.items():
        subject = f"steps for {one}"
        key = _emulator_key(emulators, one)
        known = verdicts.get(key) if one in foreign else "native"
        if known is None:
            strategy = emulators.strategy(one)
            if strategy.kind == "unsupported":
                error = UnsupportedError(
                    f"cannot run programs of {one} on this machine: {strategy.reason}",
                    hint=strategy.hint,
                    reason="no-emulator",
                )
                error.location = graph.meta[digests[0]].location
                yield Problem(subject, error, tuple(digests))
                continue
            known = strategy.kind if strategy.kind == "native" else f"{strategy.kind} {strategy.reason}"
            verdicts.put(key, known)
        yield Check(subject=subject, state="ok", detail=known)


def _emulator_key(emulators: Emulators, platform: Platform) -> str:
    """Everything the answer depends on: this start of the kernel, who asks, the emulator, the handlers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    emulator = emulators.find(platform)
    stamp = ""
    if emulator is not None:
        try:
            status = emulator.path.stat()
            stamp = f"{emulator.path} {status.st_size} {status.st_mtime_ns}"
        except OSError:
            pass
    text = f"{boot} {os.getuid()} {platform} {stamp} {list(binfmt.host_handlers())}"
    return "emulator:" + hashlib.sha256(text.encode()).hexdigest()


# --- the disk -----------------------------------------------------------------------------------------------


def check_space(graph: Graph, state: State, local: Store) -> Problem | Check:
    """Whether the disk of the state has room for what will be fetched and unpacked for steps."""
    place = state.root
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    fetched: dict[str, int] = {}
    if any(True for _ in _steps(graph)):
        for vertex in graph.vertices.values():
            if isinstance(vertex.op, ImageOp):
                fetched |= {layer.digest: layer.size for layer in vertex.op.layers}
    missing = sum(size for digest, size in fetched.items() if not local.exists(digest))
    needed = missing * (1 + _UNPACKED)
    detail = f"{free / 1e9:.1f} GB free in {state.root}"
    if missing:
        detail += f", about {needed / 1e9:.1f} GB needed for base images"
    if free < max(_NO_SPACE, missing):
        error = PolyarchError(
            f"the disk is full: {detail}",
            hint="free some space, or set POLYARCH_ROOT to a folder on a larger disk",
            reason="no-space",
        )
        return Problem("disk", error)
    if free < max(_LITTLE_SPACE, needed):
        hint = "free some space, or set POLYARCH_ROOT to a folder on a larger disk"
        return Check(subject="disk", state="warning", detail=detail, hint=hint)
    return Check(subject="disk", state="ok", detail=detail)


# --- registries ---------------------------------------------------------------------------------------------


class Pushable(Protocol):
    """A repository that can be asked: ``registry.repository.Repository``."""

    def check_push(self) -> None: ...
    def credential(self) -> Credential | None: ...


class Registries(Protocol):
    """What opens repositories: ``registry.client.Client``."""

    def repository(self, reference: Reference, /) -> Pushable: ...


class PushChecks:
    """Asks every repository that will be pushed to, in the background; ``answers`` waits for them."""

    def __init__(self, client: Registries, references: Iterable[Reference]) -> None:
        self._ends: dict[str, float | None] = {}
        self._errors: dict[str, PolyarchError | None] = {}
        self._threads = {
            reference.name: Thread(target=self._run, args=(client, reference), daemon=True)
            for reference in references
        }
        for thread in self._threads.values():
            thread.start()

    def _run(self, client: Registries, reference: Reference) -> None:
        self._errors[reference.name] = self._ask(client, reference)

    def _ask(self, client: Registries, reference: Reference) -> PolyarchError | None:
        repository = client.repository(reference)
        try:
            repository.check_push()
            credential = repository.credential()
        except PolyarchError as error:
            return error
        self._ends[reference.name] = ends_at(credential) if credential is not None else None
        return None

    def expire(self) -> bool:
        """Whether some credential says when it ends; waits for the answers."""
        for thread in self._threads.values():
            thread.join()
        return any(end is not None for end in self._ends.values())

    def answers(self, needed: float = 0.0) -> Iterator[Problem | Check]:
        """One for each repository. ``needed`` is for how many seconds the credentials should last, as far as
        that is known."""
        for name, thread in self._threads.items():
            thread.join()
            error = self._errors.get(name)
            if error is not None:
                yield Problem(f"push to {name}", error)
            else:
                yield _allowed(name, self._ends.get(name), needed)


def _allowed(name: str, end: float | None, needed: float) -> Check:
    subject = f"push to {name}"
    if end is None:
        return Check(subject=subject, state="ok", detail="allowed")
    left = end - time.time()
    detail = f"allowed; the credential lasts {_duration(left)} more"
    if left >= needed:
        return Check(subject=subject, state="ok", detail=detail)
    detail += f", and the last build took {_duration(needed)}"
    return Check(subject=subject, state="warning", detail=detail, hint="log in again just before the build")


def _duration(seconds: float) -> str:
    if seconds >= 7200:
        return f"{seconds / 3600:.0f} hours"
    return f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{max(0.0, seconds):.0f} seconds"


# --- together -----------------------------------------------------------------------------------------------


def joined(problems: Sequence[Problem]) -> PolyarchError:
    """One error for all: a single problem is itself, several are listed."""
    unique = {(problem.subject, problem.error.summary): problem.error for problem in problems}
    errors = list(unique.values())
    if len(errors) == 1:
        return errors[0]
    first = errors[0]
    lines = []
    for error in errors:
        place = f"{error.location.file}:{error.location.start}: " if error.location else ""
        lines.append(f"  {place}{error.summary}" + (f"\n      {error.hint}" if error.hint else ""))
    return PolyarchError(
        f"{len(errors)} things keep this build from running",
        detail="\n".join(lines),
        hint="nothing was run; `polyarch preflight` with the same options checks again",
        location=first.location,
        reason="preflight",
    )
