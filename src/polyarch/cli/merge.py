"""``polyarch merge``: parts that were built on several machines become one image, or nothing does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from polyarch.cli.goflags import GoCommand

if TYPE_CHECKING:
    from polyarch.merging import Merged, MergeRequest

_MANY: dict[str, Any] = {"multiple": True}
_KINDS = ["revision", "context", "dockerfile", "target", "arguments", "bases", "contexts"]


@click.command(cls=GoCommand)
@click.argument("folders", nargs=-1, required=True, metavar="PARTS...")
@click.option("-t", "--tag", "tags", metavar="NAME[:TAG]", help="What to call the whole.", **_MANY)
@click.option("--push", "push", is_flag=True, help="Push it. [default: into the local store]")
@click.option("--platform", "platforms", metavar="P[,P…]", help="What the whole has to have.", **_MANY)
@click.option("--annotation", "annotations", metavar="[index:]KEY=VALUE", help="Annotate it.", **_MANY)
@click.option(
    "--accept", "accepted", type=click.Choice(_KINDS), help="Join parts that differ in this.", **_MANY
)
@click.option(
    "--if-tag-is", "expected", default="", metavar="DIGEST|none", help="Only if the tags name this."
)
@click.option(
    "--proof", type=click.Choice(["strict", "default", "off"]), default="default", show_default=True
)
@click.option("--proof-ignore", "ignore", metavar="PATTERN", help="Accept this rule.", **_MANY)
@click.option("--metadata-file", metavar="FILE", help="Write what was joined, as JSON.")
@click.option("--dry-run", is_flag=True, help="Print the index and push nothing.")
@click.option("--progress", default="auto", metavar="auto|tty|plain|quiet|rawjson")
def merge(
    *,
    folders: tuple[str, ...],
    tags: tuple[str, ...],
    push: bool,
    platforms: tuple[str, ...],
    annotations: tuple[str, ...],
    accepted: tuple[str, ...],
    expected: str,
    proof: str,
    ignore: tuple[str, ...],
    metadata_file: str | None,
    dry_run: bool,
    progress: str,
) -> None:
    """Join the parts in PARTS, which `polyarch build --part` left there, in one image.

    Only if they are complete, and made from the same commit, files, Dockerfile, arguments and base images;
    otherwise the error says what differs, and nothing is tagged. Content goes first, the tags last.

    \b
    polyarch build --platform linux/amd64 --part parts/ .        # on one machine
    polyarch build --platform linux/arm64 --part parts/ .        # on another
    polyarch merge parts/ -t registry.example.com/team/app:1.0 --push
    """
    from polyarch.cli.progress import shown
    from polyarch.merging import MergeRequest
    from polyarch.merging import merge as join
    from polyarch.oci.platform import parse_list
    from polyarch.proof.finding import Policy
    from polyarch.request import names_of

    request = MergeRequest(
        folders=tuple(Path(folder) for folder in folders),
        names=names_of(tags),
        push=push,
        wanted=parse_list(platforms),
        annotations=annotations,
        accepted=accepted,
        expected=expected,
        policy=Policy(proof, ignore),  # type: ignore[arg-type]  # one of its words
    )
    with shown(progress) as events:
        merged = join(request, events=events, dry_run=dry_run)
    for finding in merged.warnings:
        print(f"warning: {finding.rule}: {finding.platform}: {finding}", file=sys.stderr)
    if dry_run:
        sys.stdout.buffer.write(merged.combined.raw.data + b"\n")
        return
    print(f"joined {', '.join(map(str, merged.platforms))}", file=sys.stderr)
    for name in request.names:
        print(f"{name}@{merged.digest}")
    if metadata_file:
        _write_metadata(Path(metadata_file), merged, request)


def _write_metadata(path: Path, merged: Merged, request: MergeRequest) -> None:
    """buildx's keys."""
    import msgspec

    found = {
        "containerimage.descriptor": msgspec.to_builtins(merged.combined.raw.descriptor),
        "containerimage.digest": merged.digest,
        "image.name": ",".join(map(str, request.names)),
    }
    path.write_text(json.dumps(found, indent=2) + "\n")
