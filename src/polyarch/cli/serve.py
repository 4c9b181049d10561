"""``polyarch serve``: the embedded registry."""

from __future__ import annotations

from pathlib import Path

import click

from polyarch.content.state import State


@click.command()
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the registry keeps everything. [default: registry/ below POLYARCH_ROOT]",
)
@click.option(
    "--listen",
    default="127.0.0.1:5000",
    show_default=True,
    metavar="HOST:PORT",
    help="Where to listen; port 0 takes any free port.",
)
@click.option(
    "--default-platform",
    default="linux/amd64",
    show_default=True,
    metavar="PLATFORM",
    help="What a client gets that asks by tag, takes no index, and does not say what it runs on.",
)
def serve(*, root: Path | None, listen: str, default_platform: str) -> None:
    """Serve a registry that docker, podman, skopeo and crane can push to and pull from.

    It stores what it is given byte for byte, asks nobody for a password, and speaks plain http: keep it on
    loopback or put a proxy with TLS and authentication in front of it. Ctrl-C stops it.
    """
    from polyarch.oci.platform import parse_known
    from polyarch.registry import server

    folder = (root or State.default().root / "registry").absolute()

    def ready(address: str) -> None:
        print(f"serving the registry in {folder} at {address}", flush=True)

    server.serve(folder, listen, default_platform=parse_known(default_platform), ready=ready)
