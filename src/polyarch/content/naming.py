"""What a reference means to a store of our own: a name it keeps, or a digest it holds."""

from __future__ import annotations

from polyarch.errors import NotFoundError, PolyarchError
from polyarch.oci import digest as digests
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Raw
from polyarch.oci.reference import Reference

OPAQUE = "application/octet-stream"


def digest_of(reference: str) -> str:
    """The digest that ``reference`` is or ends in (``name@digest``), or an empty string."""
    before, at, candidate = reference.rpartition("@")
    if at and before:
        return digests.parse(candidate)
    return reference if digests.is_valid(reference) else ""


def normalized(reference: str) -> str:
    """docker's full form of ``reference``; unchanged where it is no reference (as in foreign layouts)."""
    try:
        return str(Reference.parse(reference))
    except PolyarchError:
        return reference


def missing(what: str, where: str) -> NotFoundError:
    """The error for content or a name that is not there."""
    return NotFoundError(f"{what} is not in {where}", reason="not-found")


def describe(data: bytes, digest: str) -> Descriptor:
    """The descriptor of a small blob, with the media type its content shows."""
    media_type = OPAQUE
    if data.lstrip()[:1] == b"{":
        try:
            media_type = Raw.parse(data).media_type
        except PolyarchError:
            pass  # other JSON, such as an image's config
    return Descriptor(media_type=media_type, digest=digest, size=len(data))
