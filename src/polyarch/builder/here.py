"""What this machine tells as a node, and what its state directory keeps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from polyarch.builder.report import NodeReport, Prune, Pruned, Usage
from polyarch.content.state import State
from polyarch.executor import cpu
from polyarch.executor.emulator import ALSO_NATIVE, Emulators
from polyarch.oci.platform import Platform, host
from polyarch.version import VERSION

if TYPE_CHECKING:
    from polyarch.builder.storage import Item, Storage

# What images are made for, the usual ones first.
_OFFERED = ("amd64", "arm64", "arm", "riscv64", "ppc64le", "s390x", "386", "mips64le", "mips64", "loong64")
_VARIANTS = {"arm": ("v7", "v6")}  # what is built for when only the architecture is known to run


def report(state: State, *, full: bool = False) -> NodeReport:
    """This machine's facts; with ``full`` also what takes seconds: what is missing, and the cache's size."""
    native, emulated = _platforms(Emulators.discover(taken=state.emulators / "taken"))
    there = next(folder for folder in (state.root, *state.root.parents) if folder.exists())
    disk = shutil.disk_usage(there)
    system = os.uname()
    return NodeReport(
        version=VERSION,
        native=native,
        emulated=emulated,
        cpus=cpu.count(),
        memory=cpu.memory(),
        disk_total=disk.total,
        disk_free=disk.free,
        cache=_kept(state) if full else 0,
        labels={"hostname": system.nodename, "kernel": f"{system.sysname} {system.release}"},
        missing=_missing(state) if full else (),
    )


def _platforms(emulators: Emulators) -> tuple[tuple[Platform, ...], tuple[Platform, ...]]:
    """What runs here natively, best first, and what is emulated. Once one emulator was seen at work with a
    handler of a step's own, the others found beside it are not tried one by one."""
    native, emulated = list(cpu.natives()), list[Platform]()
    private = False
    for architecture in _OFFERED:
        variants = _VARIANTS.get(architecture, ("",))
        found = [Platform(os="linux", architecture=architecture, variant=variant) for variant in variants]
        if architecture == host().architecture:
            continue
        if (host().architecture, architecture) in ALSO_NATIVE or not (private and emulators.find(found[0])):
            strategy = emulators.strategy(found[0])
            private = private or strategy.via == "private"
            if strategy.kind == "unsupported":
                continue
            (native if strategy.kind == "native" else emulated).extend(found)
        else:
            emulated += found
    return tuple(native), tuple(emulated)


def _missing(state: State) -> tuple[str, ...]:
    from polyarch.executor.diagnosis import lacking

    return tuple(
        f"{row.subject}: {row.detail}" + (f" ({row.remedy})" if row.remedy else "") for row in lacking(state)
    )


def _kept(state: State) -> int:
    from polyarch.builder.storage import Storage

    if not state.root.is_dir():
        return 0
    with Storage.open(state) as storage:
        return storage.used()


def usage(state: State, filters: Sequence[str] = ()) -> list[Usage]:
    """Everything the state directory keeps that the filters let through, and the cache's own records."""
    from polyarch.builder.filters import parse
    from polyarch.builder.storage import Storage

    wanted = parse(filters)
    if not state.root.is_dir():
        return []
    with Storage.open(state) as storage:
        found = [_usage(item) for item in storage.items(storage.claim())]
        found += _records(state.database, storage.database_size())
    return [one for one in found if wanted(one)]


def prune(state: State, wanted: Prune) -> Pruned:
    """Remove what is wanted, no image needs (but with ``everything``), and no living process uses."""
    from polyarch.builder.collect import collect
    from polyarch.builder.filters import parse
    from polyarch.builder.storage import Storage

    fits = parse(wanted.filters)
    if not state.root.is_dir():
        return Pruned()
    with Storage.open(state) as storage:
        removed = collect(
            storage,
            everything=wanted.everything,
            wanted=lambda item: fits(_usage(item)),
            keep_bytes=_most(state, storage, wanted),
            dry_run=wanted.dry_run,
        )
    return Pruned(items=tuple(_usage(item) for item in removed.items), size=removed.size, kept=removed.kept)


def _most(state: State, storage: Storage, wanted: Prune) -> int | None:
    """How many bytes may be left, None for no limit: at most ``max_used``, and so little that ``min_free``
    is free, but never less than ``reserved``."""
    limits = [] if wanted.max_used is None else [wanted.max_used]
    if wanted.min_free is not None:
        lacking = wanted.min_free - shutil.disk_usage(state.root).free
        limits.append(max(0, storage.used() - max(0, lacking)))
    if not limits:
        return wanted.reserved
    return max(min(limits), wanted.reserved or 0)


def _usage(item: Item) -> Usage:
    return Usage(
        id=item.id,
        kind=item.kind,
        size=item.size,
        description=item.description,
        used_ns=item.used_ns,
        shared=item.shared,
        in_use=item.in_use,
        reclaimable=item.reclaimable,
        path=str(item.path),
    )


def _records(path: Path, size: int) -> list[Usage]:
    if not size:
        return []
    text, used = "keys and results", path.stat().st_mtime_ns
    return [
        Usage(
            id=path.name,
            kind="records",
            size=size,
            description=text,
            used_ns=used,
            reclaimable=False,
            path=str(path),
        )
    ]
