"""Which images exist for which platforms: one manifest request an image, all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from polyarch.content.state import State
from polyarch.content.store import Store
from polyarch.content.verify import read_manifest
from polyarch.content.walk import children, variants
from polyarch.errors import NotFoundError, PolyarchError
from polyarch.image.inspect import declared_platform
from polyarch.image.locate import locate
from polyarch.oci import platform as platforms
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Raw
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.proof.closest import closest
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
            row = _look(image, wanted, state, client, remote=remote)
            if row.missing:
                lacking = [one for one in wanted if str(one) in row.missing]
                row = msgspec.structs.replace(row, hint=_near(image, client, lacking))
            return row
        except PolyarchError as error:
            hint = error.hint
            if isinstance(error, NotFoundError):
                hint = _near(image, client, wanted) or hint
            missing = tuple(str(platform) for platform in wanted)
            return Availability(image=image, missing=missing, problem=error.summary, hint=hint)

    with ThreadPoolExecutor(workers, thread_name_prefix="check") as pool:
        return list(pool.map(one, images))


def _look(
    image: str, wanted: Sequence[Platform], state: State, client: Client, *, remote: bool
) -> Availability:
    store, root, raw = _find(image, state, client, remote=remote)
    entries = children(raw) if raw.is_index else [declared_platform(store, root)]
    there = [e.platform for e in variants(store, entries) if e.platform is not None]
    missing = [str(one) for one in wanted if platforms.choose(one, there) is None]
    return Availability(
        image=image,
        digest=raw.digest,
        platforms=tuple(dict.fromkeys(str(platform.normalized()) for platform in there)),
        missing=tuple(missing),
    )


def _find(image: str, state: State, client: Client, *, remote: bool) -> tuple[Store, Descriptor, Raw]:
    """The image where it is: on disk or in the local store, else by one request to its registry."""
    on_disk = image.startswith(("oci-layout://", "oci-archive:"))
    if on_disk or not remote:
        try:
            found = locate(image, state=state, client=client, remote=False)
            return found.store, found.descriptor, read_manifest(found.store, found.descriptor)
        except NotFoundError:
            if on_disk:
                raise
    reference = Reference.parse(image.removeprefix("docker-image://"))
    repository = client.repository(reference)
    return repository, *repository.manifest(reference.digest or reference.tag)


def _near(image: str, client: Client, wanted: Sequence[Platform]) -> str:
    """Tags like the one that is not there, or lacks platforms."""
    try:
        tags = closest(client, Reference.parse(image.removeprefix("docker-image://")), wanted)
    except PolyarchError:
        return ""
    which = f" that has {', '.join(map(str, wanted))}" if wanted else ""
    return f"closest tag{which}: {', '.join(tags)}" if tags else ""
