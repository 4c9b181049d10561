"""What the registry keeps on disk: one OCI layout for the bytes of all repositories, and for every repository
small files that say which of them it has.

    blobs/sha256/…                                the layout's content, shared
    repositories/NAME/_blobs/sha256/HEX           empty: NAME has this blob
    repositories/NAME/_manifests/sha256/HEX       the media type of a manifest that NAME has
    repositories/NAME/_tags/TAG                   the digest that TAG names
    repositories/NAME/_referrers/sha256/HEX/…     empty: a manifest whose subject is HEX
    repositories/NAME/_uploads/ID                 the bytes of an unfinished upload

No component of a repository's name can begin with an underscore, so nothing collides. Every file appears
atomically; a tag is written after what it names is durable.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from polyarch.content import ingest
from polyarch.content.layout import Layout
from polyarch.oci import digest as digests
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.manifest import Raw
from polyarch.registry.server.refusal import Refusal

# distribution-spec, "Pulling manifests"
_NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_MAX_NAME = 255


def is_tag(text: str) -> bool:
    return _TAG.fullmatch(text) is not None


def checked_digest(text: str) -> str:
    """``text`` when it is a digest we can compute; Refusal else."""
    if not digests.is_valid(text):
        raise Refusal(400, "DIGEST_INVALID", "the digest is not valid, or of an unknown algorithm", text)
    return text


class Storage:
    """All repositories below one folder. Methods block; they may be called from any thread."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.layout = Layout(root)

    def shelf(self, name: str) -> Shelf:
        """One repository, there or not; Refusal when ``name`` cannot be one."""
        if len(name) > _MAX_NAME or not _NAME.fullmatch(name):
            raise Refusal(400, "NAME_INVALID", "the repository's name is not valid", name)
        return Shelf(name, self.root / "repositories" / name, self.layout)

    def names(self) -> list[str]:
        """Every repository that has a manifest, sorted."""
        return sorted(self._find(self.root / "repositories", ""))

    def _find(self, folder: Path, prefix: str) -> Iterator[str]:
        try:
            entries = sorted(
                entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)
            )
        except FileNotFoundError:
            return
        if prefix and "_manifests" in entries:
            yield prefix
        for entry in entries:
            if not entry.startswith("_"):
                yield from self._find(folder / entry, f"{prefix}/{entry}" if prefix else entry)


@dataclass(frozen=True)
class Shelf:
    """One repository: which blobs and manifests are visible in it, and its tags."""

    name: str
    folder: Path
    layout: Layout

    @property
    def exists(self) -> bool:
        return (self.folder / "_manifests").is_dir()

    @property
    def uploads(self) -> Path:
        return self.folder / "_uploads"

    # --- blobs ----------------------------------------------------------------------------------------------

    def blob(self, digest: str) -> Path | None:
        """The file of a blob that is visible here."""
        return self._content("_blobs", digest)

    def add_blob(self, digest: str) -> None:
        """Make a blob of the shared store visible here."""
        _touch(self._entry("_blobs", digest))

    def remove_blob(self, digest: str) -> bool:
        return _remove(self._entry("_blobs", digest))

    # --- manifests and tags ---------------------------------------------------------------------------------

    def resolve(self, reference: str) -> str | None:
        """The digest that a tag, or a digest, names here."""
        if ":" in reference:
            digest = checked_digest(reference)
        elif is_tag(reference):
            try:
                digest = (self.folder / "_tags" / reference).read_text()
            except FileNotFoundError:
                return None
        else:
            raise Refusal(400, "TAG_INVALID", "the tag is not valid", reference)
        return digest if self._content("_manifests", digest) else None

    def manifest(self, digest: str) -> Raw | None:
        """A manifest that is visible here, as it was received."""
        path = self._content("_manifests", digest)
        if path is None:
            return None
        return Raw(path.read_bytes(), self._entry("_manifests", digest).read_text())

    def has_manifest(self, digest: str) -> bool:
        return self._content("_manifests", digest) is not None

    def add_manifest(self, raw: Raw, digest: str, tag: str, subject: str) -> None:
        """Keep a manifest that was found right, then let ``tag`` (if any) name it."""
        expected = Descriptor(media_type=raw.media_type, digest=digest, size=len(raw.data))
        self.layout.push(io.BytesIO(raw.data), expected)
        entry = self._entry("_manifests", digest)
        if not entry.exists() or entry.read_text() != raw.media_type:
            self._write(entry, raw.media_type)
        if subject:
            _touch(self._referrers(subject) / digest.replace(":", "-"))
        if tag:
            self._settle(digest)
            self._write(self.folder / "_tags" / tag, digest)

    def remove_manifest(self, digest: str, subject: str) -> bool:
        """Forget a manifest and every tag that names it; whether it was there."""
        for tag in self.tags():
            path = self.folder / "_tags" / tag
            if path.read_text() == digest:
                _remove(path)
        if subject:
            _remove(self._referrers(subject) / digest.replace(":", "-"))
        return _remove(self._entry("_manifests", digest))

    def tags(self) -> list[str]:
        """Every tag, sorted by its bytes."""
        try:
            return sorted(name for name in os.listdir(self.folder / "_tags") if is_tag(name))
        except FileNotFoundError:
            return []

    def remove_tag(self, tag: str) -> bool:
        return _remove(self.folder / "_tags" / tag)

    def referrers(self, subject: str) -> list[str]:
        """The digests of the manifests whose subject is ``subject``, sorted."""
        try:
            names = os.listdir(self._referrers(subject))
        except FileNotFoundError:
            return []
        return sorted(name.replace("-", ":", 1) for name in names)

    # --- inside ---------------------------------------------------------------------------------------------

    def _entry(self, kind: str, digest: str) -> Path:
        checked = checked_digest(digest)
        return self.folder / kind / digests.algorithm(checked) / digests.encoded(checked)

    def _referrers(self, subject: str) -> Path:
        return self._entry("_referrers", subject)

    def _content(self, kind: str, digest: str) -> Path | None:
        if not self._entry(kind, digest).is_file():
            return None
        path = self.layout.root / "blobs" / digests.algorithm(digest) / digests.encoded(digest)
        return path if path.is_file() else None

    def _settle(self, digest: str) -> None:
        """Make the names of everything a tag may lead to durable, before the tag."""
        algorithm = digests.algorithm(digest)
        folders = [self.layout.root / "blobs" / algorithm, self.folder / "_manifests" / algorithm]
        folders += [self.layout.root / "blobs" / "sha256", self.folder / "_blobs" / "sha256", self.folder]
        for folder in dict.fromkeys(folders):
            if folder.is_dir():
                ingest.sync_folder(folder)

    def _write(self, path: Path, text: str) -> None:
        self.layout.write_file(path.relative_to(self.layout.root), text.encode())


def _touch(path: Path) -> None:
    with ingest.disk("storing content", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(exist_ok=True)


def _remove(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
