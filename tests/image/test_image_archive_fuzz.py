"""Archives that were damaged anywhere are refused, never crashed on."""

from __future__ import annotations

import io
import tarfile

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyarch.content.memory import MemoryStore
from polyarch.errors import PolyarchError
from polyarch.export.archives import Content, write_docker, write_oci
from polyarch.image.archive import ArchiveStore
from polyarch.image.inspect import inspect
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.testing.random_images import random_image


def archive(*, docker: bool, legacy: bool = False) -> bytes:
    store = MemoryStore()
    image = random_image(store, Platform.parse("linux/arm64"), size=600)
    sink = io.BytesIO()
    write = write_docker if docker else write_oci
    write(store, [Content(image, [Reference.parse("app:1")])], sink)
    return _without_index(sink) if legacy else sink.getvalue()


def _without_index(archive: io.BytesIO) -> bytes:
    """As old dockers wrote it: only manifest.json says what is in it."""
    archive.seek(0)
    made = io.BytesIO()
    with tarfile.open(fileobj=archive) as source, tarfile.open(fileobj=made, mode="w") as target:
        for member in source:
            if member.name != "index.json":
                target.addfile(member, source.extractfile(member))
    return made.getvalue()


WHOLE = [archive(docker=False), archive(docker=True), archive(docker=True, legacy=True)]


def look(data: bytes) -> int:
    with ArchiveStore.from_stream(io.BytesIO(data), "the archive") as store:
        found = 0
        for root in store.roots():
            image = inspect(store, root)
            for variant in image.variants:
                for layer in variant.layers:
                    with store.open(layer) as stream:
                        found += len(stream.read())
        return found


def test_whole_archives_are_read() -> None:
    assert look(WHOLE[0]) == look(WHOLE[1]) == look(WHOLE[2]) > 0


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(WHOLE),
    st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4),
    st.floats(0, 1),
)
def test_damaged_archives_are_refused(data: bytes, changes: list[tuple[float, bytes]], kept: float) -> None:
    damaged = bytearray(data)
    for place, new in changes:
        start = int(place * (len(damaged) - 1))
        damaged[start : start + len(new)] = new
    for candidate in (bytes(damaged), data[: int(kept * len(data))]):
        try:
            look(candidate)
        except PolyarchError as error:
            assert error.summary
