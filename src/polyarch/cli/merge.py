"""``polyarch merge``: parts that were built on several machines become one image, or nothing does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from polyarch.cli.goflags import GoCommand

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from polyarch.image.combine import Combined
    from polyarch.oci.platform import Platform
    from polyarch.oci.reference import Reference
    from polyarch.registry.client import Client

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
    from polyarch.export import joining
    from polyarch.export.annotations import parse_all, select
    from polyarch.oci.platform import parse_list
    from polyarch.proof.finding import Policy
    from polyarch.proof.tag_guard import guard
    from polyarch.registry.client import Client
    from polyarch.request import names_of

    names = names_of(tags)
    _check_usage(names, push=push, dry_run=dry_run)
    noted = parse_all(_as_index(text) for text in annotations)
    with Client() as client:
        found = joining.find_parts([Path(folder) for folder in folders], client)
        joining.check_source(found, accepted)
        wanted = parse_list(platforms)
        whole = joining.check_complete(found, wanted, () if wanted else _named(names, client, push=push))
        combined = joining.join(
            found,
            whole,
            annotations=select(noted, "index"),
            descriptor_annotations=select(noted, "manifest-descriptor"),
        )
        policy = Policy(proof, ignore)  # type: ignore[arg-type]  # one of its words
        for finding in joining.prove(found, combined, policy):
            print(f"warning: {finding.rule}: {finding.platform}: {finding}", file=sys.stderr)
        if dry_run:
            sys.stdout.buffer.write(combined.raw.data + b"\n")
            return

        if push:
            check = guard(client, names, expected)
            _push(combined, names, client, check, joining.origins_of(found), progress)
        else:
            _keep(combined, names, client)
    _tell(combined, names, whole)
    if metadata_file:
        Path(metadata_file).write_text(json.dumps(_metadata(combined, names), indent=2) + "\n")


def _as_index(text: str) -> str:
    """An annotation without a type is the index's: manifests stay as they are."""
    return text if ":" in text.partition("=")[0] else f"index:{text}"


def _check_usage(names: Sequence[Reference], *, push: bool, dry_run: bool) -> None:
    from polyarch.errors import UsageError

    if not names and not dry_run:
        raise UsageError(
            "no name for the whole", hint="add -t NAME, or --dry-run to see it", reason="no-name"
        )
    if push and not names:
        raise UsageError("tag is needed when pushing to registry", hint="add -t NAME", reason="no-name")


def _named(names: Sequence[Reference], client: Client, *, push: bool) -> list[tuple[str, list[Platform]]]:
    """The platforms that the tags have now, in the registry that will be pushed to."""
    from polyarch.content.verify import read_manifest
    from polyarch.content.walk import children, variants
    from polyarch.errors import NotFoundError

    found = []
    for name in names if push else ():
        repository = client.repository(name)
        try:
            raw = read_manifest(repository, repository.resolve(name.tag))
        except NotFoundError:
            continue
        if raw.is_index:
            there = [entry.platform for entry in variants(repository, children(raw)) if entry.platform]
            found.append((str(name), there))
    return found


def _push(
    combined: Combined,
    names: Sequence[Reference],
    client: Client,
    before_tags: Callable[[], None],
    origins: dict[str, tuple[str, ...]],
    progress: str,
) -> None:
    from polyarch.cli.progress import shown
    from polyarch.export.push import push_combined

    with shown(progress) as events:
        push_combined(
            combined, names, client=client, before_tags=before_tags, origins=origins, progress=events
        )


def _keep(combined: Combined, names: Sequence[Reference], client: Client) -> None:
    """Into the local store, under its names."""
    from polyarch.content.copy import copy
    from polyarch.content.layout import Layout
    from polyarch.content.state import State

    layout = Layout.local(State.default())
    for store, manifest in combined.parts:
        copy(store, layout, manifest)
    layout.push_bytes(combined.raw.data, combined.raw.media_type)
    for name in names:
        layout.tag(str(name), combined.raw.descriptor)


def _tell(combined: Combined, names: Sequence[Reference], whole: Sequence[Platform]) -> None:
    listed = ", ".join(str(platform) for platform in whole)
    print(f"joined {listed}", file=sys.stderr)
    for name in names:
        print(f"{name}@{combined.raw.digest}")


def _metadata(combined: Combined, names: Sequence[Reference]) -> dict[str, Any]:
    import msgspec

    return {
        "containerimage.descriptor": msgspec.to_builtins(combined.raw.descriptor),
        "containerimage.digest": combined.raw.digest,
        "image.name": ",".join(str(name) for name in names),
    }
