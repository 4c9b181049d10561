"""``polyarch manifest``: docker's view of manifests, its output to the byte, and its local manifest lists."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import click

from polyarch.cli.goflags import GoCommand

if TYPE_CHECKING:
    from collections.abc import Iterable

    from polyarch.content.store import Store
    from polyarch.image.inspect import Inspection, Variant
    from polyarch.oci.descriptor import Descriptor
    from polyarch.registry.client import Client

_INSECURE = click.option("--insecure", is_flag=True, help="Allow plain http and unknown certificates.")


@click.group()
def manifest() -> None:
    """Inspect, create and push manifests with docker's output."""


@manifest.command(cls=GoCommand)
@click.argument("names", nargs=-1, required=True)
@click.option("-v", "--verbose", is_flag=True, help="Show the manifest of every platform.")
@click.option("--remote", is_flag=True, help="Ask the registry even when the local store has it.")
@_INSECURE
def inspect(*, names: tuple[str, ...], verbose: bool, insecure: bool, remote: bool) -> None:
    """Show [LIST] MANIFEST as docker manifest inspect does."""
    from polyarch.cli.govalues import to_json
    from polyarch.cli.manifest_lists import ManifestLists
    from polyarch.content.state import State
    from polyarch.errors import UsageError
    from polyarch.image.inspect import inspect as look
    from polyarch.image.locate import locate
    from polyarch.oci.reference import Reference

    if len(names) > 2:
        raise UsageError("give a manifest, or a list and a manifest", reason="usage")
    state = State.default()
    name = names[-1]
    drafts = ManifestLists(state)
    with _client(name, insecure=insecure) as client:
        if draft := drafts.find(Reference.parse(names[0]) if "://" not in names[0] else None):
            if len(names) == 2:
                chosen = draft.entry(Reference.parse(names[1]))
                print(to_json(_descriptor(chosen.descriptor), indent="\t"))
            else:
                print(to_json(_index(draft.raw().index.manifests, draft.raw().media_type), indent=3))
            return
        found = locate(name, state=state, client=client, local=not remote)
        image = look(found.store, found.descriptor, name=found.name)
        described = _every_variant(image, found.store) if verbose else []
    if verbose:
        shown = [_verbose(image, variant) for variant in described]
        print(to_json(shown if image.is_index else shown[0], indent="\t"))
    elif image.is_index:
        print(to_json(_index(image.raw.index.manifests, image.raw.media_type), indent=3))
    else:
        print(to_json(_manifest(image.variants[0]), indent="\t"))


@manifest.command(cls=GoCommand)
@click.argument("name")
@click.argument("manifests", nargs=-1, required=True)
@click.option("-a", "--amend", is_flag=True, help="Change a list that is there.")
@_INSECURE
def create(*, name: str, manifests: tuple[str, ...], amend: bool, insecure: bool) -> None:
    """Create the local manifest list NAME of MANIFESTS, to be annotated and pushed."""
    from polyarch.cli.manifest_lists import ManifestLists
    from polyarch.content.state import State
    from polyarch.oci.reference import Reference

    reference = Reference.parse(name)
    state = State.default()
    with _client(name, *manifests, insecure=insecure) as client:
        ManifestLists(state).create(reference, manifests, client=client, amend=amend)
    print(f"Created manifest list {reference.familiar}")


@manifest.command(cls=GoCommand)
@click.argument("name")
@click.argument("member")
@click.option("--os", "os_name", default="", help="Set the operating system.")
@click.option("--arch", default="", help="Set the architecture.")
@click.option("--variant", default="", help="Set the architecture's variant.")
@click.option("--os-version", default="", help="Set the operating system's version.")
@click.option("--os-features", multiple=True, help="Set features of the operating system.")
def annotate(
    *,
    name: str,
    member: str,
    os_name: str,
    arch: str,
    variant: str,
    os_version: str,
    os_features: tuple[str, ...],
) -> None:
    """Say more about MEMBER of the local manifest list NAME."""
    from polyarch.cli.manifest_lists import ManifestLists
    from polyarch.content.state import State
    from polyarch.oci.reference import Reference

    changes: dict[str, Any] = {
        "os": os_name,
        "architecture": arch,
        "variant": variant,
        "os_version": os_version,
        "os_features": tuple(word for text in os_features for word in text.split(",")),
    }
    given = {key: value for key, value in changes.items() if value}
    ManifestLists(State.default()).annotate(Reference.parse(name), Reference.parse(member), given)


@manifest.command(cls=GoCommand)
@click.argument("name")
@click.option("-p", "--purge", is_flag=True, help="Remove the local list afterwards.")
@_INSECURE
def push(*, name: str, purge: bool, insecure: bool) -> None:
    """Push the local manifest list NAME and everything in it."""
    from polyarch.cli.manifest_lists import ManifestLists
    from polyarch.content.state import State
    from polyarch.oci.reference import Reference

    reference = Reference.parse(name)
    lists = ManifestLists(State.default())
    with _client(name, *lists.sources(reference), insecure=insecure) as client:
        print(lists.push(reference, client=client))
    if purge:
        lists.remove(reference)


@manifest.command(cls=GoCommand)
@click.argument("names", nargs=-1, required=True)
def rm(*, names: tuple[str, ...]) -> None:
    """Remove local manifest lists."""
    from polyarch.cli.manifest_lists import ManifestLists
    from polyarch.content.state import State
    from polyarch.oci.reference import Reference

    for name in names:
        ManifestLists(State.default()).remove(Reference.parse(name))


# --- inside -------------------------------------------------------------------------------------------------


def _client(*names: str, insecure: bool) -> Client:
    from dataclasses import replace

    from polyarch.oci.reference import Reference
    from polyarch.registry.client import Client
    from polyarch.registry.config import Config

    config = Config.from_environment()
    if insecure:
        hosts = {Reference.parse(name).registry for name in names if "://" not in name}
        config = replace(config, insecure=config.insecure | hosts)
    return Client(config=config)


def _every_variant(image: Inspection, store: Store) -> list[Variant]:
    """The variants and, as docker has it, the attestations, in the index's order."""
    from polyarch.content.verify import read_manifest
    from polyarch.image.inspect import Variant
    from polyarch.oci.config import ImageConfig

    if not image.is_index:
        return list(image.variants)
    found = {variant.descriptor.digest: variant for variant in image.variants}
    for entry in image.attestations:
        found[entry.digest] = Variant(entry.platform, entry, read_manifest(store, entry), ImageConfig(), b"")
    order = {entry.digest: place for place, entry in enumerate(image.raw.index.manifests)}
    return sorted(found.values(), key=lambda v: order.get(v.descriptor.digest, len(order)))


def _index(entries: Iterable[Descriptor], media_type: str) -> dict[str, Any]:
    """An index with the fields, and in the order, docker's library has."""
    shown = []
    for entry in entries:
        one: dict[str, Any] = {"mediaType": entry.media_type, "size": entry.size, "digest": entry.digest}
        if entry.urls:
            one["urls"] = list(entry.urls)
        one["platform"] = _platform(entry)
        shown.append(one)
    return {"schemaVersion": 2, "mediaType": media_type, "manifests": shown}


def _platform(entry: Descriptor) -> dict[str, Any]:
    if entry.platform is None:
        return {"architecture": "", "os": ""}
    found = entry.platform
    shown: dict[str, Any] = {"architecture": found.architecture, "os": found.os}
    if found.os_version:
        shown["os.version"] = found.os_version
    if found.os_features:
        shown["os.features"] = list(found.os_features)
    if found.variant:
        shown["variant"] = found.variant
    return shown


def _descriptor(value: Descriptor) -> dict[str, Any]:
    shown: dict[str, Any] = {"mediaType": value.media_type, "digest": value.digest, "size": value.size}
    if value.urls:
        shown["urls"] = list(value.urls)
    if value.annotations:
        shown["annotations"] = dict(sorted(value.annotations.items()))
    if value.platform is not None:
        shown["platform"] = _platform(value)
    return shown


def _manifest(variant: Variant) -> dict[str, Any]:
    found = variant.raw.manifest
    shown: dict[str, Any] = {
        "schemaVersion": found.schema_version,
        "mediaType": variant.raw.media_type,
        "config": _descriptor(found.config),
        "layers": [_descriptor(layer) for layer in found.layers],
    }
    if found.annotations:
        shown["annotations"] = dict(sorted(found.annotations.items()))
    return shown


def _verbose(image: Inspection, variant: Variant) -> dict[str, Any]:
    from polyarch.oci import media_types

    base = image.name.partition("@")[0]
    name = f"{base}@{variant.raw.digest}" if image.is_index else image.name
    described = {
        "mediaType": variant.raw.media_type,
        "digest": variant.raw.digest,
        "size": len(variant.raw.data),
    }
    kind = "OCIManifest" if variant.raw.media_type == media_types.OCI_MANIFEST else "SchemaV2Manifest"
    if variant.platform is not None:
        import msgspec

        described["platform"] = _platform(
            msgspec.structs.replace(variant.descriptor, platform=variant.platform)
        )
    return {
        "Ref": name,
        "Descriptor": described,
        "Raw": base64.b64encode(variant.raw.data).decode(),
        kind: _manifest(variant),
    }
