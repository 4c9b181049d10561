"""Manifests and indexes (OCI image-spec, manifest.md and image-index.md; Docker's schema 2 reads alike).

The bytes are the truth: ``Raw`` keeps what was received; ``Manifest`` and ``Index`` are views made from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import msgspec

from polyarch.errors import ContentError
from polyarch.oci import digest as digests
from polyarch.oci import media_types
from polyarch.oci.descriptor import Descriptor

MAX_BYTES = 4 << 20  # the distribution specification lets registries refuse larger manifests


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One image: its config and its layers, lowest first."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    config: Descriptor
    layers: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class Index(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Several manifests behind one name ("manifest list")."""

    schema_version: int
    media_type: str = ""
    artifact_type: str = ""
    manifests: tuple[Descriptor, ...]
    subject: Descriptor | None = None
    annotations: dict[str, str] = {}


class _Peek(msgspec.Struct, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    # msgspec takes no union with Raw; an absent field is empty here.
    manifests: msgspec.Raw = msgspec.Raw()
    layers: msgspec.Raw = msgspec.Raw()
    config: msgspec.Raw = msgspec.Raw()

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return bytes(getattr(self, name)) not in (b"", b"null")


@dataclass(frozen=True)
class Raw:
    """The bytes of a manifest or index as they were received, and what they say."""

    data: bytes
    media_type: str

    @classmethod
    def parse(cls, data: bytes, media_type: str = "") -> Raw:
        """Take ``data`` for a manifest or index; ContentError where it is neither or is both."""
        if len(data) > MAX_BYTES:
            raise ContentError(f"a manifest of {len(data)} bytes is too large", reason="manifest-too-large")
        peek = decode(data, _Peek, "manifest")
        if peek.schema_version == 1:
            raise ContentError(
                "a manifest of Docker's schema 1, which no current tool makes any more, is not supported",
                hint="push the image again with a current tool",
                reason="manifest-schema1",
            )
        if peek.has("manifests") and (peek.has("layers") or peek.has("config")):
            raise ContentError("a manifest claims to be an index too", reason="manifest-ambiguous")
        if not peek.has("manifests") and not peek.has("layers"):
            raise ContentError(
                "not a manifest: neither 'manifests' nor 'layers' is there", reason="invalid-manifest"
            )
        found = peek.media_type or media_type.partition(";")[0].strip()
        if found not in media_types.INDEXES | media_types.MANIFESTS:
            found = media_types.OCI_INDEX if peek.has("manifests") else media_types.OCI_MANIFEST
        if (found in media_types.INDEXES) != peek.has("manifests"):
            raise ContentError(
                f"a manifest's media type {found} does not fit its fields", reason="manifest-ambiguous"
            )
        return cls(data, found)

    @cached_property
    def digest(self) -> str:
        return digests.of(self.data)

    @property
    def descriptor(self) -> Descriptor:
        """A bare descriptor of these bytes, without platform."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=len(self.data))

    @property
    def is_index(self) -> bool:
        return self.media_type in media_types.INDEXES

    @cached_property
    def index(self) -> Index:
        """The view as an index; ContentError where this is a manifest or a field is wrong."""
        return decode(self.data, Index, "index")

    @cached_property
    def manifest(self) -> Manifest:
        """The view as a manifest; ContentError where this is an index or a field is wrong."""
        return decode(self.data, Manifest, "manifest")


_T = TypeVar("_T")


def decode(data: bytes, kind: type[_T], what: str) -> _T:
    """``data`` as JSON of ``kind``; ContentError names ``what`` and the field that is wrong."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise ContentError(f"invalid {what}: {error}", reason=f"invalid-{what}") from None


def encode(value: Manifest | Index) -> Raw:
    """The bytes of a new manifest or index, indented as docker and BuildKit write them."""
    data = msgspec.json.format(msgspec.json.encode(value), indent=2)
    return Raw(data, value.media_type)
