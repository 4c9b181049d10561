"""Which images exist for which platforms: one manifest request an image, all of them at once."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from polyarch.content.state import State
from polyarch.content.verify import read_manifest
from polyarch.content.walk import children, variants
from polyarch.errors import NotFoundError, PolyarchError
from polyarch.image.inspect import declared_platform
from polyarch.image.locate import locate
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.registry.client import Client


class Availability(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One image. ``platforms`` are those it has; ``missing`` those that were asked for and no variant serves.
    ``problem`` says why nothing is known of it, ``hint`` what may help."""

    image: str
    digest: str = ""
    platforms: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    problem: str = ""
    hint: str = ""

    def has(self, wanted: str) -> bool:
        """Whether a variant serves the platform ``wanted``."""
        return not self.problem and wanted not in self.missing


def availability(
    images: Sequence[str],
    wanted: Sequence[Platform],
    *,
    state: State,
    client: Client,
    remote: bool = False,
    workers: int = 8,
) -> list[Availability]:
    """One answer an image, in order. ``remote`` asks registries even for what the local store has."""

    def one(image: str) -> Availability:
        try:
            return _look(image, wanted, state, client, remote=remote)
        except PolyarchError as error:
            hint = error.hint
            if isinstance(error, NotFoundError):
                hint = _near(image, client) or hint
            missing = tuple(str(platform) for platform in wanted)
            return Availability(image=image, missing=missing, problem=error.summary, hint=hint)

    with ThreadPoolExecutor(workers, thread_name_prefix="check") as pool:
        return list(pool.map(one, images))


def _look(
    image: str, wanted: Sequence[Platform], state: State, client: Client, *, remote: bool
) -> Availability:
    found = locate(image, state=state, client=client, local=not remote)
    raw = read_manifest(found.store, found.descriptor)
    entries = children(raw) if raw.is_index else [declared_platform(found.store, found.descriptor)]
    there = [e.platform for e in variants(found.store, entries) if e.platform is not None]
    missing = [str(one) for one in wanted if platforms.choose(one, there) is None]
    return Availability(
        image=image,
        digest=raw.digest,
        platforms=tuple(dict.fromkeys(str(platform.normalized()) for platform in there)),
        missing=tuple(missing),
    )


def _near(image: str, client: Client) -> str:
    """Tags that look like the one that is not there."""
    try:
        reference = Reference.parse(image)
        tags = client.repository(reference).tags()
    except PolyarchError:
        return ""
    close = difflib.get_close_matches(reference.tag, tags, n=3, cutoff=0.5)
    return f"tags it has: {', '.join(close)}" if close else ""
