"""What a build made, as plain values that can be compared: from an OCI layout to trees and configs."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import posixpath
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cases_bases import Images

Tree = dict[str, str]
SHOWN = 400  # longer or binary content is shown by its checksum

_base_trees: dict[str, Tree] = {}


def outcome(layout: Path, bases: Images, *, times: bool = False, omit: Sequence[str] = ()) -> dict[str, Any]:
    """Tree, config and history of every platform in ``layout``, less what the base already had.

    One platform gives its result itself; several give one table a platform.
    """
    found: dict[str, Any] = {}
    for name, manifest in _manifests(layout):
        config = json.loads(_blob(layout, manifest["config"]["digest"]))
        found[name] = _platform(layout, manifest, config, bases, times=times)
        for path in omit:
            found[name]["tree"].pop(path, None)
    return found if len(found) != 1 else next(iter(found.values()))


def _manifests(layout: Path) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    pending = list(json.loads((layout / "index.json").read_text())["manifests"])
    while pending:
        descriptor = pending.pop(0)
        body = json.loads(_blob(layout, descriptor["digest"]))
        if "manifests" in body:
            pending += body["manifests"]
            continue
        if (descriptor.get("annotations") or {}).get("vnd.docker.reference.type"):
            continue
        config = json.loads(_blob(layout, body["config"]["digest"]))
        parts = [config.get("os", ""), config.get("architecture", ""), config.get("variant", "")]
        found.append(("/".join(filter(None, parts)), body))
    return found


def _blob(layout: Path, digest: str) -> bytes:
    algorithm, _, value = digest.partition(":")
    return (layout / "blobs" / algorithm / value).read_bytes()


def _platform(layout: Path, manifest: Any, config: Any, bases: Images, *, times: bool) -> dict[str, Any]:
    diffs = config["rootfs"].get("diff_ids") or []
    layers = [gzip.decompress(_blob(layout, layer["digest"])) for layer in manifest["layers"] or []]
    for expected, layer in zip(diffs, layers, strict=True):
        assert expected == "sha256:" + hashlib.sha256(layer).hexdigest(), "diff_id does not match its layer"
    history = config.get("history") or []
    made = [entry for entry in history if not entry.get("empty_layer")]
    assert len(made) == len(diffs), f"{len(made)} history entries with layers, {len(diffs)} layers"
    base = _base_of(diffs, config, bases)
    tree: Tree = {}
    for layer in layers:
        apply(tree, layer, times=times)
    result: dict[str, Any] = {}
    base_config: Mapping[str, Any] = {}
    if base is not None:
        name, base_config = base
        if name + str(times) not in _base_trees:
            _base_trees[name + str(times)] = apply({}, layers[0], times=times)
        tree = _difference(_base_trees[name + str(times)], tree)
        history = history[1:]
    if config.get("author"):
        result["author"] = config["author"]
    result["history"] = [_step(entry) for entry in history]
    result["tree"] = {f"/{path}": tree[path] for path in sorted(tree)}
    result["config"] = _config(base_config, config.get("config") or {})
    return result


def _base_of(diffs: list[str], config: Any, bases: Images) -> tuple[str, Mapping[str, Any]] | None:
    """The first layer and the configuration that came with it, when it is one of the bases'.

    Several bases share a layer; the labels and triggers of a result do not tell them apart reliably, so
    the configuration of the plain one is what is compared with.
    """
    for digest, media_type in bases.types.items():
        if not media_type.endswith("config.v1+json"):
            continue
        image = json.loads(bases.blobs[digest])
        if diffs[:1] == image["rootfs"]["diff_ids"]:
            return diffs[0], image["config"]
    return None


def _step(entry: Mapping[str, Any]) -> str:
    text = entry.get("created_by", "").removesuffix(" # buildkit")
    return f"(no layer) {text}" if entry.get("empty_layer") else text


def _config(base: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that differ from the base's; a field the base had and that is gone is "(gone)"."""
    present = {key: value for key, value in config.items() if value not in (None, "", [], {}, False)}
    changed = {key: value for key, value in present.items() if base.get(key) != value}
    gone = {key: "(gone)" for key, value in base.items() if value and key not in present}
    return dict(sorted({**changed, **gone}.items()))


def _difference(base: Tree, tree: Tree) -> Tree:
    changed = {path: line for path, line in tree.items() if base.get(path) != line}
    return changed | {path: "gone" for path in base if path not in tree}


def apply(tree: Tree, layer: bytes, *, times: bool = False) -> Tree:
    """Lay ``layer`` over ``tree`` as the image specification says, whiteouts included."""
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        entries = archive.getmembers()
        for entry in entries:
            path = posixpath.normpath(entry.name).lstrip("/")
            folder, name = posixpath.split(path)
            if name == ".wh..wh..opq":
                _remove(tree, folder, keep=True)
            elif name.startswith(".wh."):
                _remove(tree, posixpath.join(folder, name[4:]))
        for entry in entries:
            path = posixpath.normpath(entry.name).lstrip("/")
            if posixpath.basename(path).startswith(".wh.") or path in ("", "."):
                continue
            if not entry.isdir() or not tree.get(path, "").startswith("dir"):
                _remove(tree, path)
            tree[path] = _line(tree, archive, entry, times=times)
    return tree


def _remove(tree: Tree, path: str, *, keep: bool = False) -> None:
    for other in [known for known in tree if known.startswith(f"{path}/")]:
        del tree[other]
    if not keep:
        tree.pop(path, None)


def _line(tree: Tree, archive: tarfile.TarFile, entry: tarfile.TarInfo, *, times: bool) -> str:
    head = f"{entry.mode & 0o7777:o} {entry.uid}:{entry.gid}"
    if times and entry.isreg():
        head += f" @{int(entry.mtime)}"
    attributes = {key: value for key, value in entry.pax_headers.items() if key.startswith("SCHILY.xattr.")}
    for key in sorted(attributes):
        head += f" {key.removeprefix('SCHILY.xattr.')}={attributes[key]!r}"
    if entry.isdir():
        return f"dir {head}"
    if entry.issym():
        return f"link {entry.uid}:{entry.gid} -> {entry.linkname}"
    if entry.islnk():
        return f"hardlink to /{posixpath.normpath(entry.linkname).lstrip('/')}"
    if entry.isfifo():
        return f"fifo {head}"
    if not entry.isreg():
        return f"device {head} {entry.devmajor},{entry.devminor}"
    stream = archive.extractfile(entry)
    assert stream is not None
    return f"file {head} {_content(stream.read())}"


def _content(data: bytes) -> str:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()[:16]}, {len(data)} bytes"
    if len(data) > SHOWN:
        return digest
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return digest
    return text if all(sign.isprintable() or sign in "\n\t\r" for sign in text) else digest
