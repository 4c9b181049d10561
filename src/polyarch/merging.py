"""Parts that were built on several machines, joined in one image and put behind its names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from polyarch.content.copy import copy
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.content.walk import children, variants
from polyarch.errors import NotFoundError, UsageError
from polyarch.export import joining
from polyarch.export.annotations import parse_all, select
from polyarch.export.push import push_combined
from polyarch.image.combine import Combined
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.proof.finding import Finding, Policy
from polyarch.proof.tag_guard import guard
from polyarch.registry.client import Client
from polyarch.solver.events import EventSink, ignore


@dataclass(frozen=True)
class MergeRequest:
    """What is joined and what becomes of it. ``wanted`` are the platforms of the whole, empty for what the
    parts say; ``accepted`` the differences (``joining.DIFFERENCES``) that are meant; ``expected`` is what the
    names have to stand for, as ``tag_guard.parse`` takes it."""

    folders: tuple[Path, ...]
    names: tuple[Reference, ...] = ()
    push: bool = False
    wanted: tuple[Platform, ...] = ()
    annotations: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    expected: str = ""
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True)
class Merged:
    """The whole: its index, and the platforms in their order; ``warnings`` are the proof's."""

    combined: Combined
    platforms: tuple[Platform, ...]
    warnings: tuple[Finding, ...]

    @property
    def digest(self) -> str:
        """The digest of the index."""
        return self.combined.raw.digest


def merge(
    request: MergeRequest, *, state: State | None = None, events: EventSink = ignore, dry_run: bool = False
) -> Merged:
    """Join the parts and name the whole, in the local store or, with ``push``, in registries.

    With ``dry_run`` nothing is written. Raises PolyarchError (``parts-differ``, ``parts-missing``,
    ``tag-moved`` and others); every tag is then as it was.
    """
    if not request.names and not dry_run:
        raise UsageError("no name for the whole", hint="give it a tag", reason="no-name")
    if request.expected and not request.push:
        raise UsageError("what a tag names is asked for pushes alone", hint="--push", reason="invalid-option")
    noted = parse_all(_as_index(text) for text in request.annotations)
    with Client() as client:
        found = joining.find_parts(request.folders, client)
        joining.check_source(found, request.accepted)
        named = () if request.wanted or not request.push else list(_named(request.names, client))
        whole = joining.check_complete(found, request.wanted, named)
        combined = joining.join(
            found,
            whole,
            annotations=select(noted, "index"),
            descriptor_annotations=select(noted, "manifest-descriptor"),
        )
        warnings = joining.prove(found, combined, request.policy)
        if not dry_run and request.push:
            push_combined(
                combined,
                request.names,
                client=client,
                before_tags=guard(client, request.names, request.expected),
                origins=joining.origins_of(found),
                progress=events,
            )
        elif not dry_run:
            _keep(combined, request.names, state or State.default())
    return Merged(combined, tuple(whole), warnings)


def _as_index(text: str) -> str:
    """An annotation without a type is the index's: manifests stay as they are."""
    return text if ":" in text.partition("=")[0] else f"index:{text}"


def _named(names: Sequence[Reference], client: Client) -> Iterable[tuple[str, list[Platform]]]:
    """The platforms that the tags have now."""
    for name in names:
        repository = client.repository(name)
        try:
            _, raw = repository.manifest(name.tag)
        except NotFoundError:
            continue
        if raw.is_index:
            entries = variants(repository, children(raw))
            yield str(name), [entry.platform for entry in entries if entry.platform is not None]


def _keep(combined: Combined, names: Sequence[Reference], state: State) -> None:
    """Into the local store, under its names."""
    layout = Layout.local(state)
    for store, manifest in combined.parts:
        copy(store, layout, manifest)
    layout.push_bytes(combined.raw.data, combined.raw.media_type)
    for name in names:
        layout.tag(str(name), combined.raw.descriptor)
