"""Bytes are checked where they are read."""

import base64
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyarch.content.memory import MemoryStore
from polyarch.content.verify import read, read_manifest, verified
from polyarch.errors import ContentError, NotFoundError
from polyarch.oci.descriptor import Descriptor
from polyarch.testing.store_contract import describe


@given(st.binary(max_size=5000), st.integers(1, 3000))
def test_right_bytes_come_out_whatever_the_steps(data: bytes, step: int) -> None:
    stream = verified(io.BytesIO(data), describe(data))
    assert b"".join(iter(lambda: stream.read(step), b"")) == data


@given(st.binary(min_size=1, max_size=500), st.binary(max_size=500), st.integers(1, 600))
def test_wrong_bytes_never_come_out_whole(data: bytes, other: bytes, step: int) -> None:
    if data == other:
        return
    stream = verified(io.BytesIO(other), describe(data))
    seen = b""
    with pytest.raises(ContentError):
        while piece := stream.read(step):
            seen += piece
    assert len(seen) < len(data)


def test_the_last_byte_waits_for_the_check() -> None:
    stream = verified(io.BytesIO(b"abcX"), describe(b"abcd"))
    assert stream.read(3) == b"abc"
    with pytest.raises(ContentError, match="not what it claims"):
        stream.read(1)


def test_too_many_bytes_are_refused_at_once() -> None:
    class Endless(io.RawIOBase):
        def read(self, size: int = -1, /) -> bytes:
            return b"x" * size

    with pytest.raises(ContentError) as caught:
        verified(Endless(), describe(b"x" * 100)).read()  # type: ignore[arg-type]
    assert caught.value.reason == "size-mismatch"


def test_sha512() -> None:
    import hashlib

    wanted = Descriptor(media_type="a/b", digest="sha512:" + hashlib.sha512(b"data").hexdigest(), size=4)
    assert verified(io.BytesIO(b"data"), wanted).read() == b"data"
    with pytest.raises(ContentError):
        verified(io.BytesIO(b"date"), wanted).read()


def test_read_refuses_what_is_too_large_before_reading() -> None:
    with pytest.raises(ContentError) as caught:
        read(MemoryStore(), describe(b"x" * 11), limit=10)
    assert caught.value.reason == "too-large"


def test_embedded_data_is_used_only_when_it_is_right() -> None:
    def embedding(data: bytes) -> Descriptor:
        found = describe(b"right")
        return Descriptor(media_type="a/b", digest=found.digest, size=5, data=base64.b64encode(data).decode())

    assert read(MemoryStore(), embedding(b"right"), limit=10) == b"right"
    with pytest.raises(NotFoundError):
        read(MemoryStore(), embedding(b"wrong"), limit=10)


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_manifest_reader(data: bytes) -> None:
    store = MemoryStore()
    store.push(io.BytesIO(data), describe(data))
    with pytest.raises(ContentError):
        read_manifest(store, describe(data))


def test_bytes_are_hashed_once_on_their_way_from_store_to_store(monkeypatch: pytest.MonkeyPatch) -> None:
    from polyarch.content import verify

    source, target = MemoryStore(), MemoryStore()
    data = describe(b"data" * 1000)
    source.push(io.BytesIO(b"data" * 1000), data)
    checks: list[int] = []
    real = verify.Verifier._check
    monkeypatch.setattr(verify.Verifier, "_check", lambda self: (checks.append(1), real(self)))
    with source.open(data) as stream:
        target.push(stream, data)
    assert len(checks) == 1
    with source.open(data) as stream:
        stream.read(1)  # no longer at its beginning: whoever takes the rest has to look itself
        with pytest.raises(ContentError):
            MemoryStore().push(stream, data)
