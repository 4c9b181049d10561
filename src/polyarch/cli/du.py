"""``polyarch du``: what takes how much room."""

from __future__ import annotations

import click

from polyarch.cli.goflags import GoCommand


@click.command(cls=GoCommand)
@click.option("-v", "--verbose", is_flag=True, help="Show more of each item.")
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Show only some items.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")
def du(*, verbose: bool, filters: tuple[str, ...], as_json: bool) -> None:
    """Show how much of the disk images, build cache and the rest take.

    Filters: type=image|blob|layer|cachemount|source|upload|temporary, id=PREFIX, description=TEXT,
    until=24h (not used for so long), shared, private, inuse, reclaimable; KEY!=VALUE for the opposite.
    """
    from polyarch.builder.storage import Storage
    from polyarch.cli.storage_filters import parse
    from polyarch.content.state import State

    wanted = parse(filters)
    with Storage.open(State.default()) as storage:
        items = [item for item in storage.items(storage.claim()) if wanted(item)]
        records = storage.database_size() if not filters else 0
    items.sort(key=lambda item: item.size, reverse=True)
    if as_json:
        from polyarch.cli.govalues import to_json
        from polyarch.cli.storage_rows import row

        for item in items:
            print(to_json(row(item)))
        return
    from polyarch.cli.storage_rows import details, listing, totals

    if verbose:
        print("\n\n".join(details(item) for item in items))
    else:
        print(listing(items))
    print()
    print(totals(items, records))
