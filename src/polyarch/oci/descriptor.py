"""Descriptors: typed, sized, digested links to content (OCI image-spec, descriptor.md)."""

from __future__ import annotations

import msgspec

from polyarch.oci.platform import Platform


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What content is: its media type, digest and size in bytes, and optionally more."""

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()
    annotations: dict[str, str] = {}
    data: str = ""
    platform: Platform | None = None
    artifact_type: str = ""

    def __hash__(self) -> int:
        return hash(self.digest)
