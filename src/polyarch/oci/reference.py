"""Image references: ``[registry/]repository[:tag][@digest]`` (distribution/reference's grammar).

``str()`` gives docker's normalised form: ``alpine`` is ``docker.io/library/alpine:latest``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from polyarch.errors import UsageError
from polyarch.oci import digest as digests

DEFAULT_REGISTRY = "docker.io"

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
        if text.startswith("docker.io/library/"):
            return text.removeprefix("docker.io/library/")
        return text.removeprefix("docker.io/")

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
    if at and not digests.looks_like(digest):
        raise _bad(text, "what follows '@' is not a digest")
    if digest:
        try:
            digests.parse(digest)
        except Exception:
            raise _bad(text, "what follows '@' is not a valid digest") from None
    registry, path = _split_domain(rest)
    tag = ""
    last = path.rpartition("/")[2]
    if ":" in last:
        path, _, tag = path.rpartition(":")
        if not _TAG.fullmatch(tag):
            raise _bad(text, f"{tag!r} is not a tag (letters, digits, '_', '.', '-'; 128 at most)")
    if not path:
        raise _bad(text, "the repository is missing")
    if path.lower() != path:
        raise _bad(text, "the repository must be in lower case")
    if not _PATH.fullmatch(path):
        raise _bad(text, f"{path!r} is not a repository name")
    if not _DOMAIN.fullmatch(registry):
        raise _bad(text, f"{registry!r} is not a registry's host name")
    if len(path) > 255:
        raise _bad(text, "the repository name is longer than 255 characters")
    if registry == "index.docker.io":
        registry = DEFAULT_REGISTRY
    if registry == DEFAULT_REGISTRY and "/" not in path:
        path = "library/" + path
    if not tag and not digest:
        tag = "latest"
    return Reference(registry, path, tag, digest)


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if slash and (any(c in first for c in ".:[") or first == "localhost" or first.lower() != first):
        return first, rest
    return DEFAULT_REGISTRY, text
