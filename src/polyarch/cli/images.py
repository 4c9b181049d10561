"""The verbs on images of the local store: images, tag, rmi, pull, push, save, load."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from polyarch.cli.goflags import GoCommand

if TYPE_CHECKING:
    from polyarch.image.local import LocalImage
    from polyarch.oci.reference import Reference

_PROGRESS = click.option(
    "--progress", default="auto", metavar="auto|tty|plain|quiet|rawjson", help="How progress is shown."
)
_QUIET = click.option("-q", "--quiet", is_flag=True, help="Show no progress.")


@click.command(cls=GoCommand)
@click.argument("name", default="")
@click.option("--format", "form", default="table", metavar="table|json|TEMPLATE", help="How to show images.")
@click.option("--digests", is_flag=True, help="Show whole digests.")
@click.option("--no-trunc", is_flag=True, help="Shorten nothing.")
@click.option("-q", "--quiet", is_flag=True, help="Show digests only.")
def images(*, name: str, form: str, digests: bool, no_trunc: bool, quiet: bool) -> None:
    """List the images of the local store, or those called NAME.

    A template sees .Names, .Repository, .Tag, .ID, .Digest, .Platforms, .Size, .CreatedAt, .CreatedSince.
    """
    from polyarch.cli.tables import table
    from polyarch.content.layout import Layout
    from polyarch.content.state import State
    from polyarch.image import local

    found = [image for image in local.images(Layout(State.default().content)) if _matches(image, name)]
    if quiet:
        for image in found:
            print(image.descriptor.digest if digests or no_trunc else _short(image.descriptor.digest))
        return
    rows = [_row(image, whole=digests or no_trunc) for image in found]
    match form:
        case "table":
            header = ("IMAGE", "DIGEST", "PLATFORMS", "SIZE", "CREATED")
            print(table(header, [cells for row in rows for cells in _cells(row)]))
        case "json":
            from polyarch.cli.govalues import to_json

            for row in rows:
                print(to_json(row))
        case _:
            from polyarch.cli.govalues import Struct
            from polyarch.cli.template import Template

            template = Template(form.removeprefix("table "))
            for row in rows:
                print(template.render(Struct("image", row, row)))


@click.command(cls=GoCommand)
@click.argument("source")
@click.argument("names", nargs=-1, required=True)
def tag(*, source: str, names: tuple[str, ...]) -> None:
    """Give the image SOURCE of the local store more names."""
    from polyarch.content.state import State
    from polyarch.image.locate import locate
    from polyarch.registry.client import Client

    references = [_taggable(name) for name in names]
    with Client() as client:
        found = locate(source, state=State.default(), client=client, remote=False)
        for reference in references:
            found.store.tag(str(reference), found.descriptor)


@click.command(cls=GoCommand)
@click.argument("names", nargs=-1, required=True)
@click.option(
    "-f", "--force", is_flag=True, help="Remove all names of an image, and do not mind missing ones."
)
def rmi(*, names: tuple[str, ...], force: bool) -> int:
    """Remove names of images, or images by digest, from the local store."""
    from polyarch.cli.failure import report
    from polyarch.content.layout import Layout
    from polyarch.content.state import State
    from polyarch.errors import NotFoundError, PolyarchError
    from polyarch.image import local

    layout = Layout(State.default().content)
    worst = 0
    for name in names:
        try:
            for gone in local.forget(layout, name, force=force):
                print(f"Deleted: {gone}" if gone.startswith("sha256:") else f"Untagged: {gone}")
        except PolyarchError as error:
            if not (force and isinstance(error, NotFoundError)):
                worst = max(worst, report(error))
    return worst


@click.command(cls=GoCommand)
@click.argument("names", nargs=-1, required=True)
@click.option("--platform", "platforms", multiple=True, metavar="P[,P…]", help="Only these platforms.")
@click.option("--all-platforms", is_flag=True, help="Every platform there is (the default).")
@_QUIET
@_PROGRESS
def pull(
    *, names: tuple[str, ...], platforms: tuple[str, ...], all_platforms: bool, quiet: bool, progress: str
) -> None:
    """Pull images, every platform of them, into the local store."""
    from polyarch.builder.quota import keep_within
    from polyarch.cli.progress import shown
    from polyarch.content.state import State
    from polyarch.export.progress import reporter
    from polyarch.image import local
    from polyarch.image.locate import local_store
    from polyarch.oci.platform import parse_list
    from polyarch.oci.reference import Reference
    from polyarch.registry.client import Client

    wanted = () if all_platforms else parse_list(platforms)
    references = [Reference.parse(name.removeprefix("docker-image://")) for name in names]
    with Client() as client, shown("quiet" if quiet else progress) as events:
        store = local_store(State.default(), client)
        keep_within(State.default(), store.layout)
        for reference in references:
            with reporter(f"pulling {reference}", events).running() as report:
                target = local.pull(reference, store, client, platforms=wanted, progress=report.transferred)
            print(f"{reference}@{target.digest}" if not reference.digest else str(reference))


@click.command(cls=GoCommand)
@click.argument("names", nargs=-1, required=True)
@click.option("-a", "--all-tags", is_flag=True, help="Push every tag of the repository.")
@click.option(
    "--if-tag-is", "expected", default="", metavar="DIGEST|none", help="Push only if the tag names this now."
)
@_QUIET
@_PROGRESS
def push(*, names: tuple[str, ...], all_tags: bool, expected: str, quiet: bool, progress: str) -> None:
    """Push images of the local store, every platform of them. The tags are written last."""
    from polyarch.cli.progress import shown
    from polyarch.content.state import State
    from polyarch.export import push as pushing
    from polyarch.image.locate import locate
    from polyarch.proof.tag_guard import guard
    from polyarch.registry.client import Client

    state = State.default()
    with Client() as client, shown("quiet" if quiet else progress) as events:
        for reference in _all_tags(names) if all_tags else [_taggable(name) for name in names]:
            found = locate(str(reference), state=state, client=client, remote=False)
            check = guard(client, [reference], expected)
            (pushed,) = pushing.push(
                found.store, found.descriptor, [reference], client=client, before_tags=check, progress=events
            )
            print(f"{pushed.name}@{found.descriptor.digest} ({found.descriptor.size} bytes)")


@click.command(cls=GoCommand)
@click.argument("names", nargs=-1, required=True)
@click.option(
    "-o", "--output", "destination", default="-", metavar="FILE", help="Where to (default: stdout)."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["auto", "oci", "docker"]),
    default="auto",
    help="oci holds every platform; docker one. [default: docker for single platforms, else oci]",
)
@click.option("--platform", default="", metavar="P", help="Only this platform.")
def save(*, names: tuple[str, ...], destination: str, form: str, platform: str) -> None:
    """Save images to an archive that docker, podman and polyarch can load."""
    from polyarch.content.chain import Chain
    from polyarch.content.state import State
    from polyarch.content.walk import select
    from polyarch.export import archives
    from polyarch.export.archives import Content
    from polyarch.export.destination import writing
    from polyarch.image.locate import locate
    from polyarch.oci.media_types import INDEXES
    from polyarch.oci.platform import parse_known
    from polyarch.registry.client import Client

    wanted = parse_known(platform) if platform else None
    with Client() as client:
        contents: dict[str, Content] = {}
        stores = []
        for name in names:
            found = locate(name, state=State.default(), client=client, remote=False)
            target = found.descriptor
            if wanted is not None:
                target = select(found.store, target, wanted)
            named = [*contents[target.digest].names] if target.digest in contents else []
            contents[target.digest] = Content(target, [*named, *_names(found.name)])
            stores.append(found.store)
        single = all(content.descriptor.media_type not in INDEXES for content in contents.values())
        docker = form == "docker" or (form == "auto" and single)
        write = archives.write_docker if docker else archives.write_oci
        with writing(destination) as sink:
            write(Chain(stores), list(contents.values()), sink)


@click.command(cls=GoCommand)
@click.option("-i", "--input", "source", default="-", metavar="FILE", help="The archive (default: stdin).")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing.")
def load(*, source: str, quiet: bool) -> None:
    """Load images from an archive of docker, podman or polyarch into the local store."""
    from polyarch.builder.quota import keep_within
    from polyarch.content.layout import Layout
    from polyarch.content.state import State
    from polyarch.errors import UsageError
    from polyarch.image import local
    from polyarch.image.archive import ArchiveStore

    if source == "-" and sys.stdin.isatty():
        raise UsageError(
            "an archive is expected on standard input, but it is a terminal",
            hint="give a file with -i FILE, or redirect standard input",
            reason="terminal",
        )
    stdin = sys.stdin.buffer
    with (
        ArchiveStore.from_stream(stdin, "standard input")
        if source == "-"
        else ArchiveStore.open_file(Path(source))
    ) as archive:
        layout = Layout.local(State.default())
        keep_within(State.default(), layout)
        for image in local.load(archive, layout):
            for name in image.names or (f"sha256:{image.descriptor.digest[7:]}",):
                if not quiet:
                    print(f"Loaded image: {_familiar(name)}")


# --- inside -------------------------------------------------------------------------------------------------


def _taggable(name: str) -> Reference:
    from polyarch.errors import UsageError
    from polyarch.oci.reference import Reference

    reference = Reference.parse(name)
    if reference.digest:
        raise UsageError(
            f"{name} has a digest, and a digest cannot be chosen",
            hint="write a name with a tag, such as registry.example.com/team/app:1.0",
            reason="invalid-reference",
        )
    return reference


def _all_tags(names: tuple[str, ...]) -> list[Reference]:
    from polyarch.content.layout import Layout
    from polyarch.content.state import State
    from polyarch.errors import NotFoundError, UsageError
    from polyarch.image import local
    from polyarch.oci.reference import Reference

    layout = Layout(State.default().content)
    found = []
    for name in names:
        repository = Reference.parse(name)
        if repository.digest or repository.tag != "latest" or name.endswith(":latest"):
            raise UsageError("tag can't be used with --all-tags/-a", reason="invalid-reference")
        tags = local.named(layout, repository)
        if not tags:
            raise NotFoundError(f"{repository.name} has no tags in the local store", reason="not-found")
        found += tags
    return found


def _reference(text: str) -> Reference | None:
    from polyarch.errors import UsageError
    from polyarch.oci.reference import Reference

    try:
        return Reference.parse(text)
    except UsageError:
        return None  # a digest, or a place on disk


def _names(text: str) -> list[Reference]:
    """``text`` as a name that an archive can give."""
    reference = _reference(text)
    return [reference.with_tag(reference.tag)] if reference and reference.tag else []


def _familiar(name: str) -> str:
    reference = _reference(name)
    return reference.familiar if reference else name


def _short(digest: str) -> str:
    return digest.partition(":")[2][:12]


def _matches(image: LocalImage, name: str) -> bool:
    """Whether ``name`` is one of the image's names, its repository, or the beginning of its digest."""
    if not name:
        return True
    if len(name) >= 6 and image.descriptor.digest.removeprefix("sha256:").startswith(
        name.removeprefix("sha256:")
    ):
        return True
    return any(
        name in (text, reference.familiar, reference.name, reference.with_tag("").familiar)
        for text in image.names
        if (reference := _reference(text)) is not None
    )


def _row(image: LocalImage, *, whole: bool) -> dict[str, Any]:
    from polyarch.cli.tables import age, size

    first = _reference(image.names[0]) if image.names else None
    digest = image.descriptor.digest
    return {
        "Names": [_familiar(name) for name in image.names],
        "Repository": first.with_tag("").familiar if first else "<none>",
        "Tag": (first.tag if first else "") or "<none>",
        "ID": digest if whole else _short(digest),
        "Digest": digest,
        "Platforms": [str(platform) for platform in image.platforms],
        "Size": size(image.size),
        "SizeBytes": image.size,
        "CreatedAt": image.created,
        "CreatedSince": age(image.created),
        "Problem": image.problem,
    }


def _cells(row: dict[str, Any]) -> list[list[str]]:
    """A line for each name, as docker has it."""
    platforms = ", ".join(row["Platforms"]) or row["Problem"]
    rest = [row["ID"], platforms, row["Size"], row["CreatedSince"]]
    return [[name, *rest] for name in row["Names"] or ["<none>"]]
