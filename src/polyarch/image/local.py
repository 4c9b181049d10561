"""The images of the local store: listed, pulled, loaded, named and forgotten."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from threading import Event

from polyarch.content.copy import Progress, copy
from polyarch.content.layout import Layout
from polyarch.content.names import CONTAINERD_NAME, REF_NAME
from polyarch.content.verify import read_manifest
from polyarch.content.walk import children, is_attestation, pick, variants
from polyarch.errors import NotFoundError, PolyarchError, UsageError
from polyarch.image.archive import ArchiveStore
from polyarch.image.inspect import Inspection, declared_platform, inspect
from polyarch.image.locate import unnamed
from polyarch.image.sparse import Repositories, SparseStore
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference


@dataclass(frozen=True)
class LocalImage:
    """One image and all its names. ``inspection`` is None, and ``problem`` says why, where its content is
    damaged."""

    descriptor: Descriptor
    names: tuple[str, ...]
    inspection: Inspection | None
    problem: str = ""

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """The platforms whose content is here."""
        return self.inspection.platforms if self.inspection else ()

    @property
    def size(self) -> int:
        """Bytes of everything the image leads to, each blob once; layers of a base that were never
        downloaded count as if they were here."""
        return self.inspection.size if self.inspection else self.descriptor.size

    @property
    def created(self) -> str:
        """When its newest variant was made (RFC 3339), or ""."""
        if self.inspection is None:
            return ""
        return max((variant.config.created or "" for variant in self.inspection.variants), default="")


def images(layout: Layout) -> list[LocalImage]:
    """Every image, newest first; those made at the same time by name. Nothing is fetched."""
    roots: dict[str, Descriptor] = {}
    names: dict[str, list[str]] = {}
    for root in layout.roots():
        roots.setdefault(root.digest, root)
        names.setdefault(root.digest, [])
        name = root.annotations.get(CONTAINERD_NAME) or root.annotations.get(REF_NAME)
        if name:
            names[root.digest].append(name)
    found = [_image(layout, unnamed(root), sorted(names[digest])) for digest, root in roots.items()]
    found.sort(key=lambda image: image.names)
    found.sort(key=lambda image: image.created, reverse=True)
    return found


def _image(layout: Layout, root: Descriptor, names: Sequence[str]) -> LocalImage:
    try:
        return LocalImage(root, tuple(names), inspect(layout, root))
    except PolyarchError as error:
        return LocalImage(root, tuple(names), None, error.summary)


def pull(
    reference: Reference,
    local: SparseStore,
    client: Repositories,
    *,
    platforms: Collection[Platform] = (),
    progress: Progress | None = None,
    cancelled: Event | None = None,
) -> Descriptor:
    """Get an image, for ``platforms`` or every one it has, and name it as ``reference`` in the local store.

    An index keeps its bytes and digest in any case; where the variants that were not wanted can be had is
    remembered. NotFoundError (``no-platform``) lists the platforms there are.
    """
    repository = client.repository(reference)
    target = repository.resolve(reference.digest or reference.tag)
    raw = read_manifest(repository, target)
    if platforms and not raw.is_index:
        declared = declared_platform(repository, target)
        pick([declared], platforms, where=str(reference))
    if platforms and raw.is_index:
        kept = {e.digest for e in pick(variants(repository, children(raw)), platforms, where=str(reference))}
        rest = [entry for entry in children(raw) if entry.digest not in kept and not is_attestation(entry)]
        local.origins.record({entry.digest: (reference.name,) for entry in rest})
    copy(
        repository,
        local.layout,
        target,
        platforms=platforms or None,
        progress=progress,
        cancelled=cancelled,
    )
    local.layout.tag(str(reference), target)
    return target


def load(archive: ArchiveStore, layout: Layout, *, progress: Progress | None = None) -> list[LocalImage]:
    """Put every image of ``archive`` into the local store under its full names; those that only have a tag,
    or none, stay without a name."""
    loaded: dict[str, list[str]] = {}
    roots: dict[str, Descriptor] = {}
    for root in archive.roots():
        name = _full_name(root)
        target = unnamed(root)
        if root.digest not in roots:
            copy(archive, layout, target, progress=progress)
        roots[root.digest] = target
        loaded.setdefault(root.digest, [])
        if name:
            loaded[root.digest].append(name)
    for digest, names in loaded.items():
        for name in names:
            layout.tag(name, roots[digest])
        if not names:
            layout.publish(roots[digest])
    return [_image(layout, roots[digest], names) for digest, names in loaded.items()]


def _full_name(root: Descriptor) -> str:
    """The name an archive gives an image, where it is more than a bare tag."""
    given = root.annotations.get(CONTAINERD_NAME) or ""
    other = root.annotations.get(REF_NAME) or ""
    if not given and any(mark in other for mark in ":/"):
        given = other
    return str(Reference.parse(given)) if given else ""


def named(layout: Layout, repository: Reference) -> list[Reference]:
    """The names in the local store that are tags of ``repository``."""
    found = []
    for name, _ in layout.names():
        try:
            reference = Reference.parse(name)
        except UsageError:
            continue  # a foreign name
        if reference.name == repository.name and reference.tag:
            found.append(reference)
    return found


def forget(layout: Layout, text: str, *, force: bool = False) -> list[str]:
    """Remove the name ``text``, or, where it is a digest or the beginning of one, the image with its names
    (several only with ``force``). Returns what is gone. The content stays for the collector, because
    caches and other images may need it. NotFoundError when there is no such image."""
    if layout.untag(text):
        return [str(Reference.parse(text))]
    prefix = text.removeprefix("sha256:")
    matching = [i for i in images(layout) if len(prefix) >= 12 and _starts(i.descriptor.digest, prefix)]
    if not matching:
        raise NotFoundError(
            f"there is no image {text} in the local store",
            hint="'polyarch images' lists what is there",
            reason="not-found",
        )
    gone = []
    for image in matching:
        if len(image.names) > 1 and not force:
            raise UsageError(
                f"{text} has several names: {', '.join(image.names)}",
                hint="name the one to remove, or use --force to remove them all",
                reason="several-names",
            )
        for name in image.names:
            layout.untag(name)
        if not image.names:
            _unpublish(layout, image.descriptor)
        gone += [*image.names, image.descriptor.digest]
    return gone


def _starts(digest: str, prefix: str) -> bool:
    return digest.partition(":")[2].startswith(prefix)


def _unpublish(layout: Layout, descriptor: Descriptor) -> None:
    """Forget an entry without a name."""
    with layout._edit() as table:
        kept = [e for e in table.document["manifests"] if e["digest"] != descriptor.digest or _named(e)]
        table.document["manifests"] = kept


def _named(entry: dict[str, object]) -> bool:
    annotations = entry.get("annotations")
    return isinstance(annotations, dict) and bool(
        annotations.get(CONTAINERD_NAME) or annotations.get(REF_NAME)
    )
