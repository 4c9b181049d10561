"""From the tar of a root filesystem to a layer, a config, a manifest and an index in a store."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from polyarch.base.recipe import Recipe
from polyarch.content.ingest import BlobWriter
from polyarch.content.layout import Layout
from polyarch.content.verify import read_manifest
from polyarch.layer.compress import Compressor
from polyarch.layer.layer import Compression
from polyarch.oci import media_types
from polyarch.oci.config import ContainerConfig, History, ImageConfig, RootFs
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Index, Manifest, encode
from polyarch.oci.platform import Platform

FINGERPRINT = "io.github.polyarch.base.fingerprint"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class ImageWriter:
    """``write`` the root filesystem's tar, set ``epoch`` (seconds since 1970), then ``finish``."""

    def __init__(
        self,
        store: Layout,
        recipe: Recipe,
        platform: Platform,
        suite: str,
        fingerprint: str,
        blob: BlobWriter,
        compressor: Compressor,
    ) -> None:
        self._store, self._recipe, self._platform = store, recipe, platform.normalized()
        self._suite, self._fingerprint, self._blob = suite, fingerprint, blob
        self._compressor = compressor
        self.epoch = 0

    def write(self, chunk: bytes) -> None:
        """Take the next piece of the root filesystem's tar."""
        self._compressor.write(chunk)

    def finish(self) -> Descriptor:
        """Store config and manifest; returns the manifest's descriptor with its platform."""
        diff_id = self._compressor.finish()
        digest, size = self._blob.commit()
        layer = Descriptor(media_type=media_types.OCI_LAYER_GZIP, digest=digest, size=size)
        config = self._store.push_bytes(self._config(diff_id).encode(), media_types.OCI_CONFIG)
        manifest = encode(
            Manifest(
                schema_version=2,
                media_type=media_types.OCI_MANIFEST,
                config=config,
                layers=(layer,),
                annotations={FINGERPRINT: self._fingerprint},
            )
        )
        stored = self._store.push_bytes(manifest.data, manifest.media_type)
        return Descriptor(
            media_type=stored.media_type, digest=stored.digest, size=stored.size, platform=self._platform
        )

    def _config(self, diff_id: str) -> ImageConfig:
        recipe = self._recipe
        created = datetime.datetime.fromtimestamp(self.epoch, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        shell = "sh" if recipe.source == "busybox" or recipe.variant == "extract" else "bash"
        words = [recipe.source, self._suite, *([recipe.variant] if recipe.source == "debian" else [])]
        return ImageConfig(
            architecture=self._platform.architecture,
            os=self._platform.os,
            variant=self._platform.variant,
            created=created,
            config=ContainerConfig(env=(_PATH, *recipe.environment), cmd=recipe.command or (shell,)),
            rootfs=RootFs(diff_ids=(diff_id,)),
            history=(
                History(
                    created=created,
                    created_by=f"polyarch base create # {' '.join([*words, *recipe.include])}",
                ),
            ),
        )


@contextmanager
def write_image(
    store: Layout, recipe: Recipe, platform: Platform, suite: str, fingerprint: str
) -> Iterator[ImageWriter]:
    """A writer of one image. Leaving the block without ``finish`` leaves nothing in the store."""
    with store.writer() as blob, Compressor(blob.write, Compression()) as compressor:
        yield ImageWriter(store, recipe, platform, suite, fingerprint, blob, compressor)


def write_index(store: Layout, manifests: Sequence[Descriptor]) -> Descriptor:
    """Store the index of ``manifests``; equal for equal manifests in the same order."""
    raw = encode(Index(schema_version=2, media_type=media_types.OCI_INDEX, manifests=tuple(manifests)))
    return store.push_bytes(raw.data, raw.media_type)


def manifest_of(store: Layout, index: Descriptor) -> Iterator[tuple[Descriptor, Manifest]]:
    """The manifests that ``index`` leads to; none where it is no index."""
    raw = read_manifest(store, index)
    if not raw.is_index:
        return
    for descriptor in raw.index.manifests:
        yield descriptor, read_manifest(store, descriptor).manifest
