"""RUN: a process on an overlay of layers; what it leaves in the upper directory is a new layer."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from polyarch.errors import PolyarchError, StepError
from polyarch.executor.spec import ExitStatus, Mount, Process, RootFilesystem
from polyarch.graph.vertex import ExecMount, ExecOp
from polyarch.layer.layer import Layer
from polyarch.layer.rootfs import Rootfs
from polyarch.ops.exec_mounts import MountPlan
from polyarch.ops.owner import link_owners, process_identity
from polyarch.ops.result import (
    Result,
    base_identity,
    definition,
    digest_of,
    encode_record,
    first_key,
    key_of,
    record_layers,
    restore,
    rootfs_of,
)
from polyarch.ops.room import within_limit
from polyarch.ops.session import Session
from polyarch.solver.events import VertexLog
from polyarch.solver.op import CacheKey, Identity, Input, Step

_WAYS_OUT = "cross-compile this step with FROM --platform=$BUILDPLATFORM, or build on a native node"
KEPT_OUTPUT = 16 << 10  # bytes of a failed step's output that go into the error


class ExecOperation:
    """Runs a step. The platform is part of the operation and so of every key."""

    cacheable = True
    exclusive = True

    def __init__(self, op: ExecOp, session: Session, local: frozenset[int] = frozenset()) -> None:
        self.op = op
        self.session = session
        self.local = local

    def keys(self, inputs: Sequence[Input], step: Step) -> Iterator[CacheKey]:
        parts = [("the instruction", definition(self.op)), ("the base", digest_of(*inputs[0].identity))]
        mounted = [mount for mount in self.op.mounts if mount.input is not None]
        identities = [(f"mount {m.target}", digest_of(*inputs[m.input or 0].identity)) for m in mounted]
        first = key_of("exec", *(value for _, value in parts + identities))
        yield CacheKey(first_key(first, local=bool(self.local)), tuple(parts))
        if mounted and not (step.looking and not self._is_described(inputs)):
            contents = [(f"mount {m.target}", _content(inputs[m.input or 0], m)) for m in mounted]
            yield CacheKey(key_of("exec content", *(value for _, value in parts + contents)), tuple(contents))

    def _is_described(self, inputs: Sequence[Input]) -> bool:
        """Whether what is mounted can be looked into without fetching anything."""
        mounted = {mount.input for mount in self.op.mounts if mount.input is not None} - self.local
        return all(self.session.layers.is_described(id) for n in mounted for id in inputs[n].identity)

    def run(self, inputs: Sequence[Input], step: Step) -> Result:
        session, op = self.session, self.op
        if op.security == "insecure" and "security.insecure" not in session.allow:
            raise PolyarchError(
                "RUN --security=insecure is not allowed",
                hint="allow it with --allow security.insecure",
                reason="not-allowed",
            )
        if op.network == "host" and "network.host" not in session.allow:
            raise PolyarchError(
                "RUN --network=host is not allowed",
                hint="allow it with --allow network.host",
                reason="not-allowed",
            )
        base = rootfs_of(inputs[0])
        layer, how, emulation = self._once(inputs, step, twins=True)
        if how == "accelerated" and session.accelerator is not None and session.accelerator.strict:
            from polyarch.ops.twins.strict import compare

            compare(layer, lambda: self._once(inputs, step, twins=False)[0], self.op)
        return Result(base.with_layer(layer), (layer,), how, emulation)

    def _once(self, inputs: Sequence[Input], step: Step, *, twins: bool) -> tuple[Layer, str, float | None]:
        """Run the process; the layer it leaves, and how it ran: "native", "emulated", or "accelerated" where
        programs of it ran as their native twins; and how much of its time went into emulation."""
        session, op = self.session, self.op
        base = rootfs_of(inputs[0])
        executor = session.executor()
        trees = base.trees()
        upper = session.layers.new_upper(base)
        given: tuple[Mount, ...] = ()
        try:
            with ExitStack() as stack:
                plan = MountPlan(op, session, stack, step.cancelled)
                mounts, environment = plan.prepare(inputs)
                if twins and session.accelerator is not None:
                    given = session.accelerator.mounts(base, op.platform, executor, stack, step.cancelled)
                process = self._process(base, (*environment, *session.proxies))
                output = _Output(step)
                root = RootFilesystem(trees, upper.upper, upper.work, lambda: link_owners(base))
                stop = stack.enter_context(within_limit(session.layers, upper.upper, step.cancelled))
                status = executor.run(process, root, (*mounts, *given), output, stop)
        except BaseException:
            session.layers.discard(upper)
            raise
        if status.code != 0:
            session.layers.discard(upper)
            raise self._failure(status, output)
        how = "native" if not status.emulated else "accelerated" if given else "emulated"
        return session.layers.adopt(upper, base), how, status.emulation

    def record(self, result: Result) -> str:
        return encode_record(result)

    def identity(self, record: str, inputs: Sequence[Input]) -> Identity:
        return base_identity(inputs, 0) + record_layers(record)

    def restore(self, record: str, inputs: Sequence[Input]) -> Result | None:
        return restore(record, self.session.layers, rootfs_of(inputs[0]))

    def _process(self, base: Rootfs, extra: tuple[str, ...]) -> Process:
        op = self.op

        def read(path: str) -> bytes | None:
            resolved = base.resolve(path)
            entry = base.get(resolved)
            if entry is None or entry.type not in ("file", "hardlink"):
                return None
            return base.read(resolved, 4 << 20)

        identity, home = process_identity(op.user, read)
        environment = (*op.environment, *extra)
        if not any(pair.startswith("HOME=") for pair in environment):
            environment = (*environment, f"HOME={home}")
        return Process(
            arguments=op.arguments,
            platform=op.platform,
            environment=environment,
            directory=op.directory,
            identity=identity,
            network=op.network,  # type: ignore[arg-type]  # checked when the Dockerfile was parsed
            security=op.security,  # type: ignore[arg-type]  # the same
            hostname=op.hostname or "buildkitsandbox",
            hosts=op.hosts,
            shm_size=op.shm_size or 64 << 20,
            limits=op.limits,
            emulator_patience=self.session.emulator_patience,
            resources=self.session.resources,
        )

    def _failure(self, status: ExitStatus, output: _Output) -> StepError:
        command, platform = " ".join(self.op.arguments), str(self.op.platform)
        summary = f"process {command!r} did not complete successfully: exit code: {status.code}"
        hint, reason = "", "step-failed"
        if status.silent:
            patience = f"{self.session.emulator_patience:g} s"
            summary = f"{command!r} was killed: emulated for {platform}, it wrote nothing for {patience}"
            hint, reason = (
                f"an emulator may hang: give it more time with --emulator-timeout, or {_WAYS_OUT}",
                "silent",
            )
        elif status.crash == "emulator":
            summary = f"the emulator for {platform} crashed while running {command!r}"
            hint, reason = _WAYS_OUT, "emulator-crashed"
        elif status.crash == "unclear":
            hint = f"a program crashed under emulation, which may be the emulator's fault: {_WAYS_OUT}"
            reason = "crashed-under-emulation"
        return StepError(
            summary,
            process_exit_code=status.code,
            platform=platform,
            output=output.tail(),
            hint=hint,
            reason=reason,
        )


class _Output:
    """Passes a step's output on, and keeps its end for an error."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._kept = bytearray()

    def __call__(self, stream: int, data: bytes) -> None:
        self._kept += data
        if len(self._kept) > 2 * KEPT_OUTPUT:
            del self._kept[:-KEPT_OUTPUT]
        self._step.events(VertexLog(self._step.digest, stream, data, time.time()))

    def tail(self) -> str:
        """The last lines."""
        return bytes(self._kept[-KEPT_OUTPUT:]).decode("utf-8", "replace")


def _content(entry: Input, mount: ExecMount) -> str:
    """The content of what is mounted."""
    rootfs = rootfs_of(entry)
    path = rootfs.resolve(mount.source)
    if rootfs.get(path) is None:
        return "missing"
    return rootfs.content_digest(path)
