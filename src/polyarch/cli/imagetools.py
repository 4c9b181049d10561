"""``polyarch imagetools``: look into images and make indexes out of them, as ``docker buildx imagetools``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from polyarch.cli.goflags import GoCommand

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyarch.content.state import State
    from polyarch.export.annotations import Annotation
    from polyarch.image.combine import Source
    from polyarch.image.inspect import Inspection, Variant
    from polyarch.image.locate import Located
    from polyarch.oci.reference import Reference
    from polyarch.registry.client import Client

_DEFAULT = "{{.Manifest}}"
_INDENT = "  "


@click.group()
def imagetools() -> None:
    """Inspect and create image indexes."""


@imagetools.command(cls=GoCommand)
@click.argument("name")
@click.option("--raw", is_flag=True, help="Print the index or manifest as it is, byte for byte.")
@click.option("--format", "form", default=_DEFAULT, metavar="TEMPLATE", help="A Go template.")
@click.option("--remote", is_flag=True, help="Ask the registry even when the local store has NAME.")
@click.option("--local", "only_local", is_flag=True, help="Look in the local store only.")
@click.option("--builder", hidden=True)
def inspect(*, name: str, raw: bool, form: str, remote: bool, only_local: bool, builder: str | None) -> None:
    """Show an image: its index, and every platform with digest, size, layers and config.

    NAME is looked up in the local store, then in its registry; oci-layout://PATH[:TAG] and oci-archive:FILE
    are read from disk. Templates see .Name, .Manifest and .Image; {{json .}} shows everything.
    """
    from polyarch.cli.imagedata import inputs
    from polyarch.cli.template import Template
    from polyarch.content.state import State
    from polyarch.content.verify import read_manifest
    from polyarch.image.inspect import inspect as look
    from polyarch.image.locate import locate
    from polyarch.registry.client import Client

    template = Template(form, {"json": _json}) if form != _DEFAULT else None
    with Client() as client:
        found = locate(name, state=State.default(), client=client, local=not remote, remote=not only_local)
        if raw:
            sys.stdout.flush()
            sys.stdout.buffer.write(read_manifest(found.store, found.descriptor).data)
            sys.stdout.buffer.flush()
            return
        image = look(found.store, found.descriptor, name=found.name)
    if template is not None:
        click.echo(template.render(inputs(image, found.name)), nl=False)
        return
    print(text_of(image))
    if found.is_local:
        print("(from the local store; --remote asks the registry)", file=sys.stderr)


@imagetools.command(cls=GoCommand)
@click.argument("sources", nargs=-1)
@click.option("-t", "--tag", "tags", multiple=True, metavar="NAME", help="What to call the result.")
@click.option(
    "-f", "--file", "files", multiple=True, metavar="FILE", help="Read a source descriptor from FILE."
)
@click.option("--append", is_flag=True, help="Add to what the first tag names now.")
@click.option("--annotation", "annotations", multiple=True, metavar="[index:]KEY=VALUE", help="Annotate it.")
@click.option("-p", "--platform", "platforms", multiple=True, metavar="P[,P…]", help="Only these platforms.")
@click.option(
    "--prefer-index/--no-prefer-index",
    default=True,
    help="Wrap a single manifest in an index rather than copy it. [default: yes]",
)
@click.option(
    "--if-tag-is", "expected", default="", metavar="DIGEST|none", help="Push only if the tags name this now."
)
@click.option("--dry-run", is_flag=True, help="Print the result instead of pushing it.")
@click.option("--progress", default="auto", metavar="auto|tty|plain|quiet|rawjson")
@click.option("--builder", hidden=True)
def create(
    *,
    sources: tuple[str, ...],
    tags: tuple[str, ...],
    files: tuple[str, ...],
    append: bool,
    annotations: tuple[str, ...],
    platforms: tuple[str, ...],
    prefer_index: bool,
    expected: str,
    dry_run: bool,
    progress: str,
    builder: str | None,
) -> None:
    """Make one index out of images in registries, the local store or on disk, and push it.

    Every part is copied, or mounted, to where it is needed; the tags are written last.
    """
    from polyarch.cli.progress import shown
    from polyarch.content.state import State
    from polyarch.errors import UsageError
    from polyarch.export import push as pushing
    from polyarch.export.annotations import parse_all, select
    from polyarch.image.combine import combine
    from polyarch.oci.platform import parse_list
    from polyarch.oci.reference import Reference
    from polyarch.proof.tag_guard import guard
    from polyarch.registry.client import Client

    wanted = [Reference.parse(tag) for tag in tags]
    if not wanted and not dry_run:
        raise UsageError(
            "no name for the result", hint="add -t NAME, or --dry-run to see it", reason="no-name"
        )
    if append and not wanted:
        raise UsageError("--append needs a tag to append to", hint="add -t NAME", reason="no-name")
    found = parse_all(_as_index(text) for text in annotations)
    _check_levels(found)
    with Client() as client:
        state = State.default()
        combined = combine(
            _sources(sources, files, wanted[:1] if append else [], state, client),
            platforms=parse_list(platforms),
            annotations=select(found, "index"),
            descriptor_annotations=select(found, "manifest-descriptor"),
            prefer_index=prefer_index,
        )
        if dry_run:
            sys.stdout.flush()
            sys.stdout.buffer.write(combined.raw.data + b"\n")
            sys.stdout.buffer.flush()
            return
        check = guard(client, wanted, expected)
        with shown(progress) as events:
            pushed = pushing.push_combined(
                combined, wanted, client=client, before_tags=check, progress=events
            )
    for one in pushed:
        print(f"{one.name}@{one.descriptor.digest}")


# --- inside -------------------------------------------------------------------------------------------------


def text_of(found: Inspection) -> str:
    """What ``inspect`` prints: buildx's lines, and under each variant its size, config and layers."""
    from polyarch.cli.tables import tabbed
    from polyarch.content.walk import is_attestation

    head = tabbed([("Name:", found.name), ("MediaType:", found.raw.media_type), ("Digest:", found.digest)])
    if not found.is_index:
        return "\n".join([head, *_details(found.variants[0], "")])
    by_digest = {variant.descriptor.digest: variant for variant in found.variants}
    base = found.name.partition("@")[0]
    lines: list[tuple[str, str] | str] = []
    for entry in found.raw.index.manifests:
        if lines:
            lines.append(("", ""))
        lines.append((_INDENT + "Name:", f"{base}@{entry.digest}"))
        lines.append((_INDENT + "MediaType:", entry.media_type))
        if entry.platform is not None:
            lines.append((_INDENT + "Platform:", str(entry.platform)))
            if entry.platform.os_version:
                lines.append((_INDENT + "OSVersion:", entry.platform.os_version))
            if entry.platform.os_features:
                lines.append((_INDENT + "OSFeatures:", ", ".join(entry.platform.os_features)))
        if entry.annotations:
            lines.append((_INDENT + "Annotations:", ""))
            pairs = [(_INDENT * 2 + key + ":", value) for key, value in sorted(entry.annotations.items())]
            lines += tabbed(pairs).splitlines()
        if variant := by_digest.get(entry.digest):
            lines += _details(variant, _INDENT)
        elif not is_attestation(entry):
            lines.append((_INDENT + "Content:", "not here"))
    return f"{head}\n{' ' * 11}\nManifests: \n{tabbed(lines)}"


def _details(variant: Variant, indent: str) -> list[str]:
    """What buildx does not show. Columns of their own, so that its lines stay as they are."""
    import shlex

    from polyarch.cli.tables import size, tabbed

    lines: list[tuple[str, str] | str] = []
    if not indent and variant.platform is not None:
        lines.append(("Platform:", str(variant.platform)))
    lines.append((indent + "Size:", size(variant.size)))
    lines.append((indent + "Config:", variant.raw.manifest.config.digest))
    config = variant.config.config
    if config is not None:
        for label, words in (("Entrypoint:", config.entrypoint), ("Cmd:", config.cmd)):
            if words:
                lines.append((indent + label, shlex.join(words)))
        for label, text in (("User:", config.user), ("WorkingDir:", config.working_dir)):
            if text:
                lines.append((indent + label, text))
    lines.append((indent + "Layers:", str(len(variant.layers))))
    pairs = [(indent + _INDENT + layer.digest, size(layer.size)) for layer in variant.layers]
    return [*tabbed(lines).splitlines(), *tabbed(pairs).splitlines()]


def _json(value: object) -> str:
    from polyarch.cli.govalues import to_json

    return to_json(value, indent=2)


def _sources(
    texts: Sequence[str], files: Sequence[str], appended: Sequence[Reference], state: State, client: Client
) -> list[Source]:
    from polyarch.image.combine import Source

    found: list[Located] = []
    for reference in appended:
        repository = client.repository(reference)
        found.append(_located(repository, repository.resolve(reference.tag), str(reference)))
    for file in files:
        found.append(_from_file(Path(file), texts, client))
    if not files or len(texts) != 1:
        found += [_find(text, state, client) for text in texts]
    return [Source(one.store, one.descriptor, one.name) for one in found]


def _find(text: str, state: State, client: Client) -> Located:
    """A source: a descriptor as JSON, or anything ``inspect`` takes; the registry is asked first, because it
    is what tags of others are about."""
    from polyarch.errors import NotFoundError, RegistryError
    from polyarch.image.locate import locate

    if "://" in text or text.startswith("oci-archive:"):
        return locate(text, state=state, client=client)
    try:
        return locate(text, state=state, client=client, local=False)
    except (NotFoundError, RegistryError):
        try:
            return locate(text, state=state, client=client, remote=False)
        except NotFoundError:
            pass
        raise


def _from_file(path: Path, texts: Sequence[str], client: Client) -> Located:
    """A descriptor in a file (as from ``--metadata-file``), of the repository named by the one source."""
    from polyarch.errors import NotFoundError, UsageError
    from polyarch.oci.descriptor import Descriptor
    from polyarch.oci.manifest import decode
    from polyarch.oci.reference import Reference

    if len(texts) != 1:
        raise UsageError(
            f"the descriptor in {path} does not say in which repository it is",
            hint="name the repository as the only source",
            reason="no-repository",
        )
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise NotFoundError(f"there is no file {path}", reason="not-found") from None
    reference = Reference.parse(texts[0])
    descriptor = decode(data, Descriptor, "descriptor")
    return _located(client.repository(reference), descriptor, f"{reference.name}@{descriptor.digest}")


def _located(store: object, descriptor: object, name: str) -> Located:
    from polyarch.image.locate import Located

    return Located(store, descriptor, name)  # type: ignore[arg-type]


def _as_index(text: str) -> str:
    """An annotation without a type is the index's here: there is nothing else that could change."""
    return text if ":" in text.partition("=")[0] else f"index:{text}"


def _check_levels(found: Sequence[Annotation]) -> None:
    from polyarch.errors import UsageError

    for annotation in found:
        if annotation.level not in ("index", "manifest-descriptor"):
            raise UsageError(
                f"the annotation {annotation.key} cannot go to the {annotation.level}, which stays as it is",
                hint="use index: or manifest-descriptor:",
                reason="invalid-annotation",
            )
