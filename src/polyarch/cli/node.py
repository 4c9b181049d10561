"""``polyarch node``: what ssh starts on a node; people have no use for it."""

from __future__ import annotations

import click


@click.command(hidden=True, short_help="Serve a client's builds on standard input and output.")
@click.option("--attach", "session", default="", metavar="SESSION", help="Go on with a conversation.")
@click.option("--grace", default=30.0, metavar="SECONDS", help="How long to go on without the client.")
def node(session: str, grace: float) -> int:
    """Serve the builds of a client on standard input and output, as ssh:// nodes are used."""
    from polyarch.builder.ssh import host

    return host.attach(session) if session else host.serve(grace)
