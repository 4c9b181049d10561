"""``polyarch prune``: removes what is not needed any more."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from polyarch.cli.goflags import GoCommand

if TYPE_CHECKING:
    from polyarch.builder.collect import Removed

_WARNING = "This removes all build cache that no image needs."
_WARNING_ALL = "This removes all images and all build cache."


@click.command(cls=GoCommand)
@click.option("-a", "--all", "everything", is_flag=True, help="Remove images too, and what they need.")
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Remove only some items.")
@click.option(
    "--keep-storage",
    "--max-used-space",
    "keep",
    default="",
    metavar="SIZE",
    help="Remove the least recently used first, until no more than this is left.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("-v", "--verbose", is_flag=True, help="Show more of each item.")
def prune(
    *, everything: bool, filters: tuple[str, ...], keep: str, dry_run: bool, force: bool, verbose: bool
) -> int:
    """Remove what no image needs: build cache, unpacked layers, cache mounts, downloads, leftovers.

    What running builds use stays. Filters are those of 'polyarch du': until=24h, type=layer, id=PREFIX, ….
    """
    from polyarch.builder.collect import collect
    from polyarch.builder.storage import Storage
    from polyarch.cli.options import size as parse_size
    from polyarch.cli.storage_filters import parse
    from polyarch.content.state import State

    wanted = parse(filters)
    keep_bytes = parse_size("--keep-storage", keep) if keep else None
    if not (force or dry_run) and not _agreed(_WARNING_ALL if everything else _WARNING):
        return 1
    with Storage.open(State.default()) as storage:
        removed = collect(
            storage, everything=everything, wanted=wanted, keep_bytes=keep_bytes, dry_run=dry_run
        )
    _tell(removed, dry_run=dry_run, verbose=verbose)
    return 0


def _agreed(warning: str) -> bool:
    print(f"WARNING! {warning}\nAre you sure you want to continue? [y/N] ", end="", flush=True)
    answer = sys.stdin.readline() if sys.stdin is not None else ""
    if not answer.endswith("\n"):
        print()
    if answer.strip().lower() in ("y", "yes"):
        return True
    print("Nothing was removed.\nhint: --force does not ask", file=sys.stderr)
    return False


def _tell(removed: Removed, *, dry_run: bool, verbose: bool) -> None:
    from polyarch.cli.storage_rows import details, listing
    from polyarch.cli.tables import size

    if removed.items:
        items = list(removed.items)
        print("\n\n".join(details(item) for item in items) if verbose else listing(items))
        print()
    print(f"{'Would free' if dry_run else 'Freed'}: {size(removed.size)}")
    if removed.kept:
        print(f"Kept: {size(removed.kept)}, which running builds may use")
