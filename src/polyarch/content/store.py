"""The one protocol for content: memory, an OCI layout on disk, a registry's repository, a remote node."""

from __future__ import annotations

from typing import BinaryIO, Protocol

from polyarch.oci.descriptor import Descriptor


class Store(Protocol):
    """Blobs and manifests by digest, and names for them.

    Every implementation passes the contract suite in ``polyarch.testing.store_contract``.
    """

    def exists(self, digest: str) -> bool:
        """Whether the content of ``digest`` is there, whole."""
        ...

    def open(self, wanted: Descriptor) -> BinaryIO:
        """A readable stream of the content; the caller closes it.

        Digest and size are checked while reading: ContentError at the end (or as soon as there are too many
        bytes) when they differ. NotFoundError when it is not there. Only ``digest`` and ``size`` of
        ``wanted`` matter; ``media_type`` tells a registry manifests from blobs. Streams are not seekable.
        """
        ...

    def push(self, source: BinaryIO, expected: Descriptor) -> None:
        """Store what ``source`` yields under ``expected``.

        Atomic (nobody ever sees a part), idempotent (content that is there is not written again, ``source``
        may then be left unread), verified (ContentError and nothing kept when digest or size differ).
        ``source`` is not closed.
        """
        ...

    def resolve(self, reference: str) -> Descriptor:
        """The descriptor a tag, or a digest written as a reference, names now. NotFoundError when none."""
        ...

    def tag(self, reference: str, target: Descriptor) -> None:
        """Let ``reference`` name ``target``, which must be there (NotFoundError). Replaces atomically."""
        ...
