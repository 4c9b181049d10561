"""``polyarch prune``: removes what is not needed any more, on every node of a builder."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from polyarch.cli.goflags import GoCommand

if TYPE_CHECKING:
    from polyarch.builder.report import Prune, Pruned

_WARNING = "This removes all build cache that no image needs."
_WARNING_ALL = "This removes all images and all build cache."
_OPTIONS = {"max_used": "--max-used-space", "reserved": "--reserved-space", "min_free": "--min-free-space"}
_SIZE: dict[str, Any] = {"default": "", "metavar": "SIZE"}


@click.command(cls=GoCommand)
@click.option("-a", "--all", "everything", is_flag=True, help="Remove images too, and what they need.")
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Remove only some items.")
@click.option(
    "--keep-storage",
    "--max-used-space",
    "max_used",
    help="Remove the least recently used first, until no more than this is left.",
    **_SIZE,
)
@click.option("--reserved-space", "reserved", help="Never leave less than this.", **_SIZE)
@click.option("--min-free-space", "min_free", help="Remove until so much of the disk is free.", **_SIZE)
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-v", "--verbose", is_flag=True, help="Show more of each item.")
@click.option("--builder", default="", metavar="NAME", help="The builder, instead of the current one.")
def prune(
    *,
    filters: tuple[str, ...],
    everything: bool,
    dry_run: bool,
    force: bool,
    verbose: bool,
    builder: str,
    **sizes: str,
) -> int:
    """Remove what no image needs: build cache, unpacked layers, cache mounts, downloads, leftovers.

    What running builds use stays. Filters are those of 'polyarch du': until=24h, type=layer, id=PREFIX, ….
    Every node of the builder is tidied.
    """
    from polyarch.builder import fleet
    from polyarch.builder.filters import parse
    from polyarch.builder.records import Builders
    from polyarch.cli.builders import tell_failures
    from polyarch.content.state import State

    parse(filters)
    wanted = _wanted(everything=everything, dry_run=dry_run, filters=filters, sizes=sizes)
    state = State.default()
    nodes = Builders(state).selected(builder).nodes
    if not (force or dry_run) and not _agreed(_WARNING_ALL if everything else _WARNING):
        return 1
    answers = fleet.ask_all(nodes, lambda node: fleet.prune(node, state, wanted), within=fleet.READY_WITHIN)
    for one in answers:
        if one.answer is not None:
            if len(nodes) > 1:
                print(f"{one.node.name} ({one.node.place})")
            _tell(one.answer, dry_run=dry_run, verbose=verbose)
    return tell_failures(answers)


def _wanted(*, everything: bool, dry_run: bool, filters: tuple[str, ...], sizes: dict[str, str]) -> Prune:
    from polyarch.builder.report import Prune
    from polyarch.cli.options import size

    bytes_of = {
        name: size(f"--{name.replace('_', '-')}-space", text) if text else None
        for name, text in sizes.items()
    }
    return Prune(everything=everything, filters=filters, dry_run=dry_run, **bytes_of)


def _agreed(warning: str) -> bool:
    print(f"WARNING! {warning}\nAre you sure you want to continue? [y/N] ", end="", flush=True)
    answer = sys.stdin.readline() if sys.stdin is not None else ""
    if not answer.endswith("\n"):
        print()
    if answer.strip().lower() in ("y", "yes"):
        return True
    print("Nothing was removed.\nhint: --force does not ask", file=sys.stderr)
    return False


def _tell(removed: Pruned, *, dry_run: bool, verbose: bool) -> None:
    from polyarch.cli.storage_rows import details, listing
    from polyarch.cli.tables import size

    if removed.items:
        items = removed.items
        print("\n\n".join(details(item) for item in items) if verbose else listing(items))
        print()
    print(f"{'Would free' if dry_run else 'Freed'}: {size(removed.size)}")
    if removed.kept:
        print(f"Kept: {size(removed.kept)}, which running builds may use")
