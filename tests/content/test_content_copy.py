"""Copying between stores, and walking what hangs together."""

import threading
import time
from pathlib import Path
from typing import BinaryIO

import msgspec
import pytest

from polyarch.content.chain import Chain
from polyarch.content.copy import copy
from polyarch.content.layout import Layout
from polyarch.content.memory import MemoryStore
from polyarch.content.verify import read_manifest
from polyarch.content.walk import MAX_DEPTH, select, walk
from polyarch.errors import CancelledError, ContentError, NotFoundError, RegistryError, UsageError
from polyarch.oci import media_types
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Index, Manifest, encode
from polyarch.oci.platform import Platform
from polyarch.testing.random_images import push_bytes, random_image, random_index

ARM64 = Platform.parse("linux/arm64")


def index_of(store: MemoryStore, *entries: Descriptor) -> Descriptor:
    raw = encode(Index(schema_version=2, media_type=media_types.OCI_INDEX, manifests=entries))
    return push_bytes(store, raw.data, raw.media_type)


class Recording(MemoryStore):
    """Remembers the order of pushes, may fail, and may be a registry's repository."""

    def __init__(self) -> None:
        super().__init__()
        self.pushed: list[str] = []
        self.failures: dict[str, list[Exception]] = {}

    def push(self, source: BinaryIO, expected: Descriptor) -> None:
        if planned := self.failures.get(expected.digest):
            source.read(10)
            raise planned.pop(0)
        super().push(source, expected)
        self.pushed.append(expected.digest)


class Mounting(Recording):
    registry = "here:5000"
    name = "team/target"

    def __init__(self, mountable: set[str]) -> None:
        super().__init__()
        self.mountable = mountable
        self.asked: list[tuple[str, str]] = []

    def holds(self, descriptor: Descriptor) -> bool:
        return self.exists(descriptor.digest)

    def send(self, source: BinaryIO, expected: Descriptor) -> None:
        self.push(source, expected)

    def mount(self, descriptor: Descriptor, from_repository: str) -> bool:
        self.asked.append((descriptor.digest, from_repository))
        if descriptor.digest in self.mountable:
            self._blobs[descriptor.digest] = b""  # the registry has it now
            return True
        return False


def test_children_come_before_parents() -> None:
    source, target = MemoryStore(), Recording()
    root = random_index(source)
    copy(source, target, root)
    order = {digest: position for position, digest in enumerate(target.pushed)}
    for descriptor in walk(source, root):
        if descriptor.media_type in media_types.INDEXES:
            below = [child.digest for child in read_manifest(source, descriptor).index.manifests]
        elif descriptor.media_type in media_types.MANIFESTS:
            manifest = read_manifest(source, descriptor).manifest
            below = [manifest.config.digest, *(layer.digest for layer in manifest.layers)]
        else:
            continue
        assert all(order[digest] < order[descriptor.digest] for digest in below)


def test_what_is_there_is_not_sent_again_and_progress_adds_up() -> None:
    source, target = MemoryStore(), Recording()
    root = random_index(source)
    total = sum(descriptor.size for descriptor in walk(source, root))
    for _ in range(2):
        counts: list[int] = []
        copy(source, target, root, progress=lambda _d, count, counts=counts: counts.append(count))
        assert sum(counts) == total
    assert len(target.pushed) == len(set(target.pushed))


def test_a_sparse_copy_takes_one_platform_and_its_attestation(tmp_path: Path) -> None:
    source = MemoryStore()
    images = [random_image(source, Platform.parse(p)) for p in ("linux/amd64", "linux/arm64")]
    statements = [
        msgspec.structs.replace(
            random_image(source, Platform(os="unknown", architecture="unknown"), seed=n, layers=1),
            annotations={
                "vnd.docker.reference.type": "attestation-manifest",
                "vnd.docker.reference.digest": image.digest,
            },
        )
        for n, image in enumerate(images)
    ]
    root = index_of(source, *images, *statements)
    target = Layout(tmp_path)
    copy(source, target, root, platforms=[ARM64])
    assert target.exists(root.digest)
    assert [target.exists(d.digest) for d in (*images, *statements)] == [False, True, False, True]
    seen = {descriptor.digest for descriptor in walk(target, root, sparse=True)}
    assert {d.digest for d in (root, *images, *statements)} < seen
    with pytest.raises(NotFoundError):
        list(walk(target, root))
    # what is sparse cannot be given on whole, and says so before anything is sent
    onward = Recording()
    with pytest.raises(NotFoundError, match="neither"):
        copy(target, onward, root)
    assert onward.pushed == []
    # later the rest is fetched
    copy(source, target, root)
    assert len(list(walk(target, root))) == len(list(walk(source, root)))


def test_a_platform_that_is_not_there() -> None:
    source = MemoryStore()
    root = random_index(source)
    with pytest.raises(NotFoundError) as caught:
        copy(source, MemoryStore(), root, platforms=[Platform.parse("linux/s390x")])
    assert caught.value.reason == "no-platform"
    assert "linux/amd64, linux/arm64" in caught.value.hint


def test_a_registry_takes_no_sparse_index() -> None:
    source = MemoryStore()
    with pytest.raises(UsageError):
        copy(source, Mounting(set()), random_index(source), platforms=[ARM64])


def test_blobs_are_mounted_where_they_are_known_to_be() -> None:
    source = MemoryStore()
    root = random_image(source, ARM64)
    layer = read_manifest(source, root).manifest.layers[0].digest
    other = read_manifest(source, root).manifest.layers[1].digest
    del source._blobs[layer]  # the base's layer was never downloaded
    target = Mounting({layer})
    origins = {
        layer: ["elsewhere:1/base", "here:5000/team/target", "here:5000/base"],
        other: ["here:5000/other"],
    }
    copy(source, target, root, origins=origins)
    assert sorted(target.asked) == sorted([(layer, "base"), (other, "other")])
    assert layer not in target.pushed and other in target.pushed


def test_a_chain_finds_what_one_store_lacks() -> None:
    near, far, target = MemoryStore(), MemoryStore(), MemoryStore()
    root = random_image(near, ARM64)
    layer = read_manifest(near, root).manifest.layers[0].digest
    far._blobs[layer] = near._blobs.pop(layer)
    copy(Chain([near, far]), target, root)
    assert target.exists(layer)


def test_a_broken_connection_is_tried_again_and_a_refusal_is_not() -> None:
    source, target = MemoryStore(), Recording()
    root = random_image(source, ARM64)
    layer = read_manifest(source, root).manifest.layers[0].digest
    target.failures[layer] = [RegistryError("cut", reason="upload-interrupted")]
    copy(source, target, root)
    assert target.exists(root.digest)
    target = Recording()
    target.failures[layer] = [RegistryError("no", reason="denied")] * 5
    with pytest.raises(RegistryError):
        copy(source, target, root)
    assert len(target.failures[layer]) == 4
    assert not target.exists(root.digest)


def test_cancelling_stops_between_chunks() -> None:
    source, target = MemoryStore(), Recording()
    root = random_image(source, ARM64, size=3_000_000)
    event = threading.Event()
    with pytest.raises(CancelledError):
        copy(source, target, root, cancelled=event, progress=lambda _d, _n: event.set())
    assert not target.exists(root.digest)


def test_cancelling_does_not_wait_for_a_dead_connection() -> None:
    class Dead(MemoryStore):
        def push(self, source: BinaryIO, expected: Descriptor) -> None:
            threading.Event().wait(60)

    source = MemoryStore()
    root = random_image(source, ARM64)
    event = threading.Event()
    threading.Timer(0.2, event.set).start()
    started = time.monotonic()
    with pytest.raises(CancelledError):
        copy(source, Dead(), root, cancelled=event)
    assert time.monotonic() - started < 5


def test_foreign_layers_stay_where_they_are() -> None:
    source, target = MemoryStore(), MemoryStore()
    config = push_bytes(source, b"{}", media_types.OCI_CONFIG)
    foreign = Descriptor(
        media_type="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        digest="sha256:" + "a" * 64,
        size=10,
        urls=("https://example.com/layer",),
    )
    manifest = encode(
        Manifest(schema_version=2, media_type=media_types.OCI_MANIFEST, config=config, layers=(foreign,))
    )
    root = push_bytes(source, manifest.data, manifest.media_type)
    copy(source, target, root)
    assert target.exists(root.digest) and not target.exists(foreign.digest)


def test_indexes_nested_too_deep_are_refused() -> None:
    source = MemoryStore()
    root = random_index(source)
    for _ in range(MAX_DEPTH + 1):
        root = index_of(source, root)
    with pytest.raises(ContentError) as caught:
        list(walk(source, root))
    assert caught.value.reason == "content-too-deep"
    target = Recording()
    with pytest.raises(ContentError):
        copy(source, target, root)
    assert target.pushed == []


def test_a_hostile_descriptor_is_refused() -> None:
    source = MemoryStore()
    bad = Descriptor(media_type=media_types.OCI_LAYER, digest="sha256:../../../etc/passwd", size=1)
    raw = encode(Manifest(schema_version=2, media_type=media_types.OCI_MANIFEST, config=bad, layers=()))
    root = push_bytes(source, raw.data, raw.media_type)
    with pytest.raises(ContentError):
        copy(source, MemoryStore(), root)


def test_select() -> None:
    source = MemoryStore()
    root = random_index(source, platforms=("linux/amd64", "linux/arm/v6", "linux/arm64"))
    assert select(source, root, ARM64).platform == ARM64
    assert str(select(source, root, Platform.parse("linux/arm/v7")).platform) == "linux/arm/v6"
    with pytest.raises(NotFoundError, match="linux/arm/v7"):
        select(source, root, Platform.parse("linux/arm/v7"), strict=True)
    image = random_image(source, ARM64)
    assert select(source, image, Platform.parse("linux/amd64")) == image


def test_select_reads_the_config_where_the_index_says_nothing() -> None:
    source = MemoryStore()
    bare = [
        msgspec.structs.replace(random_image(source, Platform.parse(p)), platform=None)
        for p in ("linux/amd64", "linux/arm64")
    ]
    root = index_of(source, *bare)
    assert select(source, root, ARM64).digest == bare[1].digest


def test_a_lying_source_leaves_no_parent() -> None:
    source, target = MemoryStore(), Recording()
    root = random_image(source, ARM64)
    layer = read_manifest(source, root).manifest.layers[1]
    source._blobs[layer.digest] = b"x" * layer.size
    with pytest.raises(ContentError) as caught:
        copy(source, target, root)
    assert caught.value.reason == "digest-mismatch"
    assert not target.exists(root.digest) and not target.exists(layer.digest)


def test_one_stream_at_a_time_is_enough() -> None:
    source, target = MemoryStore(), MemoryStore()
    root = random_index(source)
    copy(source, target, root, workers=0)
    assert target.exists(root.digest)
