"""Compare two images of registries: configuration field by field, root filesystem file by file.

    python bench/compare.py 127.0.0.1:5000/docker/app:1 127.0.0.1:5000/ours/app:1

Reads manifests, configurations and layers with the standard library alone, so that a mistake in polyarch's
own reader cannot hide one in its writer. Times are not compared, except with --times. Layers may be gzip or
plain. Exits with 1 when anything differs.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import posixpath
import sys
import tarfile
import urllib.request
from collections.abc import Mapping
from typing import Any

ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)
FLEETING = ("created", "history", "rootfs", "moby.buildkit.cache.v0")  # not compared as they are
KINDS = {
    tarfile.DIRTYPE: "directory",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "character",
    tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "fifo",
}
SHOWN = 20  # differences of one kind
Tree = dict[str, dict[str, Any]]


class Repository:
    """A repository of a registry without login; loopback is reached by plain http."""

    def __init__(self, reference: str) -> None:
        host, _, rest = reference.partition("/")
        path, _, self.tag = rest.rpartition(":")
        scheme = "http" if host.partition(":")[0] in ("127.0.0.1", "localhost") else "https"
        self.url = f"{scheme}://{host}/v2/{path}"

    def fetch(self, path: str) -> bytes:
        request = urllib.request.Request(f"{self.url}/{path}", headers={"Accept": ACCEPT})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())

    def images(self) -> dict[str, tuple[Any, Any]]:
        """The manifest and the configuration of every platform."""
        manifests = [json.loads(self.fetch(f"manifests/{self.tag}"))]
        if "manifests" in manifests[0]:
            listed = manifests[0]["manifests"]
            known = [entry for entry in listed if entry["platform"]["os"] != "unknown"]  # attestations
            manifests = [json.loads(self.fetch(f"manifests/{entry['digest']}")) for entry in known]
        found = {}
        for manifest in manifests:
            config = json.loads(self.fetch(f"blobs/{manifest['config']['digest']}"))
            parts = [config.get(name, "") for name in ("os", "architecture", "variant")]
            found["/".join(part for part in parts if part)] = manifest, config
        return found

    def root(self, manifest: Any, *, times: bool) -> Tree:
        tree: Tree = {}
        for layer in manifest["layers"]:
            apply(tree, self.fetch(f"blobs/{layer['digest']}"), times=times)
        return tree


def apply(tree: Tree, blob: bytes, *, times: bool) -> None:
    """Put a layer on ``tree``: deletions first, wherever they are in the tar (OCI image-spec, layer.md)."""
    data = gzip.decompress(blob) if blob[:2] == b"\x1f\x8b" else blob
    new: Tree = {}
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as archive:
        for member in archive:
            path = posixpath.normpath("/" + member.name)
            folder, name = posixpath.split(path)
            if name == ".wh..wh..opq":
                remove(tree, folder, itself=False)
            elif name.startswith(".wh."):
                remove(tree, posixpath.join(folder, name[4:]), itself=True)
            elif member.islnk():
                new[path] = new.get(posixpath.normpath("/" + member.linkname), {"link": member.linkname})
            else:
                new[path] = describe(member, archive, times=times)
    for path, entry in new.items():
        if entry.get("kind") != "directory" and tree.get(path, {}).get("kind") == "directory":
            remove(tree, path, itself=True)
        tree[path] = entry


def remove(tree: Tree, path: str, *, itself: bool) -> None:
    below = path.rstrip("/") + "/"
    for name in [name for name in tree if name.startswith(below) and name != path]:
        del tree[name]
    if itself:
        tree.pop(path, None)


def describe(member: tarfile.TarInfo, archive: tarfile.TarFile, *, times: bool) -> dict[str, Any]:
    entry: dict[str, Any] = {"kind": KINDS.get(member.type, "file"), "mode": oct(member.mode)}
    entry |= {"owner": f"{member.uid}:{member.gid}", "link": member.linkname}
    if member.isfile() and (stream := archive.extractfile(member)) is not None:
        entry |= {"size": member.size, "sha256": hashlib.sha256(stream.read()).hexdigest()}
    if member.isdev():
        entry["device"] = f"{member.devmajor}:{member.devminor}"
    if times:
        entry["time"] = int(member.mtime)
    for name, value in member.pax_headers.items():
        if name.startswith("SCHILY.xattr."):
            entry[name[13:]] = value
    return entry


def plain(config: Any) -> tuple[dict[str, Any], list[Any]]:
    """A configuration without what differs in every build, and its history."""
    history = [{k: v for k, v in step.items() if k != "created"} for step in config.get("history") or []]
    kept = {name: value for name, value in config.items() if name not in FLEETING}
    kept["layers"] = len(config["rootfs"]["diff_ids"])
    return kept, history


def differences(what: str, one: Mapping[str, Any], two: Mapping[str, Any]) -> int:
    """Print where two tables differ, and say in how many places."""
    names = [name for name in sorted({*one, *two}) if one.get(name) != two.get(name)]
    for name in names[:SHOWN]:
        left, right = one.get(name), two.get(name)
        if isinstance(left, dict) and isinstance(right, dict):
            keys = [key for key in {**left, **right} if left.get(key) != right.get(key)]
            left, right = ({key: side.get(key) for key in keys} for side in (left, right))
        print(f"{what} {name!r}\n  - {left}\n  + {right}")
    if len(names) > SHOWN:
        print(f"{what}: {len(names) - SHOWN} more differences")
    return len(names)


def main() -> int:
    """Compare what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("one")
    parser.add_argument("two")
    parser.add_argument("--times", action="store_true", help="compare modification times, too")
    options = parser.parse_args()
    first, second = Repository(options.one), Repository(options.two)
    left, right = first.images(), second.images()
    count = differences("platform", dict.fromkeys(left, "there"), dict.fromkeys(right, "there"))
    entries = 0
    for platform in sorted({*left} & {*right}):
        (one, config_one), (two, config_two) = left[platform], right[platform]
        (fields_one, steps_one), (fields_two, steps_two) = plain(config_one), plain(config_two)
        count += differences(f"{platform} config", fields_one, fields_two)
        numbered = [{str(n): step for n, step in enumerate(steps)} for steps in (steps_one, steps_two)]
        count += differences(f"{platform} history", *numbered)
        roots = [first.root(one, times=options.times), second.root(two, times=options.times)]
        entries += len(roots[0])
        count += differences(f"{platform} file", *roots)
    print(f"{count} differences; {entries} files of {len(left)} platforms compared")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
