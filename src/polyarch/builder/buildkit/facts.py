"""What a daemon tells of itself and of what it keeps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import grpc

from polyarch.builder.buildkit.daemon import Daemon
from polyarch.builder.buildkit.protocol import control_pb2 as control
from polyarch.builder.buildkit.protocol import llb_pb2, worker_pb2
from polyarch.builder.report import GcRule, NodeReport, Prune, Pruned, Usage, split
from polyarch.errors import PolyarchError
from polyarch.oci.platform import Platform


class Facts:
    """A daemon's answers; its platforms are asked for once."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    @cached_property
    def workers(self) -> tuple[worker_pb2.WorkerRecord, ...]:
        """The daemon's workers, the one that builds first."""
        answer = self._daemon.ask("ListWorkers", control.ListWorkersRequest())
        assert isinstance(answer, control.ListWorkersResponse)
        if not answer.record:
            raise PolyarchError(f"the builder at {self._daemon.place} has no worker", reason="no-worker")
        return tuple(answer.record)

    @property
    def natives(self) -> tuple[Platform, ...]:
        """What runs there without emulation, the best first."""
        return split(self._offered)[0]

    @property
    def _offered(self) -> list[Platform]:
        return [_platform(one) for one in self.workers[0].platforms]

    def report(self) -> NodeReport:
        """Everything the daemon says of itself."""
        native, emulated = split(self._offered)
        version = self.workers[0].version.version
        if not version:
            answer = self._daemon.ask("Info", control.InfoRequest())
            assert isinstance(answer, control.InfoResponse)
            version = answer.version.version
        machine = self._machine()
        return NodeReport(
            version=version,
            native=native,
            emulated=emulated,
            cpus=_number(machine, "NCPU"),
            memory=_number(machine, "MemTotal"),
            cache=sum(item.size for item in self.usage()),
            labels=dict(sorted(self.workers[0].labels.items())),
            rules=tuple(_rule(policy) for policy in self.workers[0].gc_policy),
        )

    def _machine(self) -> dict[str, object]:
        """What a Docker engine says of its machine; a daemon of its own says nothing."""
        if self._daemon.engine is None:
            return {}
        found = self._daemon.engine.ask("GET", "/info")
        return found if isinstance(found, dict) else {}

    def usage(self, filters: Sequence[str] = ()) -> list[Usage]:
        """What the daemon keeps."""
        answer = self._daemon.ask("DiskUsage", control.DiskUsageRequest(filter=filters))
        assert isinstance(answer, control.DiskUsageResponse)
        return [_usage(record) for record in answer.record]

    def prune(self, wanted: Prune) -> Pruned:
        """Let the daemon remove what nobody uses. With ``dry_run`` what it would remove without limits."""
        before = self.usage(wanted.filters)
        kept = sum(item.size for item in before if item.in_use)
        if wanted.dry_run:
            idle = tuple(item for item in before if item.reclaimable)
            return Pruned(items=idle, size=sum(item.size for item in idle), kept=kept)
        request = control.PruneRequest(
            filter=wanted.filters,
            all=wanted.everything,
            max_used_space=wanted.max_used or 0,
            reserved_space=wanted.reserved or 0,
            min_free_space=wanted.min_free or 0,
        )
        try:
            removed = tuple(_usage(record) for record in self._daemon.control.Prune(request))
        except grpc.RpcError as error:
            raise self._daemon.failure(error) from None
        return Pruned(items=removed, size=sum(item.size for item in removed), kept=kept)


def _platform(theirs: llb_pb2.Platform) -> Platform:
    return Platform(
        os=theirs.os,
        architecture=theirs.architecture,
        variant=theirs.variant,
        os_version=theirs.os_version,
        os_features=tuple(theirs.os_features),
    ).normalized()


def _rule(policy: worker_pb2.GCPolicy) -> GcRule:
    return GcRule(
        everything=policy.all,
        filters=tuple(policy.filters),
        keep=policy.keep_duration / 1e9,
        reserved=policy.reserved_space,
        max_used=policy.max_used_space,
        min_free=policy.min_free_space,
    )


def _usage(record: control.UsageRecord) -> Usage:
    return Usage(
        id=record.id,
        kind=record.record_type or "regular",
        size=record.size,
        description=record.description,
        used_ns=_nanoseconds(record.last_used_at) if record.HasField("last_used_at") else 0,
        created_ns=_nanoseconds(record.created_at) if record.HasField("created_at") else 0,
        uses=record.usage_count,
        shared=record.shared,
        in_use=record.in_use,
        reclaimable=not record.in_use,
    )


def _nanoseconds(stamp: object) -> int:
    return int(getattr(stamp, "seconds", 0)) * 10**9 + int(getattr(stamp, "nanos", 0))


def _number(machine: dict[str, object], key: str) -> int:
    value = machine.get(key, 0)
    return value if isinstance(value, int) else 0
