"""Where files come from, as the daemon is told: registries, the client's own images and directories, the web.

Images that only the client has, and its directories, are read through the session.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from polyarch.context.git_url import parse
from polyarch.errors import UnsupportedError
from polyarch.graph.vertex import GitOp, HttpOp, ImageOp, LocalOp
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.proof.bases import LAYOUT, LOCAL

LOCAL_STORE = "polyarch"


@dataclass(frozen=True)
class Source:
    """A source operation. ``caps`` are what the daemon must be able to do for it."""

    identifier: str
    attributes: Mapping[str, str] = field(default_factory=dict)
    platform: Platform | None = None
    caps: tuple[str, ...] = ()


@dataclass
class Sources:
    """What of the client the graph reads, filled while it is written: origins of images by the name of their
    store in the session."""

    stores: dict[str, str] = field(default_factory=dict)

    def store(self, origin: str) -> str:
        """The name under which the session shows what ``origin`` holds."""
        name = LOCAL_STORE
        if origin != LOCAL:
            name = "layout-" + hashlib.sha256(origin.encode()).hexdigest()[:16]
        self.stores[name] = origin
        return name


def image(op: ImageOp, sources: Sources) -> Source | None:
    """A base image; None for one without layers."""
    if not op.layers:
        return None
    if op.origin == LOCAL or op.origin.startswith(LAYOUT):
        name = sources.store(op.origin)
        return Source(
            f"oci-layout://polyarch.local/{name}@{op.manifest}",
            {"oci.store": name},
            caps=("source.ocilayout",),
        )
    repository = Reference.parse(op.origin).name
    return Source(f"docker-image://{repository}@{op.manifest}", caps=("source.image",))


def local(op: LocalOp, sources: Sources) -> Source:
    """A directory of the client, as it is after its ignore file."""
    attributes = {"local.sharedkeyhint": f"polyarch:{op.name}"}
    return Source(
        f"local://{local_name(op.name)}", attributes, caps=("source.local", "source.local.sharedkeyhint")
    )


def local_name(name: str) -> str:
    """What a context is called in the session; its own name may hold anything."""
    return name if name.isalnum() else "context-" + hashlib.sha256(name.encode()).hexdigest()[:16]


def http(op: HttpOp) -> Source:
    """A file from the web, fetched by the daemon."""
    attributes = {"http.filename": op.file_name}
    caps = ["source.http"]
    if op.checksum:
        attributes["http.checksum"] = op.checksum
        caps.append("source.http.checksum")
    return Source(op.url, attributes, caps=tuple(caps))


def git(op: GitOp) -> Source:
    """A commit of a repository, fetched by the daemon."""
    url = parse(op.url)
    if url.submodules is False:
        raise UnsupportedError(
            f"ADD {url.redacted}: a BuildKit node cannot leave submodules out",
            hint="build on an embedded or ssh node, or leave submodules=false out of the URL",
            reason="not-in-llb",
        )
    attributes = {"git.fullurl": url.remote}
    caps = ["source.git", "source.git.fullurl"]
    if op.keep_git_dir if url.keep_git_dir is None else url.keep_git_dir:
        attributes["git.keepgitdir"] = "true"
        caps.append("source.git.keepgitdir")
    checksum = op.checksum or url.checksum
    if checksum:
        attributes["git.checksum"] = checksum
        caps.append("source.git.checksum")
    place = _place(url.remote)
    fragment = url.ref + (f":{url.subdir}" if url.subdir else "")
    if url.subdir:
        caps.append("source.git.subdir")
    if url.remote.startswith("http"):
        attributes["git.authtokensecret"] = "GIT_AUTH_TOKEN"
        attributes["git.authheadersecret"] = "GIT_AUTH_HEADER"
        caps.append("source.git.httpauth")
    elif not url.remote.startswith("git://"):
        attributes["git.mountsshsock"] = "default"
        caps.append("source.git.mountsshsock")
    return Source(f"git://{place}" + (f"#{fragment}" if fragment else ""), attributes, caps=tuple(caps))


def _place(remote: str) -> str:
    """Host and path of a remote, without scheme or user."""
    if "://" not in remote:
        host, _, path = remote.rpartition("@")[2].partition(":")
        return f"{host}/{path.lstrip('/')}"
    parts = urlsplit(remote)
    return f"{parts.netloc.rpartition('@')[2]}{parts.path}"
