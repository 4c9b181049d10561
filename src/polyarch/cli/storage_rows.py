"""How items of the storage are shown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from polyarch.builder.storage import KINDS, Item
from polyarch.cli.tables import age, size, table


def row(item: Item) -> dict[str, Any]:
    """An item with buildx's keys, and some more."""
    return {
        "ID": item.id,
        "Type": item.kind,
        "Description": item.description,
        "Size": size(item.size),
        "SizeBytes": item.size,
        "LastUsedAt": _time(item),
        "LastUsedSince": age(_time(item)),
        "Shared": item.shared,
        "InUse": item.in_use,
        "Reclaimable": item.reclaimable,
        "Path": str(item.path),
    }


def listing(items: Sequence[Item]) -> str:
    """A line for each item."""
    rows = [
        [
            _short(item),
            item.kind,
            str(item.reclaimable).lower(),
            size(item.size) + ("*" if item.shared else ""),
            age(_time(item)),
            item.description,
        ]
        for item in items
    ]
    return table(("ID", "TYPE", "RECLAIMABLE", "SIZE", "LAST USED", "DESCRIPTION"), rows)


def details(item: Item) -> str:
    """Everything about an item."""
    lines = [f"{key + ':':<15} {_word(value)}" for key, value in row(item).items() if value != ""]
    return "\n".join(lines)


def totals(items: Sequence[Item], records: int) -> str:
    """Sums by kind, as ``buildx du`` ends with them. ``records`` are bytes of the cache's database."""
    sums = {kind: sum(item.size for item in items if item.kind == kind) for kind in KINDS}
    free = sum(item.size for item in items if item.reclaimable and item.kind != "image" and not item.shared)
    rows = [[f"{kind.capitalize()}:", size(total)] for kind, total in sums.items() if total]
    rows += [["Records:", size(records)]] if records else []
    rows += [
        ["Shared:", size(sum(item.size for item in items if item.shared))],
        ["Reclaimable:", size(free)],
        ["Total:", size(sum(sums.values()) + records)],
    ]
    return "\n".join(f"{name:<14}{value}" for name, value in rows)


def _short(item: Item) -> str:
    name = item.id.partition(":")[2] or item.id
    return name[:25]


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _time(item: Item) -> str:
    return datetime.fromtimestamp(item.used_ns / 1e9, UTC).isoformat(timespec="seconds")
