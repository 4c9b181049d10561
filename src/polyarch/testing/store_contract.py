"""What every Store must do, as tests: subclass ``StoreContract`` and give it a fixture ``store``."""

from __future__ import annotations

import io
import threading
from typing import BinaryIO, cast

import pytest

from polyarch.content.copy import copy
from polyarch.content.memory import MemoryStore
from polyarch.content.store import Store
from polyarch.content.verify import read
from polyarch.content.walk import walk
from polyarch.errors import ContentError, NotFoundError
from polyarch.oci import digest as digests
from polyarch.oci.descriptor import Descriptor
from polyarch.testing.random_images import push_bytes, random_index

OCTETS = "application/octet-stream"


def describe(data: bytes, media_type: str = OCTETS) -> Descriptor:
    """The descriptor of ``data``."""
    return Descriptor(media_type=media_type, digest=digests.of(data), size=len(data))


class Dribble(io.RawIOBase):
    """A stream that yields a few bytes at a time and cannot seek."""

    def __init__(self, data: bytes, step: int = 7) -> None:
        super().__init__()
        self._data = io.BytesIO(data)
        self._step = step

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        return self._data.read(self._step if size is None or size < 0 else min(size, self._step))


class StoreContract:
    """The protocol's promises, one test each."""

    def test_what_was_pushed_can_be_read(self, store: Store) -> None:
        data = b"content" * 1000
        assert not store.exists(digests.of(data))
        store.push(io.BytesIO(data), describe(data))
        assert store.exists(digests.of(data))
        with store.open(describe(data)) as stream:
            assert stream.read() == data

    def test_empty_content(self, store: Store) -> None:
        store.push(io.BytesIO(b""), describe(b""))
        assert read(store, describe(b""), limit=0) == b""

    def test_content_in_small_pieces_from_a_stream_that_cannot_seek(self, store: Store) -> None:
        data = bytes(range(256)) * 5
        store.push(cast(BinaryIO, Dribble(data)), describe(data))
        pieces = []
        with store.open(describe(data)) as stream:
            while piece := stream.read(100):
                pieces.append(piece)
        assert b"".join(pieces) == data

    def test_pushing_again_is_harmless(self, store: Store) -> None:
        for _ in range(2):
            store.push(io.BytesIO(b"same"), describe(b"same"))
        assert read(store, describe(b"same"), limit=10) == b"same"

    @pytest.mark.parametrize("sent", [b"wrong bytes here", b"too short", b"many, too many bytes", b""])
    def test_a_lie_is_refused_and_nothing_kept(self, store: Store, sent: bytes) -> None:
        promised = describe(b"right bytes here")
        with pytest.raises(ContentError):
            store.push(cast(BinaryIO, Dribble(sent)), promised)
        assert not store.exists(promised.digest)

    def test_the_source_stays_open(self, store: Store) -> None:
        source = io.BytesIO(b"mine")
        store.push(source, describe(b"mine"))
        assert not source.closed

    def test_what_is_not_there(self, store: Store) -> None:
        absent = describe(b"absent")
        assert not store.exists(absent.digest)
        with pytest.raises(NotFoundError):
            store.open(absent).read()
        with pytest.raises(NotFoundError):
            store.resolve("nothing")
        with pytest.raises(NotFoundError):
            store.resolve(absent.digest)
        with pytest.raises(NotFoundError):
            store.tag("name", Descriptor(media_type=OCTETS, digest=absent.digest, size=6))

    @pytest.mark.parametrize("digest", ["", "sha256:", "sha256:../../etc/passwd", "md5:" + "0" * 32])
    def test_a_malformed_digest_is_refused(self, store: Store, digest: str) -> None:
        with pytest.raises(ContentError):
            store.exists(digest)
        with pytest.raises(ContentError):
            store.open(Descriptor(media_type=OCTETS, digest=digest, size=1)).read()

    def test_a_wrong_size_shows_when_reading(self, store: Store) -> None:
        store.push(io.BytesIO(b"12345"), describe(b"12345"))
        for size in (4, 6):
            wanted = Descriptor(media_type=OCTETS, digest=digests.of(b"12345"), size=size)
            with pytest.raises(ContentError), store.open(wanted) as stream:
                stream.read()

    def test_names(self, store: Store) -> None:
        made = MemoryStore()
        first, second = random_index(made, seed=1), random_index(made, seed=2)
        for root in (first, second):
            copy(made, store, root)
        store.tag("name", first)
        assert (store.resolve("name").digest, store.resolve("name").size) == (first.digest, first.size)
        store.tag("name", second)
        found = store.resolve("name")
        assert (found.digest, found.media_type) == (second.digest, second.media_type)
        assert store.resolve(first.digest).media_type == first.media_type

    def test_a_whole_image_goes_in_and_out(self, store: Store) -> None:
        made, back = MemoryStore(), MemoryStore()
        root = random_index(made, platforms=("linux/amd64", "linux/arm/v7", "linux/s390x"), layers=3)
        copy(made, store, root)
        copy(store, back, root)
        assert [d.digest for d in walk(back, root)] == [d.digest for d in walk(made, root)]
        for descriptor in walk(back, root):
            assert read(back, descriptor, limit=1 << 20) == read(made, descriptor, limit=1 << 20)

    def test_many_threads_push_the_same(self, store: Store) -> None:
        data = b"wanted by all" * 10_000
        failures: list[BaseException] = []

        def push() -> None:
            try:
                store.push(io.BytesIO(data), describe(data))
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=push) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert read(store, describe(data), limit=len(data)) == data


__all__ = ["Dribble", "StoreContract", "describe", "push_bytes"]
