"""``polyarch debug``: what polyarch makes of a Dockerfile or a build, as JSON."""

from __future__ import annotations

from typing import BinaryIO

import click


@click.group()
def debug() -> None:
    """Show what polyarch makes of a Dockerfile or a build."""


@debug.command()
@click.argument("file", type=click.File("rb"), metavar="FILE")
def ast(file: BinaryIO) -> None:
    """Print the syntax tree of the Dockerfile FILE ("-" for standard input)."""
    import json

    from polyarch.dockerfile import parse
    from polyarch.dockerfile.dump import dump

    tree = dump(parse(file.read(), file=file.name))
    print(json.dumps(tree, indent=2))
