"""``--cache-from`` and ``--cache-to`` as a daemon does them: its own format, read and written by itself.

A directory is the client's, and is shown to the daemon as a store of the session.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from polyarch.builder.buildkit.protocol import control_pb2 as control
from polyarch.content.layout import Layout
from polyarch.content.names import REF_NAME
from polyarch.errors import ContentError, PolyarchError
from polyarch.export.cache_options import CacheFrom, CacheTo
from polyarch.export.cache_service import ServiceOptions
from polyarch.oci.descriptor import Descriptor
from polyarch.solver.events import EventSink, Warning

_MANIFEST = "cache.manifest"
_STORE = "local:"
_COMPRESSIONS: dict[Literal["gzip", "zstd", "none"], str] = {
    "gzip": "gzip",
    "zstd": "zstd",
    "none": "uncompressed",
}


@dataclass(frozen=True)
class Caches:
    """What a build reads caches from and writes them to."""

    imports: tuple[CacheFrom, ...] = ()
    exports: tuple[CacheTo, ...] = ()

    def stores(self) -> dict[str, Layout]:
        """The directories among them, by the names the daemon uses."""
        found = {f"{_STORE}{one.path}": Layout(one.path) for one in self.exports if one.path is not None}
        for source in self.imports:
            if source.path is not None and (source.path / "index.json").is_file():
                found.setdefault(f"{_STORE}{source.path}", Layout(source.path, create=False))
        return found

    def read(self, events: EventSink) -> list[control.CacheOptionsEntry]:
        """What the daemon is to look into. A cache that is not there is a warning."""
        entries = []
        for source in self.imports:
            if source.reference is not None:
                attributes = {"ref": str(source.reference)}
                if source.insecure:
                    attributes["registry.insecure"] = "true"
                entries.append(control.CacheOptionsEntry(type="registry", attrs=attributes))
                continue
            if source.service is not None:
                try:
                    attributes = _service(source.service)
                except PolyarchError as error:
                    events(Warning("CacheImport", f"the cache {source} is not used: {error.summary}"))
                    continue
                entries.append(control.CacheOptionsEntry(type="gha", attrs=attributes))
                continue
            assert source.path is not None
            try:
                found = Layout(source.path, create=False).resolve(source.tag)
            except PolyarchError as error:
                events(Warning("CacheImport", f"the cache {source} is not used: {error.summary}"))
                continue
            attributes = {"src": str(source.path), "digest": found.digest}
            entries.append(control.CacheOptionsEntry(type="local", attrs=attributes))
        return entries

    def written(self) -> list[control.CacheOptionsEntry]:
        """What the daemon is to write, all but caches inside images."""
        return [_entry(target) for target in self.exports if target.type != "inline"]

    def name(self, answer: dict[str, str]) -> None:
        """Give a directory's cache its tag, now that it is there."""
        for target in self.exports:
            if target.path is None:
                continue
            try:
                root = msgspec.json.decode(answer[_MANIFEST], type=Descriptor)
            except (KeyError, msgspec.MsgspecError):
                raise ContentError(f"the builder wrote no cache to {target}", reason="no-cache") from None
            Layout(target.path).publish(msgspec.structs.replace(root, annotations={REF_NAME: target.tag}))


def _entry(target: CacheTo) -> control.CacheOptionsEntry:
    attributes = {"mode": target.mode, "oci-mediatypes": "true", "image-manifest": "true"}
    if not target.strict:
        attributes["ignore-error"] = "true"
    if target.reference is not None:
        attributes["ref"] = str(target.reference)
    if target.path is not None:
        attributes["dest"] = str(target.path)
    if target.service is not None:
        attributes |= _service(target.service)
    if target.insecure:
        attributes["registry.insecure"] = "true"
    if target.compression is not None:
        attributes["compression"] = _COMPRESSIONS[target.compression.kind]
        if target.compression.level is not None:
            attributes["compression-level"] = str(target.compression.level)
        if target.compression.force:
            attributes["force-compression"] = "true"
    return control.CacheOptionsEntry(type=target.type, attrs=attributes)


def _service(options: ServiceOptions) -> dict[str, str]:
    """Where a daemon finds the Actions cache; it has a format and names of its own there."""
    access = options.access()
    attributes = {"scope": options.scope, "url_v2": access.url, "token": access.token, "version": "2"}
    return attributes | {"timeout": f"{access.timeout:g}s"}


def inline_warning(exports: Sequence[CacheTo]) -> Warning | None:
    """What is to be said of a cache inside the image, which the daemon cannot put into an image of ours."""
    if not any(target.type == "inline" for target in exports):
        return None
    return Warning(
        "CacheExport", "--cache-to type=inline is not written by a BuildKit builder: use type=registry"
    )
