"""The local store as those see it who need whole images: what it lacks is fetched from where it came from."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable
from pathlib import Path
from threading import Event
from typing import BinaryIO, Protocol

from polyarch.content.copy import Progress, Repository, copy
from polyarch.content.layout import Layout
from polyarch.content.store import Store
from polyarch.content.verify import verified
from polyarch.content.walk import children, is_manifest
from polyarch.errors import NotFoundError, PolyarchError
from polyarch.image.origins import Origins
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Raw
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference

LAYOUT_PREFIX = "oci-layout:"


class Repositories(Protocol):
    """What opens a registry's repository as a store: ``registry.client.Client``."""

    def repository(self, reference: Reference, /) -> Store: ...


class Held(Protocol):
    """Content that a node of the running build holds; gone when the build is over."""

    def exists(self, digest: str) -> bool: ...

    def open(self, wanted: Descriptor) -> BinaryIO: ...

    def deliver(self, wanted: Descriptor, target: Repository) -> bool:
        """Let the node put the content into ``target`` itself; whether that worked."""
        ...


class SparseStore:
    """A layout whose missing blobs are read from their origins. Writes and names are the layout's.

    ``held`` is what nodes hold while a build runs; they are asked before origins.
    """

    def __init__(self, layout: Layout, origins: Origins, client: Repositories) -> None:
        self.layout = layout
        self.origins = origins
        self.held: list[Held] = []
        self._client = client

    def exists(self, digest: str) -> bool:
        """Whether the layout has it, or an origin is known that should."""
        return (
            self.layout.exists(digest)
            or self._holder(digest) is not None
            or bool(self.origins.places(digest))
        )

    def deliver(self, wanted: Descriptor, target: Repository) -> bool:
        """See ``content.copy.Delivers``: what only a node holds it sends itself."""
        holder = None if self.layout.exists(wanted.digest) else self._holder(wanted.digest)
        return holder is not None and holder.deliver(wanted, target)

    def fetch_held(self, digests: Iterable[Descriptor]) -> None:
        """Take what only nodes hold into the layout."""
        for descriptor in digests:
            digest = descriptor.digest
            holder = self._holder(digest)
            if holder is None or self.layout.exists(digest) or self.origins.places(digest):
                continue
            with holder.open(descriptor) as source:
                self.layout.push(source, descriptor)

    def _holder(self, digest: str) -> Held | None:
        return next((one for one in self.held if one.exists(digest)), None)

    def open(self, wanted: Descriptor) -> BinaryIO:
        """From the layout, or the first origin that answers; NotFoundError names the origins asked."""
        try:
            return self.layout.open(wanted)
        except NotFoundError:
            holder = self._holder(wanted.digest)
            if holder is not None:
                return verified(holder.open(wanted), wanted, where="a node")
            places = self.origins.places(wanted.digest)
            if not places:
                raise
        failures = []
        for place in places:
            try:
                stream = self._origin(place).open(wanted)
                return self._followed(stream, wanted, place) if is_manifest(wanted) else stream
            except PolyarchError as error:
                failures.append(f"{place}: {error.summary}")
        raise NotFoundError(
            f"{wanted.digest} is neither in the local store nor where it came from",
            detail="\n".join(failures),
            hint="pull the base image again, or build again while its registry can be reached",
            reason="origin-gone",
        )

    def push(self, source: BinaryIO, expected: Descriptor) -> None:
        self.layout.push(source, expected)

    def resolve(self, reference: str) -> Descriptor:
        return self.layout.resolve(reference)

    def tag(self, reference: str, target: Descriptor) -> None:
        self.layout.tag(reference, target)

    def complete(
        self,
        root: Descriptor,
        *,
        platforms: Collection[Platform] | None = None,
        progress: Progress | None = None,
        cancelled: Event | None = None,
    ) -> None:
        """Fetch what the layout lacks of ``root`` (for ``platforms``, or all of it)."""
        copy(self, self.layout, root, platforms=platforms, progress=progress, cancelled=cancelled)

    def places(self, digests: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """Where those of ``digests`` can be had besides, for ``content.copy``'s mounts."""
        return self.origins.known(digests)

    def _followed(self, stream: BinaryIO, wanted: Descriptor, place: str) -> BinaryIO:
        """A manifest from an origin, which has what the manifest leads to as well."""
        with stream:
            data = stream.read()
        below = children(Raw.parse(data, wanted.media_type))
        self.origins.record({child.digest: (place,) for child in below})
        return io.BytesIO(data)

    def _origin(self, place: str) -> Store:
        if place.startswith(LAYOUT_PREFIX):
            return Layout(Path(place.removeprefix(LAYOUT_PREFIX)), create=False)
        return self._client.repository(Reference.parse(place))
