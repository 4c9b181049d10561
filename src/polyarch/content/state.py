"""Where polyarch keeps what it keeps: ``$POLYARCH_ROOT``, by default ``$XDG_DATA_HOME/polyarch``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from polyarch.content.place import RECORDS, state_root


def default_root() -> Path:
    """The state directory for this user and environment."""
    return Path(state_root())


@dataclass(frozen=True)
class State:
    """The folders of one state directory. Nothing is created until something is written."""

    root: Path

    @classmethod
    def default(cls) -> State:
        return cls(default_root())

    @property
    def content(self) -> Path:
        """An OCI layout: blobs, and the local images' names in its index.json."""
        return self.root / "content"

    @property
    def trees(self) -> Path:
        """Layers as directories for overlayfs."""
        return self.root / "trees"

    @property
    def database(self) -> Path:
        """SQLite: cache keys, results, forms of layers, the context index."""
        return self.root / "cache.db"

    @property
    def cache_mounts(self) -> Path:
        """Directories behind ``RUN --mount=type=cache``."""
        return self.root / "mounts"

    @property
    def sources(self) -> Path:
        """Checkouts and downloads of git and http sources."""
        return self.root / "sources"

    @property
    def uploads(self) -> Path:
        """Journals of uploads to registries."""
        return self.root / "uploads"

    @property
    def locks(self) -> Path:
        """Locks between processes; nothing in it matters when none runs."""
        return self.root / "locks"

    @property
    def unchanged(self) -> Path:
        """What builds depended on, so that an unchanged one is answered at once."""
        return self.root / RECORDS

    @property
    def leases(self) -> Path:
        """What tells a collector which processes live; see ``content.lease``."""
        return self.root / "leases"

    @property
    def emulators(self) -> Path:
        """Emulators as steps use them, and those that were taken from an image."""
        return self.root / "emulators"

    @property
    def builders(self) -> Path:
        return self.root / "builders"

    @property
    def history(self) -> Path:
        return self.root / "history"

    @property
    def temporary(self) -> Path:
        """Scratch space on the same file system; emptied when no build runs."""
        return self.root / "tmp"
