"""``polyarch ls`` and ``inspect``: builders, and what their nodes can do."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from polyarch.cli.goflags import GoCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyarch.cli.builder_rows import Row


@click.command(cls=GoCommand)
@click.option(
    "--format", "form", default="table", metavar="table|json|TEMPLATE", help="How to print (a Go template)."
)
@click.option("--no-trunc", is_flag=True, help="Show every platform.")
@click.option("--builder", hidden=True)
def ls(*, form: str, no_trunc: bool, builder: str | None) -> None:
    """List builders, their nodes, and the platforms these build for.

    A star marks the current builder, and platforms that were declared. Nodes that do not answer have the
    status "error". A template sees .Name, .DriverEndpoint, .LastActivity, .Status, .Buildkit, .Platforms
    and .Error.
    """
    from polyarch.cli.builder_rows import listing

    rows = _rows()
    print(listing(rows, form, truncate=not no_trunc))
    if form.startswith("table"):
        _tell_errors(rows)


def _rows() -> list[Row]:
    """Every builder, all nodes of all of them asked at once."""
    from polyarch.builder import fleet
    from polyarch.builder.instance import DEFAULT
    from polyarch.builder.records import Builders
    from polyarch.cli.builder_rows import Row
    from polyarch.content.state import State
    from polyarch.errors import NotFoundError, PolyarchError

    state = State.default()
    builders = Builders(state)
    found: list[Row] = []
    try:
        current = builders.selected().name
    except PolyarchError as error:  # the environment names one there is not: that is no reason to list none
        print(f"warning: {error.summary}: {error.detail}", file=sys.stderr)
        current = builders.current()
    for name in [*builders.names(), DEFAULT.name]:
        used = builders.last_used(name)
        try:
            found.append(Row(name, builders.get(name), (), name == current, used))
        except NotFoundError:
            continue  # removed meanwhile
        except PolyarchError as error:
            found.append(Row(name, None, (), name == current, used, error.summary))
    nodes = [node for row in found if row.builder for node in row.builder.nodes]
    reports = iter(fleet.reports(nodes, state))
    asked = []
    for row in found:
        mine = tuple(next(reports) for _ in row.builder.nodes) if row.builder else ()
        asked.append(Row(row.name, row.builder, mine, row.current, row.used, row.error))
    return sorted(asked, key=lambda row: bool(row.error))


def _tell_errors(rows: Sequence[Row]) -> None:
    lines = []
    for row in rows:
        if row.error:
            lines.append(f"Cannot load builder {row.name}: {row.error}")
        for node, report in row.nodes():
            if report.error:
                lines.append(f"Failed to get status for {row.name} ({node.name}): {report.error}")
                lines += [f"hint: {report.hint}"] if report.hint else []
    if lines:
        print("\n" + "\n".join(lines), file=sys.stderr)


@click.command(cls=GoCommand)
@click.argument("name", default="")
@click.option("--bootstrap", is_flag=True, help="Make the nodes ready first.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--builder", default="", metavar="NAME", help="The builder, instead of the current one.")
def inspect(*, name: str, bootstrap: bool, as_json: bool, builder: str) -> None:
    """Show a builder's nodes: state, version, native and emulated platforms, processors, memory, disk and
    cache."""
    from polyarch.builder import fleet
    from polyarch.builder.records import Builders
    from polyarch.cli.builder_rows import Row, as_json_text, details
    from polyarch.cli.builders import start_all
    from polyarch.cli.tables import tabbed
    from polyarch.content.state import State

    state = State.default()
    builders = Builders(state)
    found = builders.selected(name or builder)
    if bootstrap:
        start_all(found, found.nodes)
    reports = fleet.reports(found.nodes, state, full=True)
    current = found.name == builders.current()
    row = Row(found.name, found, reports, current, builders.last_used(found.name))
    print(as_json_text(row) if as_json else tabbed(details(row)))
