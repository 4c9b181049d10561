"""A build cache as content: tables of results, one for each platform, and how they stand in a registry.

A cache is an OCI index with one manifest a platform. The manifest's config is the table: which keys gave
which layers, and which of the manifest's layers those are. So a registry sees layers that something refers
to, keeps them, and need know nothing of caches. A table may also stand in an annotation of an image's own
manifest (*inline*); then its layers are the image's.

Whatever comes from a registry is checked here; nothing in it is believed but what others verify later: the
digests of the blobs, and that they decompress to their ``diff_id``.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from polyarch.errors import ContentError
from polyarch.layer.layer import Blob
from polyarch.oci import digest as digests
from polyarch.oci import media_types
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Manifest, Raw, decode, encode

CONFIG = "application/vnd.polyarch.cache.config.v1+json"  # media type of a table
MARK = "dev.polyarch.cache"  # annotation of the index and its entries: the version of the tables
INLINE = "dev.polyarch.cache.inline"  # annotation of an image's manifest: a table, deflated, in base64
VERSION = 1

MAX_TABLE = 32 << 20  # bytes of a table
MAX_INLINE = 1 << 20  # bytes of an annotation
MAX_ROWS = 5_000
MAX_LAYERS = 500
MAX_NOTE = 64 << 10  # characters
MAX_BLOB = 256 << 30  # bytes a layer's blob may claim
KEPT_SECONDS = 14 * 24 * 3600  # how long what no build used stays in a cache

EMPTY = b"{}"  # the layer of a part that has none
_KEY = re.compile(r"(?:proof:|sha256:)[0-9a-f]{64}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z", re.ASCII)
_LAYER = re.compile(r"step:[0-9a-f]{32}|sha256:[0-9a-f]{64}")
_MADE_AS = re.compile(r"[a-z]+:-?[a-zA-Z0-9]+")
_LAYER_TYPES = frozenset({media_types.OCI_LAYER, media_types.OCI_LAYER_GZIP, media_types.OCI_LAYER_ZSTD})


class Row(msgspec.Struct, frozen=True, omit_defaults=True):
    """One result: the keys that lead to it, cheapest first, and the ids of the layers it adds. ``used`` in
    seconds since 1970 (0 where it does not matter)."""

    keys: tuple[str, ...]
    layers: tuple[str, ...]
    how: str = ""
    used: int = 0


class Note(msgspec.Struct, frozen=True, omit_defaults=True):
    """A small thing to remember: an image's time, or what was found in it."""

    text: str
    used: int = 0


class Place(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which of the manifest's layers a layer is, what it is uncompressed, and as what its blob was made."""

    layer: int
    diff_id: str
    made_as: str = ""


class Table(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one platform's part of a cache says, as JSON."""

    version: int = 0
    rows: tuple[Row, ...] = ()
    places: dict[str, Place] = {}
    notes: dict[str, Note] = {}


class Layer(msgspec.Struct, frozen=True):
    """Where a layer's bytes are."""

    blob: Blob
    made_as: str


class Part(msgspec.Struct, frozen=True):
    """One platform's part of a cache, with the layers' descriptors in place: what ``Table`` says, checked."""

    rows: tuple[Row, ...] = ()
    layers: dict[str, Layer] = {}
    notes: dict[str, Note] = {}


def part_of(table: Table, layers: Sequence[Descriptor]) -> Part:
    """The part a table and its manifest's layers make. ContentError where the table is not ours or absurd."""
    if table.version != VERSION:
        raise _wrong(f"its version is {table.version}")
    if len(table.rows) > MAX_ROWS or len(table.places) > MAX_LAYERS or len(table.notes) > MAX_ROWS:
        raise _wrong("it is too long")
    for row in table.rows:
        if not row.keys or not all(_KEY.fullmatch(key) for key in row.keys) or len(row.keys) > 64:
            raise _wrong("it has strange keys")
        if not all(_LAYER.fullmatch(id) for id in row.layers) or len(row.layers) > MAX_LAYERS:
            raise _wrong("it has strange layers")
        if row.how not in ("", "native", "emulated", "accelerated"):
            raise _wrong("it has strange results")
    if not all(_is_note(key, note.text) for key, note in table.notes.items()):
        raise _wrong("it has strange notes")
    return Part(table.rows, dict(_located(table.places, layers)), table.notes)


def _is_note(key: str, text: str) -> bool:
    """An image's time stands under a digest, what was found in it under the proof's key."""
    if key.startswith("proof:"):
        return bool(_KEY.fullmatch(key)) and len(text) <= MAX_NOTE
    return bool(_KEY.fullmatch(key) and _TIME.fullmatch(text))


def _located(places: Mapping[str, Place], layers: Sequence[Descriptor]) -> Iterator[tuple[str, Layer]]:
    for id, place in places.items():
        if not _LAYER.fullmatch(id) or not 0 <= place.layer < len(layers):
            raise _wrong("it speaks of layers that are not there")
        found = layers[place.layer]
        media_type = media_types.to_oci(found.media_type)
        if media_type not in _LAYER_TYPES or not 0 < found.size <= MAX_BLOB:
            raise _wrong(f"{found.digest} is no layer")
        if place.made_as and not _MADE_AS.fullmatch(place.made_as):
            raise _wrong("it has strange layers")
        digests.parse(place.diff_id)
        descriptor = Descriptor(media_type=media_type, digest=digests.parse(found.digest), size=found.size)
        yield id, Layer(Blob(descriptor, place.diff_id), place.made_as)


def _wrong(why: str) -> ContentError:
    return ContentError(f"a build cache makes no sense: {why}", reason="invalid-cache")


def table_of(part: Part, layers: Sequence[Descriptor]) -> Table:
    """The table that says of a manifest with ``layers`` what ``part`` says."""
    numbers: dict[str, int] = {}
    for number, descriptor in enumerate(layers):
        numbers.setdefault(descriptor.digest, number)
    places = {
        id: Place(numbers[layer.blob.descriptor.digest], layer.blob.diff_id, layer.made_as)
        for id, layer in sorted(part.layers.items())
        if layer.blob.descriptor.digest in numbers
    }
    return Table(VERSION, part.rows, places, dict(sorted(part.notes.items())))


# --- a manifest of its own ------------------------------------------------------------------------------


def manifest(part: Part) -> tuple[Raw, bytes]:
    """The manifest of a part, and its config's bytes. A part without layers has the empty blob as one, since
    registries want at least one."""
    layers = tuple(
        {layer.blob.descriptor.digest: layer.blob.descriptor for layer in part.layers.values()}.values()
    )
    data = msgspec.json.encode(table_of(part, layers))
    config = Descriptor(media_type=CONFIG, digest=digests.of(data), size=len(data))
    empty = Descriptor(media_type=media_types.OCI_EMPTY, digest=digests.of(EMPTY), size=len(EMPTY))
    made = Manifest(
        schema_version=2,
        media_type=media_types.OCI_MANIFEST,
        config=config,
        layers=layers or (empty,),
        annotations={MARK: str(VERSION)},
    )
    return encode(made), data


def parse(data: bytes, layers: Sequence[Descriptor]) -> Part:
    """The part whose table is ``data``; ContentError for everything that is none."""
    return part_of(decode(data, Table, "cache"), layers)


# --- inside an image ------------------------------------------------------------------------------------


def to_inline(part: Part, layers: Sequence[Descriptor]) -> str:
    """The annotation that says ``part`` of an image with ``layers``. Equal input gives an equal text."""
    data = msgspec.json.encode(table_of(part, layers))
    return base64.b64encode(zlib.compress(data, 9)).decode()


def from_inline(text: str, layers: Sequence[Descriptor]) -> Part:
    """What ``to_inline`` said; ContentError for everything else."""
    if len(text) > MAX_INLINE:
        raise _wrong("it is too long")
    try:
        inflater = zlib.decompressobj()
        data = inflater.decompress(base64.b64decode(text, validate=True), MAX_TABLE)
    except (binascii.Error, ValueError, zlib.error):
        raise _wrong("it cannot be decompressed") from None
    if inflater.unconsumed_tail:
        raise _wrong("it is too long")
    return parse(data, layers)


# --- several jobs, one cache ----------------------------------------------------------------------------


def merged(ours: Part, theirs: Part, now: int) -> Part:
    """Both together: where both know a key ours counts. What of theirs nobody used for long is left out."""
    fresh = [row for row in theirs.rows if row.used > now - KEPT_SECONDS]
    known = {key for row in ours.rows for key in row.keys}
    fresh = [row for row in fresh if not known.issuperset(row.keys)]
    rows = [*ours.rows, *sorted(fresh, key=lambda row: row.used, reverse=True)][:MAX_ROWS]
    layers = dict(ours.layers)
    kept: list[Row] = []
    for row in rows:
        missing = {id: theirs.layers[id] for id in row.layers if id not in layers and id in theirs.layers}
        if len(layers) + len(missing) <= MAX_LAYERS:
            layers.update(missing)
            kept.append(row)
    notes = {key: note for key, note in theirs.notes.items() if note.used > now - KEPT_SECONDS}
    return Part(tuple(kept), layers, dict([*notes.items(), *ours.notes.items()][-MAX_ROWS:]))


def covers(there: Part, ours: Part, since: int) -> bool:
    """Whether ``there`` says all that ``ours`` says, and was told so after ``since``."""
    rows = {key: row for row in there.rows for key in row.keys}
    for row in ours.rows:
        for key in row.keys:
            found = rows.get(key)
            if found is None or found.layers != row.layers or found.used < since:
                return False
    notes = all(k in there.notes and there.notes[k].text == n.text for k, n in ours.notes.items())
    return notes and ours.layers.keys() <= there.layers.keys()


def only(part: Part, ids: Iterable[str]) -> Part:
    """The part with no layers but ``ids``; what it knows of results stays."""
    wanted = set(ids)
    return Part(part.rows, {id: layer for id, layer in part.layers.items() if id in wanted}, part.notes)
