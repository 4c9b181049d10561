"""Where a build cache is written: a tag in a registry, a directory, the Actions cache."""

from __future__ import annotations

import fcntl
import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from polyarch.content.layout import Layout
from polyarch.content.names import REF_NAME
from polyarch.content.store import Store
from polyarch.errors import NotFoundError, RegistryError
from polyarch.image import cache_table
from polyarch.oci import media_types
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Raw
from polyarch.oci.reference import Reference


class Target:
    """A store and a name in it."""

    store: Store
    patience = 0.0  # seconds after which others that wrote at the same time have been seen
    refuses_gaps = False  # whether the store itself says so when a manifest's layers are gone

    def resolve(self) -> Descriptor | None:
        """What the name leads to."""
        raise NotImplementedError

    def name(self, index: Raw) -> None:
        """Let the name lead to ``index``, whose parts are there; unless somebody else was faster."""
        raise NotImplementedError

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep others out, where that is possible."""
        yield


class TagTarget(Target):
    """A tag in a registry."""

    refuses_gaps = True

    def __init__(self, store: Store, reference: Reference) -> None:
        self.store = store
        self._tag = reference.tag or "latest"

    def resolve(self) -> Descriptor | None:
        try:
            return self.store.resolve(self._tag)
        except NotFoundError:
            return None

    def name(self, index: Raw) -> None:
        started = time.monotonic()
        self.store.tag(self._tag, index.descriptor)
        self.patience = max(0.15, 3 * (time.monotonic() - started)) + random.uniform(0, 0.1)


class DirectoryTarget(Target):
    """An OCI layout on disk, as BuildKit's local cache is one."""

    def __init__(self, layout: Layout, tag: str) -> None:
        self.store = self._layout = layout
        self._tag = tag

    def resolve(self) -> Descriptor | None:
        try:
            return self._layout.resolve(self._tag)
        except NotFoundError:
            return None

    def name(self, index: Raw) -> None:
        self._layout.publish(msgspec.structs.replace(index.descriptor, annotations={REF_NAME: self._tag}))

    @contextmanager
    def held(self) -> Iterator[None]:
        self._layout.push_bytes(cache_table.EMPTY, media_types.OCI_EMPTY)  # makes the folder a layout
        lock = os.open(self._layout.root / "oci-layout", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


class ServiceTarget(Target):
    """A name in the Actions cache, where of two that write at the same time one is told so."""

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self._name = name

    def resolve(self) -> Descriptor | None:
        try:
            return self.store.resolve(self._name)
        except NotFoundError:
            return None

    def name(self, index: Raw) -> None:
        try:
            self.store.tag(self._name, index.descriptor)
        except RegistryError as error:
            if error.reason != "cache-conflict":
                raise
