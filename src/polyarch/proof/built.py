"""The proof of what was just built: with what is at hand, without fetching, and once for each result."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from polyarch.layer.distant import DistantLayer
from polyarch.layer.layer import Layer
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.store import LayerStore
from polyarch.layer.stored import StoredLayer
from polyarch.oci.config import ImageConfig
from polyarch.oci.platform import Platform
from polyarch.proof.evidence import Evidence
from polyarch.proof.finding import Finding
from polyarch.proof.labels import Contents, Label, check_alike, check_labels, raise_missing
from polyarch.proof.program import Program, of_stream

VERSION = 3  # of the rules: verdicts of others are not used
_CHEAP_BYTES = 4 << 20  # a compressed layer of a base that may be unpacked for the proof's sake


class Verdicts(Protocol):
    """Where verdicts are kept between builds: ``solver.cache.SqliteCache``."""

    def get(self, key: str) -> str | None: ...

    def put(self, key: str, record: str) -> None: ...


@dataclass(frozen=True)
class Built:
    """One variant as it was built; its lowest ``base_layers`` layers are the base image's."""

    platform: Platform
    rootfs: Rootfs
    config: ImageConfig
    base_layers: int = 0


def prove_built(built: Sequence[Built], layers: LayerStore, verdicts: Verdicts) -> tuple[Finding, ...]:
    """Everything found in all variants together. What was proved before is not looked at again.

    A base whose layers nobody fetched is not fetched for this: then only what lies above it is judged.
    """
    key = _key(built)
    known = verdicts.get(key)
    if known is not None:
        try:
            return msgspec.json.decode(known, type=tuple[Finding, ...])
        except msgspec.DecodeError:
            pass  # an unreadable verdict is none
    found = tuple(_prove(built, layers))
    verdicts.put(key, msgspec.json.encode(found).decode())
    return found


def _key(built: Sequence[Built]) -> str:
    hasher = hashlib.sha256(b"proof %d\n" % VERSION)
    for one in built:
        hasher.update(f"{one.platform.full()} {one.rootfs.id} {one.base_layers}\n".encode())
        hasher.update(one.config.encode())
    return "proof:" + hasher.hexdigest()


def _prove(built: Sequence[Built], layers: LayerStore) -> list[Finding]:
    from polyarch.proof.variant import prove

    found: list[Finding] = []
    contents = []
    for one in built:
        evidence = evidence_of(one, layers)
        found += prove(evidence)
        contents.append(Contents.of(evidence, max(0, one.base_layers - evidence.below)))
    labels = [
        Label(one.platform, one.config, tuple(layer.id for layer in one.rootfs.layers)) for one in built
    ]
    found += check_labels(labels)
    if len(built) > 1:
        found += check_alike(labels, contents)
    return raise_missing(found, [one.platform for one in built])


def evidence_of(one: Built, layers: LayerStore) -> Evidence:
    """What can be known of a variant without fetching or unpacking anything big."""
    stack = list(one.rootfs.layers)
    below = next((n for n in range(len(stack), 0, -1) if not _is_known(stack[n - 1], layers)), 0)
    rootfs = one.rootfs if not below else Rootfs(stack[below:])

    def read(path: str) -> Program | None:
        return _read(rootfs, path, layers)

    return Evidence(rootfs, one.config, one.platform, complete=not below, reader=read, below=below)


def _is_known(layer: Layer, layers: LayerStore) -> bool:
    """Whether the table of contents is there, or cheap to make."""
    if not isinstance(layer, StoredLayer) or layer.kind != "image" or isinstance(layer, DistantLayer):
        return True
    if layers.existing_tree(layer.id) is not None or _is_small(layer, layers):
        return True  # whoever made the tree has read the table of contents
    return layers.forms.toc(layer.id) is not None


def _is_small(layer: StoredLayer, layers: LayerStore) -> bool:
    return (
        layer.original is not None
        and layer.original.descriptor.size <= _CHEAP_BYTES
        and layers.at_hand(layer)
    )


def _read(rootfs: Rootfs, path: str, layers: LayerStore) -> Program | None:
    found = rootfs.content(path)
    if found is None:
        return None
    entry, number = found
    layer = rootfs.layers[number]
    tree = layers.existing_tree(layer.id)
    if tree is not None:
        try:
            with open(tree / entry.path, "rb") as file:
                return of_stream(file)
        except OSError:
            pass  # only the step's owner may read it
    big = isinstance(layer, StoredLayer) and layer.kind == "image" and not _is_small(layer, layers)
    if big and not isinstance(layer, DistantLayer):
        return None
    with layer.open(entry) as stream:
        return of_stream(stream)
