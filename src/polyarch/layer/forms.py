"""What is remembered of layers between processes: tocs, blobs, and a few small files."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from polyarch.errors import ContentError
from polyarch.layer import toc as tocs
from polyarch.layer.database import Database
from polyarch.layer.entry import Toc
from polyarch.layer.layer import Blob
from polyarch.oci.descriptor import Descriptor

_VERSION = 1
_SCHEMA = """
CREATE TABLE layer_ids (id TEXT PRIMARY KEY, kind TEXT NOT NULL, used INTEGER NOT NULL);
CREATE TABLE layer_tocs (id TEXT PRIMARY KEY, toc BLOB NOT NULL);
CREATE TABLE layer_blobs (
    id TEXT NOT NULL, wanted TEXT NOT NULL, descriptor BLOB NOT NULL, diff_id TEXT NOT NULL,
    PRIMARY KEY (id, wanted));
CREATE TABLE layer_files (id TEXT NOT NULL, path TEXT NOT NULL, data BLOB NOT NULL, PRIMARY KEY (id, path))
"""
_MAX_TOC = 1 << 30  # bytes uncompressed


@dataclass(frozen=True)
class Known:
    """A layer as it was remembered: ``kind`` is "image", "files" or "step"; blobs by what was asked for."""

    kind: str
    blobs: dict[str, Blob]


class Forms:
    """The tables. What cannot be read counts as not there."""

    def __init__(self, path: Path) -> None:
        self._database = Database(path, room="layer", version=_VERSION, schema=_SCHEMA)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def known(self, id: str) -> Known | None:
        """What there may be of a layer; None for one never seen."""
        rows = self._database.read("SELECT kind FROM layer_ids WHERE id = ?", (id,))
        if not rows:
            return None
        return Known(str(rows[0][0]), self.blobs(id))

    def blobs(self, id: str) -> dict[str, Blob]:
        """The blobs written or seen for a layer, by what was asked for; they may be gone from the store."""
        found = {}
        for wanted, descriptor, diff_id in self._database.read(
            "SELECT wanted, descriptor, diff_id FROM layer_blobs WHERE id = ?", (id,)
        ):
            try:
                parsed = msgspec.json.decode(bytes(descriptor), type=Descriptor)  # type: ignore[call-overload]
            except msgspec.DecodeError:
                continue
            found[str(wanted)] = Blob(parsed, str(diff_id))
        return found

    def made_with(self, diff_id: str) -> list[str]:
        """Layers made here, of files or by steps, whose tar as it is has this diff_id."""
        query = (
            "SELECT DISTINCT id FROM layer_blobs JOIN layer_ids USING (id) "
            "WHERE diff_id = ? AND kind != 'image'"
            " AND instr(wanted, '@') = 0 AND instr(wanted, 'original:') = 0"
        )
        return [str(id) for (id,) in self._database.read(query, (diff_id,))]

    def imported(self, prefix: str) -> list[str]:
        """Layers that are no image's and yet have a blob whose name starts with ``prefix``."""
        query = (
            "SELECT DISTINCT id FROM layer_blobs JOIN layer_ids USING (id) "
            "WHERE kind != 'image' AND substr(wanted, 1, ?) = ?"
        )
        return [str(id) for (id,) in self._database.read(query, (len(prefix), prefix))]

    def toc(self, id: str) -> Toc | None:
        """The toc of a layer."""
        rows = self._database.read("SELECT toc FROM layer_tocs WHERE id = ?", (id,))
        if not rows or not isinstance(rows[0][0], bytes):
            return None
        import zstandard

        try:
            data = zstandard.ZstdDecompressor().decompress(rows[0][0], max_output_size=_MAX_TOC)
            return tocs.decode(data)
        except (zstandard.ZstdError, ContentError):
            return None

    def has_toc(self, id: str) -> bool:
        """Whether the toc of a layer is kept."""
        return bool(self._database.read("SELECT 1 FROM layer_tocs WHERE id = ?", (id,)))

    def file(self, id: str, path: str) -> bytes | None:
        """The bytes of a small file that was kept."""
        rows = self._database.read("SELECT data FROM layer_files WHERE id = ? AND path = ?", (id, path))
        return rows[0][0] if rows and isinstance(rows[0][0], bytes) else None

    def add(self, id: str, kind: str) -> None:
        """Remember that there is such a layer."""
        self._database.write(
            [("INSERT OR REPLACE INTO layer_ids VALUES (?, ?, ?)", [(id, kind, int(time.time()))])]
        )

    def put_toc(self, id: str, toc: Toc, files: dict[str, bytes] | None = None) -> None:
        """Keep the toc, and small files with it."""
        import zstandard

        data = zstandard.ZstdCompressor(level=1).compress(tocs.encode(toc))
        kept = [(id, path, content) for path, content in (files or {}).items()]
        self._database.write(
            [
                ("INSERT OR REPLACE INTO layer_tocs VALUES (?, ?)", [(id, data)]),
                ("INSERT OR REPLACE INTO layer_files VALUES (?, ?, ?)", kept),
            ]
        )

    def put_blob(self, id: str, wanted: str, blob: Blob) -> None:
        """Keep where the blob is."""
        row = (id, wanted, msgspec.json.encode(blob.descriptor), blob.diff_id)
        self._database.write([("INSERT OR REPLACE INTO layer_blobs VALUES (?, ?, ?, ?)", [row])])

    def remove(self, *ids: str) -> None:
        """Forget layers."""
        tables = ("layer_ids", "layer_tocs", "layer_blobs", "layer_files")
        rows = [(id,) for id in ids]
        self._database.write([(f"DELETE FROM {table} WHERE id = ?", rows) for table in tables])

    # --- for the collector ----------------------------------------------------------------------------------

    def all_blobs(self) -> list[tuple[str, str, str]]:
        """The blobs of all layers: the layer's id, what was asked for, and the blob's digest."""
        found = []
        for id, wanted, data in self._database.read("SELECT id, wanted, descriptor FROM layer_blobs"):
            try:
                parsed = msgspec.json.decode(bytes(data), type=Descriptor)  # type: ignore[call-overload]
            except msgspec.DecodeError:
                continue
            found.append((str(id), str(wanted), parsed.digest))
        return found

    def ids(self, *, unused_since: int | None = None) -> set[str]:
        """The layers that are remembered; only those not written since then (seconds since 1970)."""
        limit = (1 << 62) if unused_since is None else unused_since
        return {str(id) for (id,) in self._database.read("SELECT id FROM layer_ids WHERE used < ?", (limit,))}
