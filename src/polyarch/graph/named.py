"""``--build-context NAME=VALUE``: from text to named contexts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from polyarch.context.git_url import is_git_url
from polyarch.context.http import is_http_url
from polyarch.errors import NotFoundError, UsageError
from polyarch.graph.stages import NamedContext, context_key


def build_contexts(texts: Iterable[str]) -> Mapping[str, NamedContext]:
    """``NAME=VALUE`` options, by the key under which they are looked up."""
    found: dict[str, NamedContext] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(
                f"invalid build context {text!r}: expected NAME=VALUE",
                hint="VALUE: a directory, docker-image://REF, oci-layout://PATH, a URL, target:STAGE",
                reason="invalid-build-context",
            )
        base, colons, platform = name.partition("::")
        key = context_key(base) + (f"::{platform}" if colons else "")
        found[key] = _named_context(key, value)
    return found


def _named_context(key: str, value: str) -> NamedContext:
    for prefix, kind in (("docker-image://", "image"), ("oci-layout://", "layout"), ("target:", "target")):
        if value.startswith(prefix):
            return NamedContext(key, kind, value.removeprefix(prefix))  # type: ignore[arg-type]  # one of its words
    if is_git_url(value):
        return NamedContext(key, "git", value)
    if is_http_url(value):
        return NamedContext(key, "http", value)
    if not Path(value).is_dir():
        raise NotFoundError(
            f"--build-context {key}={value}: there is no such directory", reason="context-not-found"
        )
    return NamedContext(key, "local", value)
