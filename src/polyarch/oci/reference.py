"""Image references: ``[registry/]repository[:tag][@digest]`` (distribution/reference's grammar).

``str()`` gives docker's normalised form: ``alpine`` is ``docker.io/library/alpine:latest``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from polyarch.errors import UsageError
from polyarch.oci import digest as digests

DEFAULT_REGISTRY = "docker.io"
DEFAULT_TAG = "latest"
_LEGACY_REGISTRY = "index.docker.io"
_OFFICIAL = "library/"
_MAXIMUM_PATH = 255

_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_DOMAIN = re.compile(
    r"(?:(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
    r"(?:\.(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9]))*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
)
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[\w][\w.-]{0,127}", re.ASCII)
_HEX64 = re.compile(r"[a-f0-9]{64}")


@dataclass(frozen=True)
class Reference:
    """A normalised reference. ``tag`` and ``digest`` may be empty; at least one is set after ``parse``."""

    registry: str
    repository: str
    tag: str = ""
    digest: str = ""

    @classmethod
    def parse(cls, text: str) -> Reference:
        """UsageError says which part of ``text`` is wrong. Without tag and digest the tag is ``latest``."""
        return _parse(text)

    def __str__(self) -> str:
        text = self.name
        if self.tag:
            text += ":" + self.tag
        if self.digest:
            text += "@" + self.digest
        return text

    @property
    def name(self) -> str:
        """Registry and repository: everything but tag and digest."""
        return f"{self.registry}/{self.repository}"

    @property
    def familiar(self) -> str:
        """The short form docker shows: ``alpine:latest``."""
        text = str(self)
        if self.registry != DEFAULT_REGISTRY:
            return text
        text = text.removeprefix(DEFAULT_REGISTRY + "/")
        official = self.repository.removeprefix(_OFFICIAL)
        return text if "/" in official else text.removeprefix(_OFFICIAL)

    def with_tag(self, tag: str) -> Reference:
        return replace(self, tag=tag, digest="")

    def with_digest(self, digest: str) -> Reference:
        return replace(self, tag="", digest=digest)


def _bad(text: str, why: str) -> UsageError:
    return UsageError(
        f"invalid reference {text[:300]!r}: {why}",
        hint="a reference looks like registry.example.com/team/app:1.0",
        reason="invalid-reference",
    )


def _parse(text: str) -> Reference:
    if _HEX64.fullmatch(text):
        raise _bad(text, "a name of 64 hexadecimal digits would be mistaken for a digest")
    rest, at, digest = text.partition("@")
    if at and not digests.is_valid(digest):
        raise _bad(text, "what follows '@' is not a digest (sha256: and 64 lower-case hexadecimal digits)")
    registry, path = _split_registry(rest)
    # Only the last component can have a tag; a colon before it belongs to nothing.
    folder, slash, last = path.rpartition("/")
    last, colon, tag = last.partition(":")
    path = folder + slash + last
    if colon and not _TAG.fullmatch(tag):
        raise _bad(text, f"{tag[:200]!r} is not a tag (letters, digits, '_', '.', '-'; 128 at most)")
    if not last:
        raise _bad(text, "the repository is missing")
    if path.lower() != path:
        raise _bad(text, "the repository must be in lower case")
    if not _PATH.fullmatch(path):
        raise _bad(text, f"{path[:300]!r} is not a repository name")
    if not _DOMAIN.fullmatch(registry):
        raise _bad(text, f"{registry[:300]!r} is not a registry's host name")
    if len(path) > _MAXIMUM_PATH:
        raise _bad(text, f"the repository name is longer than {_MAXIMUM_PATH} characters")
    if not tag and not digest:
        tag = DEFAULT_TAG
    return Reference(registry, path, tag, digest)


def _split_registry(text: str) -> tuple[str, str]:
    """The registry and the rest. A first component is a registry if it could not be a folder of Docker Hub:
    it has a dot, a colon or an upper-case letter, or is ``localhost``."""
    first, slash, rest = text.partition("/")
    if not slash or not (first == "localhost" or "." in first or ":" in first or first.lower() != first):
        first, rest = DEFAULT_REGISTRY, text
    if first == _LEGACY_REGISTRY:
        first = DEFAULT_REGISTRY
    if first == DEFAULT_REGISTRY and "/" not in rest:
        rest = _OFFICIAL + rest
    return first, rest
