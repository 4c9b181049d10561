"""Several stores read as one: the first that has it answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import BinaryIO

from polyarch.content.naming import missing
from polyarch.content.store import Store
from polyarch.errors import NotFoundError
from polyarch.oci.descriptor import Descriptor


class Chain:
    """Reads from ``stores`` in order; writes go to the first.

    For an image whose own layers are local while those of its base are still in a registry.
    """

    def __init__(self, stores: Sequence[Store]) -> None:
        self._stores = tuple(stores)

    def exists(self, digest: str) -> bool:
        return any(store.exists(digest) for store in self._stores)

    def open(self, wanted: Descriptor) -> BinaryIO:
        for store in self._stores:
            try:
                return store.open(wanted)
            except NotFoundError:
                continue
        raise missing(wanted.digest, "any of its stores")

    def push(self, source: BinaryIO, expected: Descriptor) -> None:
        if not self.exists(expected.digest):
            self._stores[0].push(source, expected)

    def resolve(self, reference: str) -> Descriptor:
        for store in self._stores:
            try:
                return store.resolve(reference)
            except NotFoundError:
                continue
        raise missing(reference, "any of its stores")

    def tag(self, reference: str, target: Descriptor) -> None:
        self._stores[0].tag(reference, target)
