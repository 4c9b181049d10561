"""A tag is moved only if it still names what the user believes: against two releases at the same time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from polyarch.errors import NotFoundError, PolyarchError, UsageError
from polyarch.oci import digest as digests
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.reference import Reference

NONE = "none"  # in place of a digest: the tag must not be there yet


class _Repository(Protocol):
    def resolve(self, reference: str) -> Descriptor: ...


class Repositories(Protocol):
    """What opens repositories: ``registry.client.Client``."""

    def repository(self, reference: Reference, /) -> _Repository: ...


def parse(text: str) -> str:
    """A digest, or ``none``; UsageError for anything else."""
    if text != NONE and not digests.is_valid(text):
        raise UsageError(
            f"--if-tag-is {text!r} is no digest",
            hint="write sha256:…, or none for a tag that must not be there yet",
            reason="invalid-digest",
        )
    return text


def guard(client: Repositories, references: Sequence[Reference], expected: str) -> Callable[[], None]:
    """Check the tags now, before anything is sent, and return what checks them again before they are written.
    Without ``expected`` neither does anything."""

    def check() -> None:
        if expected:
            check_tags(client, references, parse(expected))

    check()
    return check


def check_tags(client: Repositories, references: Sequence[Reference], expected: str) -> None:
    """Raise PolyarchError (``tag-moved``) unless every tag names ``expected``. Registries cannot compare and
    set in one request: somebody who pushes in the instant between this and the tag is not seen."""
    for reference in references:
        if not reference.tag:
            continue
        try:
            found = client.repository(reference).resolve(reference.tag).digest
        except NotFoundError:
            found = NONE
        if found != expected:
            state = "does not exist" if found == NONE else f"names {found}"
            raise PolyarchError(
                f"{reference} {state}, not {expected} as --if-tag-is says",
                hint="somebody else has moved it; look at what it names now, and push again",
                reason="tag-moved",
            )
