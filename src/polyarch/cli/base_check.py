"""``polyarch base check``: which images exist for which platforms."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyarch.proof.availability import Availability


@click.command()
@click.argument("images", nargs=-1, required=True)
@click.option(
    "--platform", "platforms", multiple=True, metavar="P[,P…]", help="Required. [default: show what there is]"
)
@click.option("--remote", is_flag=True, help="Ask registries even for what the local store has.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(*, images: tuple[str, ...], platforms: tuple[str, ...], remote: bool, as_json: bool) -> int:
    """Show for which platforms IMAGES exist.

    One request an image, all at once. Exits with 1 where an image or one of the platforms is missing.

    \b
    polyarch base check debian:bookworm python:3.12-slim --platform linux/amd64,linux/riscv64
    """
    from polyarch.content.state import State
    from polyarch.oci.platform import parse_list
    from polyarch.proof.availability import availability
    from polyarch.registry.client import Client

    wanted = parse_list(platforms)
    with Client() as client:
        rows = availability(images, wanted, state=State.default(), client=client, remote=remote)
    if as_json:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")
    else:
        print(_table(rows, [str(platform) for platform in wanted]))
        _explain(rows)
    return 1 if any(row.problem or row.missing for row in rows) else 0


def _table(rows: Sequence[Availability], wanted: list[str]) -> str:
    from polyarch.cli.tables import table

    columns = wanted or list(dict.fromkeys(name for row in rows for name in row.platforms))
    lines = []
    for row in rows:
        cells = ["?" if row.problem else "yes" if _has(row, name, wanted) else "no" for name in columns]
        lines.append([row.image, *cells])
    return table(["IMAGE", *columns], lines)


def _has(row: Availability, name: str, wanted: list[str]) -> bool:
    return row.has(name) if wanted else name in row.platforms


def _explain(rows: Sequence[Availability]) -> None:
    for row in rows:
        if row.problem:
            print(f"{row.image}: {row.problem}" + (f"; {row.hint}" if row.hint else ""), file=sys.stderr)
        elif row.missing:
            there = ", ".join(row.platforms) or "none at all"
            more = f"; {row.hint}" if row.hint else ""
            print(f"{row.image} lacks {', '.join(row.missing)}; it has {there}{more}", file=sys.stderr)
    if any(row.missing and not row.problem for row in rows):
        print("hint: `polyarch base create` makes a base for the platforms that are missing", file=sys.stderr)
