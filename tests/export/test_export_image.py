"""What an image is made of, and where it stays."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from export_workshop import CREATED, Workshop

from polyarch.content.verify import read
from polyarch.content.walk import walk
from polyarch.errors import PolyarchError, UsageError
from polyarch.export.annotations import parse_all
from polyarch.export.output import parse
from polyarch.image.inspect import inspect
from polyarch.oci import media_types
from polyarch.oci.platform import Platform
from polyarch.solver.events import Event, VertexCompleted, VertexStarted


def test_without_outputs_everything_stays_under_the_tags(workshop: Workshop) -> None:
    summary = workshop.export(workshop.two(), tags=("app:1", "example.com/app:2"))
    assert summary.names == ("docker.io/library/app:1", "example.com/app:2")
    assert summary.descriptor is not None
    assert summary.descriptor.media_type == media_types.OCI_INDEX
    for name in summary.names:
        found = inspect(workshop.layout, workshop.layout.resolve(name))
        assert found.digest == summary.digest
        assert [str(platform) for platform in found.platforms] == ["linux/amd64", "linux/arm64"]
    one, two = found.variants
    assert one.layers[0] == two.layers[0]
    assert one.layers[1] != two.layers[1]
    assert [p.size for p in summary.platforms] == [v.size for v in found.variants]
    assert one.config.created == CREATED
    assert one.config.rootfs is not None
    assert len(one.config.rootfs.diff_ids or ()) == 2
    assert summary.image_id == summary.digest
    for descriptor in walk(workshop.layout, summary.descriptor):
        assert len(read(workshop.layout, descriptor, limit=1 << 20)) == descriptor.size


def test_one_platform_is_a_plain_manifest(workshop: Workshop) -> None:
    summary = workshop.export(workshop.one(), tags=("app:1",))
    assert summary.descriptor is not None
    assert summary.descriptor.media_type == media_types.OCI_MANIFEST
    assert summary.descriptor.platform == Platform.parse("linux/amd64")
    assert summary.image_id == summary.platforms[0].config_digest != summary.digest


def test_the_same_result_gives_the_same_bytes(
    workshop: Workshop, workshops: Callable[[str], Workshop]
) -> None:
    other = workshops("other")
    assert workshop.export(workshop.two()).digest == other.export(other.two()).digest


def test_an_image_without_a_name_is_a_root_all_the_same(workshop: Workshop) -> None:
    summary = workshop.export(workshop.two())
    assert [root.digest for root in workshop.layout.roots()] == [summary.digest]
    workshop.export(workshop.two())
    assert len(workshop.layout.roots()) == 1


def test_media_types_and_compressions(workshop: Workshop) -> None:
    docker = workshop.export(workshop.two(), parse("type=image,oci-mediatypes=false,name=a"))
    assert docker.descriptor is not None
    types = [d.media_type for d in walk(workshop.layout, docker.descriptor)]
    assert types[:4] == [
        media_types.DOCKER_INDEX,
        media_types.DOCKER_MANIFEST,
        media_types.DOCKER_CONFIG,
        media_types.DOCKER_LAYER_GZIP,
    ]
    zstd = workshop.export(workshop.two(), parse("type=image,compression=zstd,name=b"))
    plain = workshop.export(workshop.two(), parse("type=image,compression=uncompressed,name=c"))
    assert zstd.descriptor and plain.descriptor
    layers = [
        [d.media_type for d in walk(workshop.layout, s.descriptor) if ".layer." in d.media_type]
        for s in (zstd, plain)
        if s.descriptor
    ]
    assert set(layers[0]) == {media_types.OCI_LAYER_ZSTD}
    assert set(layers[1]) == {media_types.OCI_LAYER}
    configs = {
        json.dumps([v.config_bytes.decode() for v in inspect(workshop.layout, s.descriptor).variants])
        for s in (zstd, plain, docker)
        if s.descriptor
    }
    assert len(configs) == 1  # compression changes no config


def test_annotations_go_where_they_belong(workshop: Workshop) -> None:
    annotations = parse_all(
        ["a=1", "index:b=2", "manifest-descriptor[linux/arm64]:c=3", "index-descriptor:d=4"]
    )
    summary = workshop.export(workshop.two(annotations=annotations), tags=("app",))
    found = inspect(workshop.layout, workshop.layout.resolve("app"))
    assert found.raw.index.annotations == {"b": "2"}
    assert [entry.annotations for entry in found.raw.index.manifests] == [{}, {"c": "3"}]
    assert [v.raw.manifest.annotations for v in found.variants] == [{"a": "1"}, {"a": "1"}]
    assert summary.descriptor is not None
    assert summary.descriptor.annotations == {"d": "4"}
    with pytest.raises(UsageError, match="for an index"):
        workshop.export(workshop.one(annotations=parse_all(["index:b=2"])))
    with pytest.raises(UsageError, match="OCI media types"):
        workshop.export(workshop.two(annotations=annotations), parse("type=image,oci-mediatypes=false"))


def test_rewriting_times_needs_one_to_rewrite_to(workshop: Workshop) -> None:
    output = parse("type=image,rewrite-timestamp=true,name=a")
    with pytest.raises(UsageError, match="rewrite-timestamp"):
        workshop.export(workshop.two(), output)
    early = workshop.export(workshop.two(epoch=1_000_000_000), output)
    late = workshop.export(workshop.two(epoch=1_800_000_000), output)
    assert early.digest != late.digest
    assert late.digest == workshop.export(workshop.two()).digest  # nothing was newer


def test_what_fails_the_proof_gets_no_name(workshop: Workshop) -> None:
    before = workshop.export(workshop.one(), tags=("app",))

    def refuse(_: object) -> None:
        raise PolyarchError("wrong architecture", reason="wrong-machine")

    with pytest.raises(PolyarchError, match="wrong architecture"):
        workshop.export(workshop.two(), tags=("app",), before_tags=refuse)
    assert workshop.layout.resolve("app").digest == before.digest


def test_tells_what_it_does(workshop: Workshop) -> None:
    events: list[Event] = []
    workshop.export(workshop.two(), tags=("app",), progress=events.append)
    assert isinstance(events[0], VertexStarted)
    assert isinstance(events[-1], VertexCompleted)
    assert events[-1].error == ""
    ids = [getattr(event, "id", "") for event in events]
    assert "exporting layers" in ids
    assert "naming to docker.io/library/app:latest" in ids
