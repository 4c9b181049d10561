"""The store of layers: which forms of which layer there are, and how one is made from another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.content.store import Store
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.layer import Blob, Compression, Layer, Privilege
from polyarch.layer.rootfs import Rootfs
from polyarch.oci.descriptor import Descriptor


@dataclass(frozen=True)
class Upper:
    """Where the changes of one step go: overlayfs's ``upperdir`` and ``workdir``, on one file system."""

    upper: Path
    work: Path


class LayerStore:
    """Layers and their forms under one state directory. Thread-safe."""

    def __init__(self, state: State, content: Layout, privilege: Privilege) -> None:
        self.state = state
        self.content = content
        self.privilege = privilege

    def image_layer(self, descriptor: Descriptor, diff_id: str, origin: Store) -> Layer:
        """A layer of an image. Its bytes are fetched from ``origin`` only when they are needed."""
        raise NotImplementedError

    def file_layer(self, toc: Toc, open: Callable[[Entry], BinaryIO]) -> Layer:
        """A layer of files whose digests are known; ``open`` gives their bytes."""
        raise NotImplementedError

    def new_upper(self) -> Upper:
        """Fresh directories for one step."""
        raise NotImplementedError

    def adopt(self, upper: Upper, base: Rootfs) -> Layer:
        """What a step changed, as a layer on ``base``. ``upper`` must not be used any more."""
        raise NotImplementedError

    def discard(self, upper: Upper) -> None:
        """Throw away what a step changed."""
        raise NotImplementedError

    def load(self, id: str) -> Layer | None:
        """A layer that this or an earlier process made; None when no form of it is left."""
        raise NotImplementedError

    def blob_of(self, id: str, compression: Compression) -> Blob | None:
        """The blob of a layer if there is one already."""
        raise NotImplementedError

    def remove(self, id: str) -> None:
        """Remove all forms of a layer."""
        raise NotImplementedError
