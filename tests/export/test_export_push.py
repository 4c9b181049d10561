"""Pushing: content first, the tag last, nothing half done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from export_workshop import Workshop

from polyarch.content.layout import Layout
from polyarch.content.memory import MemoryStore
from polyarch.content.verify import read
from polyarch.content.walk import is_manifest, walk
from polyarch.errors import NotFoundError, PolyarchError, RegistryError, UsageError
from polyarch.export.output import parse
from polyarch.export.push import push
from polyarch.export.result import BuildResult
from polyarch.image.locate import locate
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.reference import Reference
from polyarch.registry.server.running import serve_in_thread


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with serve_in_thread(tmp_path / "registry") as address:
        yield address


class Journal(MemoryStore):
    """A registry that writes down in which order it was given things, and may fail."""

    def __init__(self, fail_at: int = -1) -> None:
        super().__init__()
        self.given: list[str] = []
        self.fail_at = fail_at

    def repository(self, reference: Reference, /) -> Journal:
        return self

    def push(self, source: BinaryIO, expected: Descriptor) -> None:
        self._count("manifest" if is_manifest(expected) else "blob")
        super().push(source, expected)

    def tag(self, reference: str, target: Descriptor) -> None:
        self._count("tag")
        super().tag(reference, target)

    def _count(self, what: str) -> None:
        if len(self.given) == self.fail_at:
            raise RegistryError("the registry went away", reason="registry-gone")
        self.given.append(what)


def test_a_pushed_image_is_whole_under_every_tag(workshop: Workshop, server: str) -> None:
    names = (f"{server}/team/app:1", f"{server}/team/app:2", f"{server}/other/app:1")
    summary = workshop.export(workshop.two(), parse("type=registry"), tags=names)
    for name in names:
        repository = workshop.client.repository(name)
        found = repository.resolve(Reference.parse(name).tag)
        assert found.digest == summary.digest
        for descriptor in walk(repository, found):
            assert len(read(repository, descriptor, limit=1 << 20)) == descriptor.size
        assert workshop.layout.resolve(name).digest == summary.digest


def test_order_blobs_manifests_index_proof_tags(workshop: Workshop) -> None:
    journal = Journal()
    summary = workshop.export(workshop.two(), tags=("app",))
    assert summary.descriptor is not None
    references = [Reference.parse("r.example.com/a:1"), Reference.parse("r.example.com/a:2")]
    push(
        workshop.layout,
        summary.descriptor,
        references,
        client=journal,
        before_tags=lambda: journal.given.append("proof"),
    )
    assert journal.given == ["blob"] * 5 + ["manifest"] * 3 + ["proof"] + ["tag"] * 2


def test_failing_anywhere_leaves_the_tag_alone(workshop: Workshop) -> None:
    old = workshop.export(workshop.one()).descriptor
    new = workshop.export(workshop.two()).descriptor
    assert old and new
    reference = Reference.parse("r.example.com/a:1")
    for position in range(9):
        journal = Journal()
        push(workshop.layout, old, [reference], client=journal)
        journal.fail_at = len(journal.given) + position
        try:
            push(workshop.layout, new, [reference], client=journal)
        except RegistryError:
            assert journal.resolve("1").digest == old.digest
        else:
            assert journal.resolve("1").digest == new.digest


def test_a_tag_that_was_stolen_is_noticed(workshop: Workshop) -> None:
    class Thief(Journal):
        def resolve(self, reference: str) -> Descriptor:
            return Descriptor(media_type="x", digest="sha256:" + "0" * 64, size=1)

    root = workshop.export(workshop.one()).descriptor
    assert root is not None
    with pytest.raises(RegistryError) as caught:
        push(workshop.layout, root, [Reference.parse("r.example.com/a")], client=Thief())
    assert caught.value.reason == "tag-differs"


def test_push_by_digest_leaves_tags_alone(workshop: Workshop, server: str) -> None:
    output = parse(f"type=image,name={server}/app,push-by-digest=true,push=true,name-canonical=true")
    summary = workshop.export(workshop.two(), output)
    repository = workshop.client.repository(f"{server}/app")
    assert repository.tags() == []
    assert repository.exists(summary.digest)
    assert f"{server}/app@{summary.digest}" in summary.names
    with pytest.raises(UsageError, match="by digest"):
        workshop.export(workshop.two(), output, tags=(f"{server}/app:1",))


def test_a_registry_that_is_down_loses_nothing(workshop: Workshop) -> None:
    with pytest.raises(PolyarchError):
        workshop.export(workshop.two(), parse("type=registry"), tags=("127.0.0.1:9/app:1",))
    assert workshop.layout.resolve("127.0.0.1:9/app:1")
    with pytest.raises(UsageError, match="tag is needed"):
        workshop.export(workshop.two(), parse("type=registry"))


class Base:
    """A base in a registry, and a result on top of it whose base layer was never fetched."""

    def __init__(self, workshop: Workshop, far: Workshop, server: str) -> None:
        summary = far.export(far.one(), parse("type=registry"), tags=(f"{server}/base:1",))
        assert summary.descriptor is not None
        self.repository = workshop.client.repository(f"{server}/base")
        raw = far.layout.open(summary.platforms[0].manifest).read()
        from polyarch.oci.manifest import Raw

        (self.layer,) = Raw.parse(raw).manifest.layers
        diff_id = far.one().results[0].rootfs.layers[0]
        from polyarch.layer.layer import Compression

        wanted = diff_id.blob(Compression()).diff_id
        base = workshop.layers.image_layer(self.layer, wanted, self.repository)
        own = workshop.layer({"etc/own": b"mine"})
        self.result: BuildResult = workshop.result(
            {"linux/amd64": [base, own]}, origins={self.layer.digest: [f"{server}/base"]}
        )


def test_base_layers_are_mounted_and_never_fetched(
    workshop: Workshop, workshops: Callable[[str], Workshop], server: str
) -> None:
    base = Base(workshop, workshops("far"), server)
    summary = workshop.export(base.result, parse("type=registry"), tags=(f"{server}/app:1",))
    assert summary.descriptor is not None
    assert not workshop.layout.exists(base.layer.digest)
    pushed = workshop.client.repository(f"{server}/app")
    assert pushed.holds(base.layer)
    assert len(read(pushed, base.layer, limit=1 << 20)) == base.layer.size


def test_base_layers_go_from_registry_to_registry(
    workshop: Workshop, workshops: Callable[[str], Workshop], server: str, tmp_path: Path
) -> None:
    base = Base(workshop, workshops("far"), server)
    with serve_in_thread(tmp_path / "another") as another:
        workshop.export(base.result, parse("type=registry"), tags=(f"{another}/app:1",))
        assert workshop.client.repository(f"{another}/app").holds(base.layer)
    assert not workshop.layout.exists(base.layer.digest)


def test_a_sparse_image_is_completed_from_its_origin(
    workshop: Workshop, workshops: Callable[[str], Workshop], server: str
) -> None:
    base = Base(workshop, workshops("far"), server)
    workshop.export(base.result, tags=("app:1",))
    found = locate("app:1", state=workshop.state, client=workshop.client)
    assert found.is_local
    assert len(read(found.store, base.layer, limit=1 << 20)) == base.layer.size
    from polyarch.image.sparse import SparseStore

    assert isinstance(found.store, SparseStore)
    assert not workshop.layout.exists(base.layer.digest)
    found.store.complete(found.descriptor)
    assert workshop.layout.exists(base.layer.digest)


def test_a_layer_that_is_nowhere_is_said_before_anything_is_named(
    workshop: Workshop, workshops: Callable[[str], Workshop], server: str
) -> None:
    base = Base(workshop, workshops("far"), server)
    lost = workshop.layers.image_layer(
        base.layer, base.result.results[0].rootfs.layers[0].id, Layout(Path("/nowhere"))
    )
    with pytest.raises(NotFoundError) as caught:
        workshop.export(workshop.result({"linux/amd64": [lost]}), tags=("lost:1",))
    assert caught.value.reason == "layer-lost"
    with pytest.raises(NotFoundError):
        workshop.layout.resolve("lost:1")
