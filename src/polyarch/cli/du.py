"""``polyarch du``: what takes how much room, on every node of a builder."""

from __future__ import annotations

import click

from polyarch.cli.goflags import GoCommand


@click.command(cls=GoCommand)
@click.option("-v", "--verbose", is_flag=True, help="Show more of each item.")
@click.option("--filter", "filters", multiple=True, metavar="KEY=VALUE", help="Show only some items.")
@click.option("--format", "form", default="", metavar="json|pretty|TEMPLATE", help="How to print each item.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, an object a line.")
@click.option("--builder", default="", metavar="NAME", help="The builder, instead of the current one.")
def du(*, verbose: bool, filters: tuple[str, ...], form: str, as_json: bool, builder: str) -> int:
    """Show how much of the disk images, build cache and the rest take, on every node of the builder.

    Filters: type=image|blob|layer|cachemount|source|upload|temporary, id=PREFIX, description=TEXT,
    until=24h (not used for so long), shared, private, inuse, reclaimable; KEY!=VALUE for the opposite.
    """
    from polyarch.builder import fleet
    from polyarch.builder.filters import parse
    from polyarch.builder.records import Builders
    from polyarch.cli.builders import tell_failures
    from polyarch.cli.storage_rows import show
    from polyarch.content.state import State

    parse(filters)
    form = form or ("json" if as_json else "pretty" if verbose else "")
    state = State.default()
    nodes = Builders(state).selected(builder).nodes
    answers = fleet.ask_all(nodes, lambda node: fleet.usage(node, state, filters))
    parts = []
    for one in answers:
        if one.answer is not None:
            items = sorted(one.answer, key=lambda item: item.size, reverse=True)
            title = f"{one.node.name} ({one.node.place})\n" if len(nodes) > 1 and form != "json" else ""
            parts.append(title + show(items, form))
    print(("\n" if form == "json" else "\n\n").join(part for part in parts if part))
    return tell_failures(answers)
