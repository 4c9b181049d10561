"""From what a user writes to where an image is: a name in the local store, a registry's reference, a layout
or an archive on disk."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from polyarch.content.layout import Layout
from polyarch.content.names import CONTAINERD_NAME, REF_NAME
from polyarch.content.state import State
from polyarch.content.store import Store
from polyarch.errors import NotFoundError, PolyarchError, UsageError
from polyarch.image.origins import Origins
from polyarch.image.sparse import Repositories, SparseStore
from polyarch.oci import digest as digests
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.reference import Reference


class Located(NamedTuple):
    """The store that has it, what it is, and its full name."""

    store: Store
    descriptor: Descriptor
    name: str

    @property
    def is_local(self) -> bool:
        """Whether it was found in the local store."""
        return isinstance(self.store, SparseStore)


def unnamed(descriptor: Descriptor) -> Descriptor:
    """``descriptor`` without the annotations by which a layout names it."""
    kept = {k: v for k, v in descriptor.annotations.items() if k not in (CONTAINERD_NAME, REF_NAME)}
    return msgspec.structs.replace(descriptor, annotations=kept)


def local_store(state: State, client: Repositories) -> SparseStore:
    """The local store; layers that were never downloaded come from their origins."""
    return SparseStore(Layout.local(state), Origins(state), client)


def locate(
    text: str,
    *,
    state: State,
    client: Repositories,
    local: bool = True,
    remote: bool = True,
) -> Located:
    """Find ``text``.

    ``oci-layout://PATH[:TAG][@DIGEST]`` and ``oci-archive:FILE[:TAG]`` are on disk. Everything else is a
    reference (``docker-image://`` in front of it is allowed) or the digest, or the first 12 or more digits
    of it, of an image in the local store; that is asked first if ``local``, the registry then if ``remote``.
    NotFoundError says where it was looked for. The descriptor is free of what names it there.
    """
    found = _locate(text, state, client, local=local, remote=remote)
    return found._replace(descriptor=unnamed(found.descriptor))


def _locate(text: str, state: State, client: Repositories, *, local: bool, remote: bool) -> Located:
    if text.startswith("oci-layout://"):
        return _in_layout(text, text.removeprefix("oci-layout://"))
    if text.startswith("oci-archive:"):
        return _in_archive(text, text.removeprefix("oci-archive:").removeprefix("//"))
    wanted = text.removeprefix("docker-image://")
    if local and (found := _in_local(wanted, local_store(state, client))):
        return found
    if digests.is_valid(wanted) or not remote:
        raise NotFoundError(
            f"{wanted} is not in the local store",
            hint="'polyarch images' lists what is there; 'polyarch pull' gets more",
            reason="not-found",
        )
    reference = Reference.parse(wanted)
    store = client.repository(reference)
    descriptor = store.resolve(reference.digest or reference.tag)
    return Located(store, descriptor, str(reference))


def _in_local(text: str, store: SparseStore) -> Located | None:
    if digests.is_valid(text):
        try:
            return Located(store, store.resolve(text), text)
        except NotFoundError:
            return None
    try:
        reference = Reference.parse(text)
    except UsageError:
        return _by_prefix(text, store)
    try:
        if reference.digest:
            # The digest decides; a name that once led to it may be gone.
            return Located(store, store.resolve(reference.digest), str(reference))
        return Located(store, store.resolve(str(reference)), str(reference))
    except NotFoundError:
        return _by_prefix(text, store)


def _by_prefix(text: str, store: SparseStore) -> Located | None:
    """An image by the first digits of its digest, as ``polyarch images`` shows them."""
    prefix = text.removeprefix("sha256:")
    if not 12 <= len(prefix) <= 64 or any(c not in "0123456789abcdef" for c in prefix):
        return None
    found = {
        root.digest: root for root in store.layout.roots() if digests.encoded(root.digest).startswith(prefix)
    }
    if len(found) > 1:
        raise UsageError(f"{text} is the beginning of several images' digests", reason="ambiguous-digest")
    for digest, root in found.items():
        return Located(store, root, digest)
    return None


def _in_layout(text: str, rest: str) -> Located:
    path, at, digest = rest.partition("@")
    if at:
        digests.parse(digest)
    tag = ""
    if not Path(path).exists() and ":" in path.rpartition("/")[2]:
        path, _, tag = path.rpartition(":")
    layout = Layout(Path(path), create=False)
    if digest:
        return Located(layout, layout.resolve(digest), text)
    return Located(layout, _named(layout, layout.roots(), tag, text), text)


def _in_archive(text: str, rest: str) -> Located:
    path, tag = rest, ""
    if not Path(path).exists() and ":" in path.rpartition("/")[2]:
        path, _, tag = path.rpartition(":")
    from polyarch.image.archive import ArchiveStore

    store = ArchiveStore.open_file(Path(path))
    return Located(store, _named(store, store.roots(), tag, text), text)


def _named(store: Store, roots: list[Descriptor], tag: str, text: str) -> Descriptor:
    """The image ``tag`` names or, without a tag, ``latest`` or the only one there is."""
    try:
        return store.resolve(tag or "latest")
    except PolyarchError:
        if tag:
            raise
    if len({root.digest for root in roots}) == 1:
        return roots[0]
    names = sorted({n for r in roots for n in (r.annotations.get(REF_NAME),) if n})
    raise NotFoundError(
        f"{text} does not say which of its {len(roots)} images is meant",
        hint=f"add one of its tags: {', '.join(names)}" if names else "add @DIGEST",
        reason="ambiguous-image",
    )
