"""A part of an image, built on a machine of its own: its variants, and from what they were made.

A folder of parts is an OCI layout whose blobs are the parts' content, and a record for each part beside them,
``linux-arm64.part.json``. Folders of several machines are joined by copying them into one: blobs are named by
what they hold, records by their platforms. ``export.joining`` makes the whole of them.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from polyarch.content.copy import copy
from polyarch.content.ingest import sync_folder
from polyarch.content.layout import Layout
from polyarch.content.store import Store
from polyarch.content.walk import is_manifest, walk
from polyarch.errors import PolyarchError, UsageError
from polyarch.export.output import Output
from polyarch.export.result import ExportSummary
from polyarch.image.sparse import SparseStore
from polyarch.layer.rootfs import Rootfs
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference

SUFFIX = ".part.json"
VERSION = 1
LISTING = "application/vnd.polyarch.listing.v1+text"
_OWN = frozenset({"blobs", "oci-layout", "index.json", "ingest"})  # what a layout has beside the records


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """From what a part was made; parts of one image agree in all of it.

    ``context`` is the digest of ``listing``, the names, types and contents of the context's files; its times
    and owners differ between checkouts and do not count. ``revision`` is the commit that is checked out, ""
    where there is none. ``arguments`` are digests of build arguments by name, ``bases`` digests of images by
    the name the Dockerfile has for them, ``contexts`` those of named contexts.
    """

    revision: str = ""
    context: str
    listing: Descriptor
    dockerfile: str
    target: str = ""
    arguments: dict[str, str] = {}
    bases: dict[str, str] = {}
    contexts: dict[str, str] = {}


class Part(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The record. ``manifests`` are its variants', with their platforms; ``whole`` are the platforms of the
    whole image where the build was told. ``repository`` has the content that is not beside the record;
    ``origins`` say where layers can be had besides. ``code`` tells whether there are programs in it."""

    version: int
    manifests: tuple[Descriptor, ...]
    source: Source
    whole: tuple[str, ...] = ()
    repository: str = ""
    origins: dict[str, tuple[str, ...]] = {}
    code: bool = True

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """For which platforms it has variants."""
        return tuple(one.platform for one in self.manifests if one.platform is not None)


def file_name(platforms: Sequence[Platform]) -> str:
    """What the record of a part with these platforms is called."""
    words = [re.sub(r"[^a-z0-9.]+", "-", str(platform).lower()).strip("-") for platform in platforms]
    return "+".join(words) + SUFFIX


def as_outputs(outputs: Sequence[Output], tags: Sequence[Reference]) -> tuple[tuple[Output, ...], str]:
    """The outputs of a part, and the repository that its content is pushed to ("" when it stays in the
    folder): what would be pushed under a tag is pushed by digest, because tags are for the whole."""
    changed = []
    repository = ""
    for output in outputs:
        if output.push:
            names = tags or output.names
            repository = repository or (names[0].name if names else "")
            bare = tuple(dict.fromkeys(name.with_tag("") for name in names))
            output = replace(output, push_by_digest=True, names=bare)
        changed.append(output)
    return tuple(changed), repository


def check(folder: Path, whole: Sequence[Platform], platforms: Sequence[Platform]) -> None:
    """Refuse, before anything is built, what cannot become a part (UsageError)."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--part {folder}: there is a file of that name", reason="destination-is-file")
    there = {str(one.normalized()) for one in whole}
    outside = [str(one) for one in platforms if whole and str(one.normalized()) not in there]
    if outside:
        raise UsageError(
            f"--part-of does not name {', '.join(outside)}, which this part is built for",
            hint="--part-of lists every platform of the whole image",
            reason="part-of",
        )


def write(
    folder: Path,
    store: SparseStore,
    summary: ExportSummary,
    source: Source,
    listing: bytes,
    *,
    whole: Sequence[Platform] = (),
    repository: str = "",
    code: bool = True,
) -> Path:
    """Leave the part in ``folder``: content first, the record last and at once. A part for the same platforms
    that was there is replaced. With ``repository`` only manifests and configs are kept here."""
    layout = Layout(folder)
    blobs: list[str] = []
    manifests = tuple(one.manifest for one in summary.platforms)
    for manifest in manifests:
        if repository:
            _copy_head(store, layout, manifest)
        else:
            copy(store, layout, manifest)
        blobs += [blob.digest for blob in walk(store, manifest, sparse=True) if not is_manifest(blob)]
    layout.push_bytes(listing, LISTING)
    origins = {
        digest: kept
        for digest, places in store.places(blobs).items()
        if (kept := tuple(place for place in places if not place.startswith("oci-layout:")))
    }
    part = Part(
        version=VERSION,
        manifests=manifests,
        source=source,
        whole=tuple(str(one) for one in whole),
        repository=repository,
        origins=origins,
        code=code,
    )
    target = folder / file_name(part.platforms)
    _replace(target, msgspec.json.format(msgspec.json.encode(part), indent=1) + b"\n")
    return target


def _copy_head(store: Store, layout: Layout, manifest: Descriptor) -> None:
    """The manifest and its config, not its layers."""
    from polyarch.content.verify import read, read_manifest

    raw = read_manifest(store, manifest)
    config = raw.manifest.config
    layout.push_bytes(read(store, config, limit=8 << 20), config.media_type)
    layout.push_bytes(raw.data, raw.media_type)


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise PolyarchError(f"cannot write {path}: {error.strerror}", reason="write-failed") from None
    finally:
        temporary.unlink(missing_ok=True)


# --- from what a part is made -------------------------------------------------------------------------------


def listing_of(files: Rootfs, leave_out: str = "") -> bytes:
    """A line for every file of a context: its content, and its name; sorted. Without git's own files, which
    differ between checkouts, and without ``leave_out``, a folder of parts inside the context."""
    lines = []
    names: list[str] = []
    for entry in files.walk():
        if _is_left_out(entry.path, leave_out):
            continue
        match entry.type:
            case "file" | "hardlink":
                names.append(entry.path)
            case "symlink":
                lines.append(f"link {entry.link} {entry.path}")
            case "directory":
                pass
            case _:
                lines.append(f"{entry.type} {entry.path}")
    for name, entry in zip(names, files.files(names), strict=True):
        lines.append(f"{entry.digest}{' x' if entry.mode & 0o100 else ''} {name}")
    lines.sort(key=lambda line: line.rpartition(" ")[2])
    return "\n".join(lines).encode("utf-8", "surrogateescape")


def _is_left_out(path: str, folder: str) -> bool:
    """Whether a context's file is git's, or of ``folder``, the parts' ("." when that is the context)."""
    first = path.split("/", 1)[0]
    if folder == ".":
        return first == ".git" or first in _OWN or first.endswith(SUFFIX)
    return first == ".git" or (bool(folder) and (path == folder or path.startswith(folder + "/")))


def digest_of_arguments(arguments: Mapping[str, str]) -> dict[str, str]:
    """Build arguments by name, as digests: their values may be nobody else's business."""
    return {
        name: "sha256:" + hashlib.sha256(f"{name}={value}".encode("utf-8", "surrogateescape")).hexdigest()
        for name, value in sorted(arguments.items())
    }


def revision_of(context: str) -> str:
    """The commit that is checked out where the context is; "" where there is none, or no git."""
    from polyarch.context.git_cli import Git

    if not Path(context).is_dir():
        return ""
    try:
        done = Git(protocols=()).attempt("rev-parse", "--verify", "HEAD", directory=Path(context))
    except PolyarchError:
        return ""
    return done.stdout.decode(errors="replace").strip() if done.returncode == 0 else ""
