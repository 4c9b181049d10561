"""``polyarch node``: what ssh starts on a node; people have no use for it."""

from __future__ import annotations

import click


@click.command(hidden=True, short_help="Serve a client's builds on standard input and output.")
@click.option("--attach", "session", default="", metavar="SESSION", help="Go on with a conversation.")
def node(session: str) -> int:
    """Serve the builds of a client on standard input and output, as ssh:// nodes are used."""
    from polyarch.builder.ssh import host

    return host.attach(session) if session else host.serve()
