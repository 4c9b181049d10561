"""Vertices: what is to be done, as frozen values. No vertex holds a secret, a credential or a host path.

Two vertices with the same definition are the same vertex, whatever stage or platform asked for them; only
operations that run code carry a platform. So what does not depend on the platform is there, and done, once.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal
from urllib.parse import unquote, urlsplit

import msgspec

from polyarch.errors import Location
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform

LOCAL = "local"  # an origin: the local store
LAYOUT = "oci-layout:"  # the beginning of one: a layout on disk


class Operation(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """What all operations share. Inputs are given by the vertex, by position.

    Defaults are written out: leaving them out goes by identity, so that equal values would get two names.
    """


class ImageOp(Operation, frozen=True, kw_only=True):
    """The layers of an image. ``origin`` says where its blobs are: a repository's name, or
    ``oci-layout:NAME`` for a named context; everything needed to read it later is here."""

    reference: str
    origin: str
    manifest: str  # digest
    layers: tuple[Descriptor, ...]
    diff_ids: tuple[str, ...]


class LocalOp(Operation, frozen=True, kw_only=True):
    """A directory (or archive) of the client, by the name it was given: ``context`` is the build context."""

    name: str


class HttpOp(Operation, frozen=True, kw_only=True):
    """One file from a URL. ``checksum`` is a digest or ""."""

    url: str
    checksum: str = ""

    @property
    def file_name(self) -> str:
        """What the file is called: the last part of the URL's path, decoded."""
        name = posixpath.basename(unquote(urlsplit(self.url).path).rstrip("/"))
        return "__unnamed__" if name in ("", ".", "..") or "\0" in name else name


class GitOp(Operation, frozen=True, kw_only=True):
    """A commit of a git repository; ``url`` in docker's syntax (``URL#ref:subdir`` or with a query)."""

    url: str
    keep_git_dir: bool = False
    checksum: str = ""


class InlineOp(Operation, frozen=True, kw_only=True):
    """A file whose content stands in the Dockerfile."""

    name: str
    content: str
    mode: int = 0o644


class CopyAction(msgspec.Struct, frozen=True, kw_only=True, tag="copy"):
    """Copy ``source`` of input ``input`` to ``destination`` (both as written, made absolute).

    ``chown`` and ``chmod`` are "" when not given. ``include`` are patterns below ``source`` (``--parents``),
    ``required`` paths that must exist.
    """

    input: int
    source: str
    destination: str
    chown: str = ""
    chmod: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    follow: bool = False
    contents_only: bool = False
    wildcards: bool = False
    unpack: bool = False


class MakeDirectoryAction(msgspec.Struct, frozen=True, kw_only=True, tag="mkdir"):
    """Make ``path`` and its parents, owned by ``owner`` ("" is root)."""

    path: str
    mode: int = 0o755
    owner: str = ""


FileAction = CopyAction | MakeDirectoryAction


class FileOp(Operation, frozen=True, kw_only=True):
    """One layer made of files, by actions in order. Input 0 is the root filesystem it is made for, unless
    ``detached`` (``--link``): then all inputs are sources and the layer depends on no base."""

    actions: tuple[FileAction, ...]
    detached: bool = False
    epoch: int | None = None


class MergeOp(Operation, frozen=True, kw_only=True):
    """The layers of input 0 and, above them, those of input 1."""


class ExecMount(msgspec.Struct, frozen=True, kw_only=True):
    """A mount of a RUN. ``input`` is the vertex input it shows (None: empty, or not a file system)."""

    type: Literal["bind", "cache", "tmpfs", "secret", "ssh"]
    target: str
    input: int | None = None
    source: str = ""
    read_only: bool = True
    id: str = ""
    sharing: str = "shared"
    size: int = 0
    required: bool = False
    env: str = ""
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class ExecOp(Operation, frozen=True, kw_only=True):
    """Run a process on input 0; what it changes becomes a layer. ``user`` as USER has it."""

    arguments: tuple[str, ...]
    environment: tuple[str, ...]
    directory: str
    platform: Platform
    user: str = ""
    mounts: tuple[ExecMount, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    hosts: tuple[tuple[str, str], ...] = ()
    hostname: str = ""
    shm_size: int = 0
    limits: tuple[tuple[str, int, int], ...] = ()


AnyOp = ImageOp | LocalOp | HttpOp | GitOp | InlineOp | FileOp | MergeOp | ExecOp


@dataclass(frozen=True, eq=False)
class Vertex:
    """An operation on the results of other vertices."""

    op: AnyOp
    inputs: tuple[Vertex, ...] = ()

    @cached_property
    def digest(self) -> str:
        """The name: the digest of the operation and of its inputs' names."""
        hasher = hashlib.sha256(msgspec.json.encode(self.op, order="deterministic"))
        for vertex in self.inputs:
            hasher.update(vertex.digest.encode())
        return "sha256:" + hasher.hexdigest()


@dataclass(frozen=True)
class VertexMeta:
    """What a person sees of a vertex; not part of its identity.

    ``name`` is the line shown in progress. ``slot`` names its place in the Dockerfile, so that two builds of
    a changed file can be compared. ``platform`` is what the step runs on, ``targets`` for which it is.
    """

    name: str
    slot: str = ""
    location: Location | None = None
    platform: Platform | None = None
    ignore_cache: bool = False
    targets: tuple[Platform, ...] = ()


@dataclass
class Graph:
    """All vertices of a build, each once, inputs before those that use them."""

    vertices: dict[str, Vertex] = field(default_factory=dict)
    meta: dict[str, VertexMeta] = field(default_factory=dict)

    def add(self, vertex: Vertex, meta: VertexMeta) -> Vertex:
        """Add a vertex whose inputs are there already, or return the equal one that is there."""
        found = self.vertices.setdefault(vertex.digest, vertex)
        known = self.meta.get(vertex.digest)
        if known is None:
            self.meta[vertex.digest] = meta
        else:
            targets = known.targets + tuple(t for t in meta.targets if t not in known.targets)
            ignore = known.ignore_cache or meta.ignore_cache
            self.meta[vertex.digest] = VertexMeta(
                known.name, known.slot, known.location, known.platform, ignore, targets
            )
        return found

    def reach(self, wanted: Iterable[str]) -> dict[str, Vertex]:
        """The vertices named by digest and all that they depend on, inputs first."""
        needed = set(wanted)
        for digest, vertex in reversed(self.vertices.items()):
            if digest in needed:
                needed.update(source.digest for source in vertex.inputs)
        return {digest: vertex for digest, vertex in self.vertices.items() if digest in needed}

    def trust(self, done: Collection[str]) -> None:
        """Let cached results of these vertices (digests) count even where a build was told to use none."""
        for digest in done:
            meta = self.meta.get(digest)
            if meta is not None and meta.ignore_cache:
                self.meta[digest] = replace(meta, ignore_cache=False)
