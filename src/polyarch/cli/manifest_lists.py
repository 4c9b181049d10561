"""Local manifest lists, as ``docker manifest create`` makes them: drafts of an index, kept until pushed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.content.store import Store
from polyarch.errors import NotFoundError, UsageError
from polyarch.export.push import push_combined
from polyarch.image import assemble
from polyarch.image.combine import Combined
from polyarch.image.inspect import declared_platform
from polyarch.image.locate import locate
from polyarch.oci import media_types
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Raw, decode
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.registry.client import Client


class Member(msgspec.Struct, frozen=True):
    """A manifest of a list, and the reference it is read from."""

    name: str
    descriptor: Descriptor


class Draft(msgspec.Struct, frozen=True):
    """A list under its name."""

    name: str
    members: tuple[Member, ...]

    def raw(self) -> Raw:
        """The index as it would be pushed now: docker's kind where all members are docker's."""
        entries = [member.descriptor for member in self.members]
        docker = all(entry.media_type == media_types.DOCKER_MANIFEST for entry in entries)
        return assemble.index(entries, media_types="docker" if docker else "oci")

    def entry(self, reference: Reference) -> Member:
        """The member ``reference`` means."""
        for member in self.members:
            if member.name == str(reference) or (
                reference.digest and member.descriptor.digest == reference.digest
            ):
                return member
        raise NotFoundError(
            f"{reference} is not in the manifest list {self.name}",
            hint="it has " + ", ".join(member.name for member in self.members),
            reason="not-found",
        )


class ManifestLists:
    """The drafts of one state directory, a file each."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._layout = Layout.local(state)

    def find(self, reference: Reference | None) -> Draft | None:
        """The draft of that name, if there is one."""
        if reference is None:
            return None
        try:
            return decode(self._path(reference).read_bytes(), Draft, "manifest list")
        except FileNotFoundError:
            return None

    def get(self, reference: Reference) -> Draft:
        """The draft of that name (NotFoundError)."""
        found = self.find(reference)
        if found is None:
            raise NotFoundError(
                f"there is no local manifest list {reference}",
                hint="make one with 'polyarch manifest create'",
                reason="not-found",
            )
        return found

    def create(self, reference: Reference, manifests: Sequence[str], *, client: Client, amend: bool) -> None:
        """Make a list of manifests from registries or the local store, or add to one with ``amend``."""
        before = self.find(reference)
        if before is not None and not amend:
            raise UsageError(
                f"refusing to amend the existing manifest list {reference}",
                hint="add --amend, or remove it with 'polyarch manifest rm'",
                reason="list-exists",
            )
        members = {member.descriptor.digest: member for member in (before.members if before else ())}
        for name in manifests:
            found = locate(name, state=self._state, client=client)
            if found.descriptor.media_type in media_types.INDEXES:
                raise UsageError(
                    f"{name} is itself a manifest list",
                    hint="name one of its manifests by digest, or use 'polyarch imagetools create'",
                    reason="nested-index",
                )
            described = declared_platform(found.store, found.descriptor)
            members[described.digest] = Member(found.name, described)
        self._write(reference, Draft(str(reference), tuple(members.values())))

    def annotate(self, reference: Reference, member: Reference, changes: Mapping[str, Any]) -> None:
        """Change the platform of a member."""
        draft = self.get(reference)
        chosen = draft.entry(member)
        platform = chosen.descriptor.platform or Platform(os="", architecture="")
        changed = msgspec.structs.replace(platform, **changes)
        if not changed.os or not changed.architecture:
            raise UsageError(f"{member} needs an os and an architecture", reason="no-platform")
        entry = Member(chosen.name, msgspec.structs.replace(chosen.descriptor, platform=changed))
        members = tuple(entry if one is chosen else one for one in draft.members)
        self._write(reference, Draft(draft.name, members))

    def sources(self, reference: Reference) -> list[str]:
        """The names of a list's members."""
        return [member.name for member in self.get(reference).members if "://" not in member.name]

    def push(self, reference: Reference, *, client: Client) -> str:
        """Push a list and everything in it; returns its digest."""
        draft = self.get(reference)
        parts: list[tuple[Store, Descriptor]] = []
        for member in draft.members:
            found = locate(member.name, state=self._state, client=client)
            parts.append((found.store, member.descriptor))
        raw = draft.raw()
        push_combined(Combined(raw, tuple(parts)), [reference], client=client)
        return raw.digest

    def remove(self, reference: Reference) -> None:
        """Forget a list (NotFoundError)."""
        self.get(reference)
        self._path(reference).unlink(missing_ok=True)

    def _path(self, reference: Reference) -> Path:
        """Beside the blobs, under a name that no reference can break out of."""
        return (
            self._layout.root / "manifests" / (hashlib.sha256(str(reference).encode()).hexdigest() + ".json")
        )

    def _write(self, reference: Reference, draft: Draft) -> None:
        path = self._path(reference).relative_to(self._layout.root)
        self._layout.write_file(path, msgspec.json.encode(draft))
