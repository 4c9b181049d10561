"""Tables of build caches: what comes from a registry is not believed."""

from __future__ import annotations

import base64
import zlib

import msgspec
import pytest

from polyarch.errors import ContentError
from polyarch.image import cache_table
from polyarch.image.cache_table import Layer, Note, Part, Place, Row, Table
from polyarch.layer.layer import Blob
from polyarch.oci import media_types
from polyarch.oci.descriptor import Descriptor

KEYS = ["sha256:" + digit * 64 for digit in "0123456789"]
STEPS = ["step:" + digit * 32 for digit in "0123456789"]
BLOB = Descriptor(media_type=media_types.OCI_LAYER_GZIP, digest=KEYS[9], size=10)


def part(key: int, step: int, used: int = 0, blob: Descriptor = BLOB) -> Part:
    layers = {STEPS[step]: Layer(Blob(blob, KEYS[8]), "gzip:6")}
    return Part((Row((KEYS[key],), (STEPS[step],), "native", used),), layers, {})


def test_a_part_survives_its_manifest_and_an_annotation() -> None:
    one = Part(part(1, 1).rows, part(1, 1).layers, {KEYS[2]: Note("2024-01-02T03:04:05.6Z", 7)})
    raw, config = cache_table.manifest(one)
    assert cache_table.parse(config, raw.manifest.layers) == one
    text = cache_table.to_inline(one, raw.manifest.layers)
    assert cache_table.from_inline(text, raw.manifest.layers) == one
    assert cache_table.to_inline(one, raw.manifest.layers) == text


def test_a_part_without_layers_is_a_manifest_that_registries_take() -> None:
    raw, _ = cache_table.manifest(Part())
    assert [layer.media_type for layer in raw.manifest.layers] == [media_types.OCI_EMPTY]


@pytest.mark.parametrize(
    "table",
    [
        Table(2),
        Table(1, rows=(Row((), ()),)),
        Table(1, rows=(Row(("x",), ()),)),
        Table(1, rows=(Row((KEYS[0],) * 65, ()),)),
        Table(1, rows=(Row((KEYS[0],), ("../x",)),)),
        Table(1, rows=(Row((KEYS[0],), (), "magic"),)),
        Table(1, rows=(Row((KEYS[0],), ()),) * (cache_table.MAX_ROWS + 1)),
        Table(1, places={STEPS[0]: Place(1, KEYS[0])}),
        Table(1, places={STEPS[0]: Place(-1, KEYS[0])}),
        Table(1, places={STEPS[0]: Place(0, "sha256:short")}),
        Table(1, places={"step:/../x": Place(0, KEYS[0])}),
        Table(1, places={STEPS[0]: Place(0, KEYS[0], "gzip:6@1")}),
        Table(1, notes={KEYS[0]: Note("yesterday")}),
        Table(1, notes={"keys of x": Note("2024-01-02T03:04:05Z")}),
        Table(1, notes={"proof:" + "0" * 64: Note("x" * (cache_table.MAX_NOTE + 1))}),
    ],
)
def test_nonsense_is_refused(table: Table) -> None:
    with pytest.raises(ContentError):
        cache_table.part_of(table, [BLOB])


@pytest.mark.parametrize("size", [0, -1, 1 << 60])
def test_sizes_have_limits(size: int) -> None:
    huge = msgspec.structs.replace(BLOB, size=size)
    with pytest.raises(ContentError):
        cache_table.part_of(Table(1, places={STEPS[0]: Place(0, KEYS[0])}), [huge])


def test_a_blob_that_is_no_layer_is_refused() -> None:
    config = msgspec.structs.replace(BLOB, media_type=media_types.OCI_CONFIG)
    with pytest.raises(ContentError):
        cache_table.part_of(Table(1, places={STEPS[0]: Place(0, KEYS[0])}), [config])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "not base64!",
        base64.b64encode(b"not deflated").decode(),
        base64.b64encode(zlib.compress(b"[" * 100_000)).decode(),
        base64.b64encode(zlib.compress(b" " * (cache_table.MAX_TABLE + 1), 9)).decode(),
        "A" * (cache_table.MAX_INLINE + 4),
    ],
)
def test_hostile_annotations_are_refused(text: str) -> None:
    with pytest.raises(ContentError):
        cache_table.from_inline(text, [BLOB])


def test_ours_counts_and_theirs_stays() -> None:
    now = 10 * cache_table.KEPT_SECONDS
    ours = part(1, 1, now)
    theirs = Part((*part(1, 2, now).rows, *part(3, 3, now).rows), {**part(1, 2).layers, **part(3, 3).layers})
    both = cache_table.merged(ours, theirs, now)
    assert [row.layers for row in both.rows] == [(STEPS[1],), (STEPS[3],)]
    assert set(both.layers) == {STEPS[1], STEPS[3]}, "what no row speaks of is let go"
    assert cache_table.covers(both, ours, now - 1)
    assert not cache_table.covers(theirs, ours, now - 1)


def test_what_nobody_used_for_long_is_left_out() -> None:
    now = 10 * cache_table.KEPT_SECONDS
    both = cache_table.merged(part(1, 1, now), part(2, 2, 1), now)
    assert set(both.layers) == {STEPS[1]}


def test_there_are_never_too_many_layers() -> None:
    now = 10 * cache_table.KEPT_SECONDS
    rows, layers = [], {}
    for number in range(cache_table.MAX_LAYERS + 10):
        step = f"step:{number:032x}"
        rows.append(Row((f"sha256:{number:064x}",), (step,), used=now - 1))
        layers[step] = Layer(Blob(BLOB, KEYS[8]), "gzip:6")
    both = cache_table.merged(part(1, 1, now), Part(tuple(rows), layers), now)
    assert len(both.layers) == cache_table.MAX_LAYERS
    assert STEPS[1] in both.layers
    raw, config = cache_table.manifest(both)
    cache_table.parse(config, raw.manifest.layers)
