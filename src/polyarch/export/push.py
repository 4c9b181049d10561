"""A push is a transaction: blobs, manifests, index, all by digest; then proof; then the tags, each read back.

Interrupted anywhere, every tag still names what it named before.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Event
from typing import Protocol

from polyarch.content.copy import Progress, copy
from polyarch.content.store import Store
from polyarch.content.walk import is_foreign, is_manifest, walk
from polyarch.errors import RegistryError
from polyarch.export.progress import reporter
from polyarch.image.combine import Combined
from polyarch.image.sparse import SparseStore
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.reference import Reference
from polyarch.solver.events import EventSink


class Repositories(Protocol):
    """What opens repositories for pushing: ``registry.client.Client``."""

    def repository(self, reference: Reference, /) -> Store: ...


@dataclass(frozen=True)
class Pushed:
    """A name that names the image now, and whether it was read back (a push by digest has no name)."""

    name: str
    descriptor: Descriptor


def push(
    source: Store,
    root: Descriptor,
    references: Sequence[Reference],
    *,
    client: Repositories,
    by_digest: bool = False,
    before_tags: Callable[[], None] | None = None,
    progress: EventSink | None = None,
    cancelled: Event | None = None,
) -> list[Pushed]:
    """Put ``root`` behind every one of ``references``; content goes once to each repository.

    No tag anywhere is touched before all content is everywhere and ``before_tags`` has returned. With
    ``by_digest`` no tag is touched at all. RegistryError (``tag-differs``) where a tag, read back, names
    something else.
    """
    title = "pushing " + ", ".join(dict.fromkeys(str(reference) for reference in references))
    with reporter(title, progress).running() as report:
        repositories = upload(
            source, root, references, client=client, progress=report.transferred, cancelled=cancelled
        )
        if before_tags is not None:
            before_tags()
        with report.phase(f"pushing manifest {root.digest}"):
            return name(root, references, repositories, by_digest=by_digest)


def push_combined(
    combined: Combined,
    references: Sequence[Reference],
    *,
    client: Repositories,
    before_tags: Callable[[], None] | None = None,
    origins: Mapping[str, Sequence[str]] | None = None,
    progress: EventSink | None = None,
    cancelled: Event | None = None,
) -> list[Pushed]:
    """Put a combined index behind every one of ``references``: its parts are copied, or mounted, from where
    they are, then the index goes by digest, then, when ``before_tags`` has returned, the tags. An index may
    also go into the same repository as its parts, which then stay where they are. ``origins`` says for blobs
    in which repositories they are known to be."""
    root = combined.raw.descriptor
    title = "pushing " + ", ".join(dict.fromkeys(str(reference) for reference in references))
    with reporter(title, progress).running() as report:
        repositories: dict[str, Store] = {}
        sent = report.transferred
        for reference in _one_each(references):
            repository = repositories[reference.name] = client.repository(reference)
            for store, part in combined.parts:
                copy(store, repository, part, progress=sent, cancelled=cancelled, origins=origins)
            if not repository.exists(root.digest):
                repository.push(io.BytesIO(combined.raw.data), root)
        if before_tags is not None:
            before_tags()
        with report.phase(f"pushing manifest {root.digest}"):
            return name(root, references, repositories)


def upload(
    source: Store,
    root: Descriptor,
    references: Iterable[Reference],
    *,
    client: Repositories,
    progress: Progress | None = None,
    cancelled: Event | None = None,
) -> dict[str, Store]:
    """The first half of a push: all content, by digest. Returns each repository by its full name."""
    repositories: dict[str, Store] = {}
    origins = _origins(source, root)
    for reference in references:
        if reference.name in repositories:
            continue
        repository = client.repository(reference)
        copy(source, repository, root, progress=progress, cancelled=cancelled, origins=origins)
        repositories[reference.name] = repository
        # Further repositories of this registry take the blobs over from this one.
        origins = {digest: (*places, reference.name) for digest, places in origins.items()}
    return repositories


def name(
    root: Descriptor,
    references: Sequence[Reference],
    repositories: Mapping[str, Store],
    *,
    by_digest: bool = False,
) -> list[Pushed]:
    """The second half of a push: the tags, each read back. The content must be there."""
    if by_digest:
        return [Pushed(str(r.with_digest(root.digest)), root) for r in _one_each(references)]
    pushed = []
    for reference in references:
        if not reference.tag:
            pushed.append(Pushed(str(reference.with_digest(root.digest)), root))
            continue
        repository = repositories[reference.name]
        repository.tag(reference.tag, root)
        found = repository.resolve(reference.tag)
        if (found.digest, found.size) != (root.digest, root.size):
            raise RegistryError(
                f"{reference} was pushed as {root.digest}, but names {found.digest} when read back",
                hint="somebody else pushed this tag at the same time, or the registry lies; push again",
                reason="tag-differs",
            )
        pushed.append(Pushed(str(reference), root))
    return pushed


def _one_each(references: Sequence[Reference]) -> list[Reference]:
    return list({reference.name: reference for reference in references}.values())


def _origins(source: Store, root: Descriptor) -> dict[str, tuple[str, ...]]:
    """Every blob, and where it is known to be besides, so that the registry may mount it."""
    blobs = [d.digest for d in walk(source, root, sparse=True) if not is_manifest(d) and not is_foreign(d)]
    known = source.places(blobs) if isinstance(source, SparseStore) else {}
    return {digest: known.get(digest, ()) for digest in blobs}
