"""How builders and their nodes are shown: buildx's tables, templates, JSON and details."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from polyarch.builder.instance import Builder, NodeRecord
from polyarch.builder.report import GcRule, NodeReport
from polyarch.cli.govalues import Struct, to_json
from polyarch.cli.template import Template

DEFAULT_TABLE = r"table {{.Name}}\t{{.DriverEndpoint}}\t{{.Status}}\t{{.Buildkit}}\t{{.Platforms}}"
_HEADERS = {
    "Name": "NAME/NODE",
    "DriverEndpoint": "DRIVER/ENDPOINT",
    "LastActivity": "LAST ACTIVITY",
    "Status": "STATUS",
    "Buildkit": "BUILDKIT",
    "Platforms": "PLATFORMS",
    "Error": "ERROR",
}
_INDENT = r" \_ "
_MOST = 4  # groups of platforms in a table
_MAJOR = tuple(f"linux/{one}" for one in "amd64 arm64 arm ppc64le s390x riscv64 mips64".split())


@dataclass(frozen=True)
class Row:
    """A builder and what its nodes report; ``error`` is why it cannot be read."""

    name: str
    builder: Builder | None
    reports: Sequence[NodeReport] = ()
    current: bool = False
    used: float = 0.0
    error: str = ""

    @property
    def driver(self) -> str:
        return self.builder.driver if self.builder else ""

    def nodes(self) -> Iterator[tuple[NodeRecord, NodeReport]]:
        """The nodes with their reports."""
        if self.builder is not None:
            yield from zip(self.builder.nodes, self.reports, strict=True)


def offered(node: NodeRecord, report: NodeReport) -> list[str]:
    """Everything the node is for: what was declared, with a star, then what it reports."""
    declared = [platform.full() for platform in node.platforms]
    found = [f"{text}*" for text in declared]
    return found + [
        text
        for text in dict.fromkeys(platform.full() for platform in (*report.native, *report.emulated))
        if text not in declared
    ]


def listing(rows: Sequence[Row], form: str, *, truncate: bool) -> str:
    """What ``polyarch ls`` prints in the format ``table``, ``json``, a template, or ``table TEMPLATE``."""
    if form == "json":
        return "\n".join(to_json(_json(row)) for row in rows)
    is_table = form == "table" or form.startswith("table ")
    text = DEFAULT_TABLE if form == "table" else form
    text = text.removeprefix("table ").replace(r"\t", "\t").replace(r"\n", "\n")
    template = Template(text)
    lines = [template.render(Struct("lsContext", _HEADERS, _HEADERS))] if is_table else []
    for row in rows:
        lines.append(template.render(_builder_fields(row, star=is_table)))
        for node, report in row.nodes():
            lines.append(template.render(_node_fields(node, report, table=is_table, truncate=truncate)))
    return _aligned(lines) if is_table else "\n".join(lines)


def _aligned(lines: Sequence[str]) -> str:
    """Cells between tabs in columns, as docker aligns them."""
    cells = [line.split("\t") for line in lines]
    widths = [
        max([10, *(len(row[column]) + 3 for row in cells if len(row) > column + 1)])
        for column in range(max(len(row) for row in cells))
    ]
    return "\n".join(
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in cells
    )


def _builder_fields(row: Row, *, star: bool) -> Struct:
    fields = {
        "Name": row.name + ("*" if row.current and star else ""),
        "DriverEndpoint": row.driver,
        "LastActivity": _moment(row.used) if row.used else "",
        "Status": "error" if row.error else "",
        "Buildkit": "",
        "Platforms": "",
        "Error": row.error,
    }
    return Struct("lsContext", fields, _json(row))


def _node_fields(node: NodeRecord, report: NodeReport, *, table: bool, truncate: bool) -> Struct:
    indent = _INDENT if table else ""
    platforms = offered(node, report)
    fields = {
        "Name": indent + node.name,
        "DriverEndpoint": indent + node.place,
        "LastActivity": "",
        "Status": report.status,
        "Buildkit": report.version,
        "Platforms": shortened(platforms) if table and truncate else ", ".join(platforms),
        "Error": report.error,
    }
    return Struct("lsContext", fields, _node_json(node, report))


def as_json_text(row: Row) -> str:
    """One builder as indented JSON."""
    return to_json(_json(row), indent=2)


def _json(row: Row) -> dict[str, Any]:
    """A builder with buildx's keys."""
    found: dict[str, Any] = {
        "Current": row.current,
        "Driver": row.driver,
        "Dynamic": False,
        "LastActivity": _moment(row.used) if row.used else "0001-01-01T00:00:00Z",
        "Name": row.name,
        "Nodes": [_node_json(node, report) for node, report in row.nodes()],
    }
    return {**found, "Err": row.error} if row.error else found


def _node_json(node: NodeRecord, report: NodeReport) -> dict[str, Any]:
    platforms = [text.removesuffix("*") for text in offered(node, report)]
    found = {
        "Name": node.name,
        "Endpoint": node.place,
        "Driver": node.driver,
        "DriverOpts": node.driver_opts,
        "Flags": list(node.flags),
        "Platforms": platforms,
        "Emulated": [platform.full() for platform in report.emulated],
        "Status": report.status,
        "Version": report.version,
        "CPUs": report.cpus,
        "Memory": report.memory,
        "DiskTotal": report.disk_total,
        "DiskFree": report.disk_free,
        "CacheSize": report.cache,
        "Labels": report.labels,
        "Missing": list(report.missing),
        "GCPolicy": [_rule_json(rule) for rule in report.rules],
        "Err": report.error,
    }
    return {key: value for key, value in found.items() if value}


def _rule_json(rule: GcRule) -> dict[str, Any]:
    return {
        "all": rule.everything,
        "filter": list(rule.filters) or None,
        "keepDuration": int(rule.keep * 1e9),
        "maxUsedSpace": rule.max_used,
        "minFreeSpace": rule.min_free,
        "reservedSpace": rule.reserved,
    }


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- platforms in a table -----------------------------------------------------------------------------------


def shortened(texts: Sequence[str], most: int = _MOST) -> str:
    """Platforms by architecture, the usual ones first, no more than ``most`` of them, and how many more there
    are: ``linux/amd64 (+4), linux/arm64*, (3 more)``."""
    groups: dict[str, list[str]] = {}
    for text in texts:
        platform = text.removesuffix("*")
        groups.setdefault("/".join(platform.split("/")[:2]), []).append(text)
    order = [name for name in _MAJOR if name in groups] + sorted(
        name for name in groups if name not in _MAJOR
    )
    shown = [_group(name, groups[name]) for name in order[:most]]
    left = sum(len(groups[name]) for name in order[most:])
    return ", ".join([*shown, f"({left} more)"] if left else shown)


def _group(name: str, texts: Sequence[str]) -> str:
    if len(texts) == 1:
        return texts[0]
    star = "*" if any(text.endswith("*") for text in texts) else ""
    return f"{name}{star} (+{len(texts)})"


# --- details ------------------------------------------------------------------------------------------------


def details(row: Row) -> list[tuple[str, str] | str]:
    """The lines of ``polyarch inspect``: pairs to be aligned, and plain lines."""
    lines: list[tuple[str, str] | str] = [("Name:", row.name), ("Driver:", row.driver)]
    if row.used:
        when = datetime.fromtimestamp(int(row.used), UTC).strftime("%Y-%m-%d %H:%M:%S +0000 UTC")
        lines.append(("Last Activity:", when))
    lines += ["", "Nodes:"]
    for number, (node, report) in enumerate(row.nodes()):
        if number:
            lines.append("")
        lines += _node_details(node, report)
    return lines


def _node_details(node: NodeRecord, report: NodeReport) -> Iterator[tuple[str, str] | str]:
    yield "Name:", node.name
    yield "Endpoint:", node.place
    yield "Driver:", node.driver
    if node.driver_opts:
        pairs = sorted(node.driver_opts.items())
        yield "Driver Options:", " ".join(f'{key}="{value}"' for key, value in pairs)

    yield "Status:", report.status
    if report.error:
        yield "Error:", report.error.replace("\n", "\n  ")
        if report.hint:
            yield "Hint:", report.hint
    if node.flags:
        yield "BuildKit daemon flags:", " ".join(node.flags)
    if report.version:
        ours = node.driver in ("embedded", "ssh")
        yield ("polyarch version:" if ours else "BuildKit version:"), report.version
    yield from _platform_lines(node, report)
    yield from _resources(report)
    for line in report.missing:
        yield "Missing:", line
    yield from _block("Labels:", report.labels)
    for number, rule in enumerate(report.rules):
        yield f"GC Policy rule#{number}:"
        yield from _rule_lines(rule)
    for name, content in node.files.items():
        yield f"File#{name}:"
        if not name.startswith("certs/"):
            yield from (f" > {line}" for line in content.decode("utf-8", "replace").rstrip("\n").split("\n"))


def _platform_lines(node: NodeRecord, report: NodeReport) -> Iterator[tuple[str, str]]:
    """Native platforms and emulated ones; declared ones first, with a star, where they belong."""
    emulated = [platform for platform in node.platforms if platform in report.emulated]
    native = [platform for platform in node.platforms if platform not in emulated]
    for title, declared, reported in (
        ("Platforms:", native, report.native),
        ("Emulated:", emulated, report.emulated),
    ):
        rest = [platform.full() for platform in reported if platform not in node.platforms]
        if texts := [*(f"{platform.full()}*" for platform in declared), *rest]:
            yield title, ", ".join(texts)


def _resources(report: NodeReport) -> Iterator[tuple[str, str]]:
    if report.cpus:
        yield "CPUs:", str(report.cpus)
    if report.memory:
        yield "Memory:", binary(report.memory)
    if report.disk_total:
        yield "Disk:", f"{binary(report.disk_free)} free of {binary(report.disk_total)}"
    if report.status == "running":
        yield "Cache:", binary(report.cache)


def _block(title: str, pairs: Mapping[str, str]) -> Iterator[str]:
    if pairs:
        yield title
        width = max(len(key) for key in pairs) + 2
        yield from (f" {key + ':':<{width}}{pairs[key]}" for key in sorted(pairs))


def _rule_lines(rule: GcRule) -> Iterator[tuple[str, str]]:
    yield " All:", str(rule.everything).lower()
    if rule.filters:
        yield " Filters:", " ".join(rule.filters)
    if rule.keep:
        yield " Keep Duration:", _duration(rule.keep)
    for title, count in (
        (" Reserved Space:", rule.reserved),
        (" Max Used Space:", rule.max_used),
        (" Min Free Space:", rule.min_free),
    ):
        if count:
            yield title, binary(count)


def _duration(seconds: float) -> str:
    """As Go writes it: ``48h0m0s``."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s" if minutes else f"{rest}s"


def binary(count: int) -> str:
    """Bytes with four digits and a binary unit, as docker's BytesSize: ``3.346GiB``."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.4g}{unit}"
