"""How items of the storage are shown."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from polyarch.builder.report import Usage
from polyarch.cli.govalues import Struct, to_json
from polyarch.cli.tables import age, size, table


def row(item: Usage) -> dict[str, Any]:
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
        "Path": item.path,
    }


def show(items: Sequence[Usage], form: str) -> str:
    """Items in the format ``json``, ``pretty``, a template, or (empty) as a table with totals."""
    match form:
        case "json":
            return "\n".join(to_json(row(item)) for item in items)
        case "pretty":
            return "\n\n".join([*(details(item) for item in items), totals(items)])
        case "" | "table":
            return f"{listing(items)}\n\n{totals(items)}"
    from polyarch.cli.template import Template

    template = Template(form.replace(r"\t", "\t").replace(r"\n", "\n"))
    return "\n".join(template.render(Struct("record", row(item), row(item))) for item in items)


def listing(items: Sequence[Usage]) -> str:
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


def details(item: Usage) -> str:
    """Everything about an item."""
    lines = [f"{key + ':':<15} {_word(value)}" for key, value in row(item).items() if value != ""]
    return "\n".join(lines)


def totals(items: Sequence[Usage]) -> str:
    """Sums by kind, as ``buildx du`` ends with them."""
    sums: dict[str, int] = {}
    for item in items:
        sums[item.kind] = sums.get(item.kind, 0) + item.size
    free = sum(item.size for item in items if item.reclaimable and item.kind != "image" and not item.shared)
    rows = [[f"{kind.capitalize()}:", size(total)] for kind, total in sums.items() if total]
    rows += [
        ["Shared:", size(sum(item.size for item in items if item.shared))],
        ["Reclaimable:", size(free)],
        ["Total:", size(sum(sums.values()))],
    ]
    return "\n".join(f"{name:<14}{value}" for name, value in rows)


def _short(item: Usage) -> str:
    name = item.id.partition(":")[2] or item.id
    return name[:25]


def _word(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _time(item: Usage) -> str:
    if not item.used_ns:
        return ""
    return datetime.fromtimestamp(item.used_ns / 1e9, UTC).isoformat(timespec="seconds")
