"""Looking into images, finding them, and completing those that are here in part."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from polyarch.content.copy import copy
from polyarch.content.layout import Layout
from polyarch.content.memory import MemoryStore
from polyarch.content.state import State
from polyarch.content.verify import read
from polyarch.content.walk import walk
from polyarch.errors import ContentError, NotFoundError, PolyarchError, UsageError
from polyarch.image import local
from polyarch.image.combine import Source, combine
from polyarch.image.inspect import declared_platform, inspect
from polyarch.image.locate import local_store, locate
from polyarch.image.origins import Origins
from polyarch.image.sparse import SparseStore
from polyarch.oci import media_types
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Index, encode
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.testing.random_images import push_bytes, random_image, random_index

AMD, ARM = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


class Remote:
    """Registries in memory, one store a repository; counts what is opened."""

    def __init__(self) -> None:
        self.stores: dict[str, MemoryStore] = {}

    def repository(self, reference: Reference, /) -> MemoryStore:
        return self.stores.setdefault(reference.name, MemoryStore())

    def image(self, name: str, *, seed: int = 0) -> Descriptor:
        reference = Reference.parse(name)
        store = self.repository(reference)
        made = random_index(store, seed=seed)
        store.tag(reference.tag, made)
        return made


@pytest.fixture
def remote() -> Remote:
    return Remote()


@pytest.fixture
def store(state: State, remote: Remote) -> SparseStore:
    return local_store(state, remote)


# --- inspect ------------------------------------------------------------------------------------------------


def test_everything_about_an_index() -> None:
    memory = MemoryStore()
    found = inspect(memory, random_index(memory), name="x")
    assert found.is_index
    assert found.platforms == (AMD, ARM)
    variant = found.variant(ARM)
    assert variant is not None
    assert variant.config.platform == ARM
    assert variant.size == len(variant.raw.data) + len(variant.config_bytes) + sum(
        layer.size for layer in variant.layers
    )
    assert found.size == len(found.raw.data) + sum(v.size for v in found.variants)
    assert found.variant(Platform.parse("linux/s390x")) is None


def test_indexes_in_indexes_attestations_and_what_is_absent() -> None:
    memory = MemoryStore()
    inner = random_index(memory, seed=1)
    lone = random_image(memory, Platform.parse("linux/riscv64"), seed=2)
    attestation = msgspec.structs.replace(
        random_image(memory, AMD, seed=3),
        platform=Platform(os="unknown", architecture="unknown"),
        annotations={"vnd.docker.reference.type": "attestation-manifest"},
    )
    gone = Descriptor(media_type=media_types.OCI_MANIFEST, digest="sha256:" + "0" * 64, size=5, platform=ARM)
    raw = encode(
        Index(schema_version=2, media_type=media_types.OCI_INDEX, manifests=(inner, lone, attestation, gone))
    )
    found = inspect(memory, push_bytes(memory, raw.data, raw.media_type))
    assert [str(p) for p in found.platforms] == ["linux/amd64", "linux/arm64", "linux/riscv64"]
    assert found.attestations == (attestation,)
    assert found.absent == (gone,)


def test_a_plain_manifest_says_its_platform_in_its_config() -> None:
    memory = MemoryStore()
    bare = msgspec.structs.replace(random_image(memory, ARM), platform=None)
    assert inspect(memory, bare).platforms == (ARM,)
    assert declared_platform(memory, bare).platform == ARM


def test_an_index_without_end_is_cut_off() -> None:
    memory = MemoryStore()
    made = random_index(memory)
    for _ in range(8):
        raw = encode(Index(schema_version=2, media_type=media_types.OCI_INDEX, manifests=(made, made)))
        made = push_bytes(memory, raw.data, raw.media_type)
    with pytest.raises(ContentError):
        inspect(memory, made)


# --- locate -------------------------------------------------------------------------------------------------


def test_local_first_then_the_registry(state: State, remote: Remote, store: SparseStore) -> None:
    there = remote.image("r.example.com/app:1")
    found = locate("docker-image://r.example.com/app:1", state=state, client=remote)
    assert (found.descriptor.digest, found.is_local) == (there.digest, False)
    here = random_index(store.layout, seed=9)
    store.tag("r.example.com/app:1", here)
    found = locate("r.example.com/app:1", state=state, client=remote)
    assert (found.descriptor, found.is_local) == (here, True)
    assert found.name == "r.example.com/app:1"
    assert locate("r.example.com/app:1", state=state, client=remote, local=False).descriptor == there
    with pytest.raises(NotFoundError):
        locate("r.example.com/other", state=state, client=remote, remote=False)


def test_by_digest_and_its_beginning(state: State, remote: Remote, store: SparseStore) -> None:
    here = random_index(store.layout)
    store.tag("app:1", here)
    encoded = here.digest.partition(":")[2]
    for text in (here.digest, encoded[:12], f"app@{here.digest}", f"sha256:{encoded[:20]}"):
        found = locate(text, state=state, client=remote)
        assert found.is_local
        assert found.descriptor.digest == here.digest
    with pytest.raises(NotFoundError):
        locate("sha256:" + "0" * 64, state=state, client=remote)


@pytest.mark.parametrize("text", ["oci-layout:///nowhere", "oci-archive:/nowhere.tar", "UPPER", "a b", ""])
def test_what_is_nowhere(state: State, remote: Remote, text: str) -> None:
    with pytest.raises(PolyarchError):
        locate(text, state=state, client=remote)


# --- pull, origins, sparse images ---------------------------------------------------------------------------


def test_pulling_some_platforms_and_the_rest_later(state: State, remote: Remote, store: SparseStore) -> None:
    made = remote.image("r.example.com/app:1")
    reference = Reference.parse("r.example.com/app:1")
    assert local.pull(reference, store, remote, platforms=[ARM]).digest == made.digest
    (image,) = local.images(store.layout)
    assert image.platforms == (ARM,)
    assert image.inspection is not None
    assert [entry.platform for entry in image.inspection.absent] == [AMD]
    store.complete(made)
    for descriptor in walk(store.layout, made):
        read(store.layout, descriptor, limit=1 << 20)
    (image,) = local.images(store.layout)
    assert image.platforms == (AMD, ARM)


def test_pulling_what_is_not_there(remote: Remote, store: SparseStore) -> None:
    remote.image("r.example.com/app:1")
    reference = Reference.parse("r.example.com/app:1")
    with pytest.raises(NotFoundError, match="s390x") as caught:
        local.pull(reference, store, remote, platforms=[Platform.parse("linux/s390x")])
    assert "linux/amd64, linux/arm64" in caught.value.hint
    assert local.images(store.layout) == []
    plain = Reference.parse("r.example.com/plain:1")
    remote.repository(plain).tag("1", random_image(remote.repository(plain), AMD))
    with pytest.raises(NotFoundError):
        local.pull(plain, store, remote, platforms=[ARM])
    local.pull(plain, store, remote, platforms=[AMD])


def test_an_origin_that_is_gone_is_named(state: State, remote: Remote, store: SparseStore) -> None:
    lost = Descriptor(media_type=media_types.OCI_LAYER_GZIP, digest="sha256:" + "0" * 64, size=5)
    assert not store.exists(lost.digest)
    with pytest.raises(NotFoundError):
        store.open(lost)
    store.origins.record({lost.digest: ["r.example.com/app", "oci-layout:/nowhere"]})
    assert store.exists(lost.digest)
    with pytest.raises(NotFoundError) as caught:
        store.open(lost)
    assert caught.value.reason == "origin-gone"
    assert "r.example.com/app" in caught.value.detail
    assert "oci-layout:/nowhere" in caught.value.detail


def test_origins_survive_and_are_asked_in_bulk(state: State) -> None:
    digests = [f"sha256:{number:064x}" for number in range(1200)]
    assert Origins(state).known(digests) == {}
    Origins(state).record({digest: ["r/a"] for digest in digests})
    Origins(state).record({digests[0]: ["r/b", "r/a"]})
    again = Origins(State(state.root))
    assert again.places(digests[0]) == ("r/a", "r/b")
    assert len(again.known(digests)) == 1200


def test_a_broken_table_of_origins_says_so(state: State) -> None:
    state.root.mkdir(parents=True)
    (state.root / "origins.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ContentError, match="origins"):
        Origins(state).record({"sha256:" + "0" * 64: ["r/a"]})


# --- the list, and forgetting -------------------------------------------------------------------------------


def test_names_are_forgotten_one_by_one(store: SparseStore) -> None:
    layout = store.layout
    one, two = random_index(layout, seed=1), random_index(layout, seed=2)
    for name in ("app:1", "app:2", "r.example.com/app:1"):
        layout.tag(name, one)
    layout.publish(two)
    assert len(local.images(layout)) == 2
    assert local.forget(layout, "app:1") == ["docker.io/library/app:1"]
    with pytest.raises(NotFoundError):
        local.forget(layout, "app:1")
    short = one.digest.partition(":")[2][:12]
    with pytest.raises(UsageError, match="several names"):
        local.forget(layout, short)
    assert local.forget(layout, short, force=True)[-1] == one.digest
    assert local.forget(layout, two.digest) == [two.digest]
    assert local.images(layout) == []
    assert layout.exists(one.digest)  # the collector's matter


def test_one_damaged_image_does_not_hide_the_others(store: SparseStore) -> None:
    layout = store.layout
    for seed, name in ((1, "good:1"), (2, "bad:1")):
        layout.tag(name, random_index(layout, seed=seed))
    path = layout.path(layout.resolve("bad:1").digest)
    path.chmod(0o644)
    path.write_bytes(b"x" * path.stat().st_size)
    problems = {image.names[0]: bool(image.problem) for image in local.images(layout)}
    assert problems == {"docker.io/library/good:1": False, "docker.io/library/bad:1": True}


def test_tags_of_a_repository(store: SparseStore) -> None:
    made = random_index(store.layout)
    for name in ("r.example.com/app:1", "r.example.com/app:2", "r.example.com/application:1"):
        store.layout.tag(name, made)
    found = local.named(store.layout, Reference.parse("r.example.com/app"))
    assert [reference.tag for reference in found] == ["1", "2"]


# --- combine ------------------------------------------------------------------------------------------------


def test_variants_of_several_images_in_one_index() -> None:
    memory, other = MemoryStore(), MemoryStore()
    arm = msgspec.structs.replace(random_image(other, ARM), platform=None)
    both = random_index(memory)
    made = combine([Source(memory, both, "a"), Source(other, arm, "b"), Source(memory, both, "a")])
    platforms = [str(entry.platform) for entry in made.raw.index.manifests]
    assert platforms in (["linux/amd64", "linux/arm64", "linux/arm64"], ["linux/amd64", "linux/arm64"])
    target = MemoryStore()
    for store, part in made.parts:
        copy(store, target, part)
    root = push_bytes(target, made.raw.data, made.raw.media_type)
    assert len(list(walk(target, root))) >= 7


def test_a_single_source_stays_as_it_is() -> None:
    memory = MemoryStore()
    both = random_index(memory)
    made = combine([Source(memory, both, "a")])
    assert made.is_copy
    assert made.raw.digest == both.digest
    one = random_image(memory, AMD)
    assert combine([Source(memory, one, "a")]).raw.is_index
    assert combine([Source(memory, one, "a")], prefer_index=False).raw.digest == one.digest


def test_filters_and_annotations() -> None:
    memory = MemoryStore()
    both = random_index(memory)
    made = combine(
        [Source(memory, both, "a")],
        platforms=[ARM],
        annotations={"k": "v"},
        descriptor_annotations={"d": "e"},
    )
    (entry,) = made.raw.index.manifests
    assert (entry.platform, entry.annotations) == (ARM, {"d": "e"})
    assert made.raw.index.annotations == {"k": "v"}
    with pytest.raises(NotFoundError, match="s390x"):
        combine([Source(memory, both, "a")], platforms=[Platform.parse("linux/s390x")])
    with pytest.raises(UsageError):
        combine([])


def test_a_layout_elsewhere(state: State, remote: Remote, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "layout")
    made = random_index(layout)
    layout.publish(msgspec.structs.replace(made, annotations={"org.opencontainers.image.ref.name": "1.0"}))
    for text in (f"oci-layout://{layout.root}", f"oci-layout://{layout.root}:1.0"):
        found = locate(text, state=state, client=remote)
        assert found.descriptor == made
        assert not found.is_local
    with pytest.raises(NotFoundError):
        locate(f"oci-layout://{layout.root}:2.0", state=state, client=remote)
