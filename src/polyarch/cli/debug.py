"""``polyarch debug``: what polyarch makes of a Dockerfile or a build, as JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, BinaryIO

import click

if TYPE_CHECKING:
    from polyarch.request import BuildRequest


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


def _build_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of ``build`` that decide what its graph is."""
    many: dict[str, Any] = {"multiple": True}
    for option in (
        click.option("--build-arg", "build_args", metavar="KEY[=VALUE]", **many),
        click.option("--build-context", "contexts", metavar="NAME=VALUE", **many),
        click.option("--target", default="", metavar="STAGE"),
        click.option("-f", "--file", "dockerfile", metavar="PATH"),
        click.option("--platform", "platform", metavar="P[,P…]", **many),
        click.argument("context", default="."),
    ):
        command = option(command)
    return command


def _request(options: dict[str, Any]) -> BuildRequest:
    from polyarch.cli.options import pairs
    from polyarch.graph.named import build_contexts
    from polyarch.oci.platform import parse_list
    from polyarch.request import BuildRequest

    return BuildRequest(
        context=options["context"],
        dockerfile=options["dockerfile"],
        platforms=parse_list(options["platform"]),
        target=options["target"],
        build_args=pairs("--build-arg", options["build_args"]),
        contexts=build_contexts(options["contexts"]),
    )


@debug.command()
@_build_options
def graph(**options: Any) -> None:
    """Print the graph of a build of CONTEXT: every vertex with its operation, inputs and name."""
    import json

    import msgspec

    from polyarch.pipeline import preview

    plan, _ = preview(_request(options))
    vertices = [
        {
            "digest": digest,
            "name": plan.graph.meta[digest].name,
            "for": [str(platform) for platform in plan.graph.meta[digest].targets],
            "inputs": [vertex.digest for vertex in vertex.inputs],
            "operation": msgspec.to_builtins(vertex.op),
        }
        for digest, vertex in plan.graph.vertices.items()
    ]
    targets = {str(t.platform): t.vertex.digest if t.vertex is not None else None for t in plan.targets}
    print(json.dumps({"vertices": vertices, "targets": targets}, indent=2))


@debug.command()
@_build_options
def key(**options: Any) -> None:
    """Print why each step of a build of CONTEXT would run, or that it is cached."""
    import json

    from polyarch.pipeline import preview

    _, steps = preview(_request(options))
    print(json.dumps([{"name": n, "how": how, "cache": verdict} for n, how, verdict in steps], indent=2))


@debug.command()
@_build_options
def plan(**options: Any) -> None:
    """Print the plan of a build of CONTEXT: stages, graph, and each target's strategy and configuration."""
    import json

    from polyarch.pipeline import preview
    from polyarch.plan_dump import dump_plan

    found, _ = preview(_request(options))
    print(json.dumps(dump_plan(found), indent=2))
