"""What an image's package database says of its files: the package, its version, the checksum of each file.

dpkg (``/var/lib/dpkg``) and apk (``/lib/apk/db/installed``) are understood; of another image nothing is
known.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from polyarch.layer.rootfs import Rootfs

_STATUS = "var/lib/dpkg/status"
_INFO = "var/lib/dpkg/info"
_APK = "lib/apk/db/installed"
_LARGEST = 64 << 20
_REBUILT = re.compile(r"\+b\d+$")  # Debian's mark of the same source, compiled once more for one architecture


@dataclass(frozen=True)
class Owned:
    """A file of a package: ``checksum`` in hexadecimal by ``algorithm`` (md5 or sha1)."""

    path: str
    package: str
    version: str
    algorithm: str
    checksum: str

    def holds(self, content: bytes) -> bool:
        """Whether this is the content the package came with."""
        return hashlib.new(self.algorithm, content, usedforsecurity=False).hexdigest() == self.checksum


def owned(rootfs: Rootfs, wanted: Callable[[str], bool]) -> dict[str, Owned]:
    """The packages' files whose path (as the package names it, without leading slash) is ``wanted``, by their
    path in ``rootfs`` with symbolic links resolved. Files that two packages claim are left out."""
    found: dict[str, Owned] = {}
    doubtful: set[str] = set()
    for file in (*_dpkg(rootfs, wanted), *_apk(rootfs, wanted)):
        path = rootfs.resolve(file.path)
        if path in found:
            doubtful.add(path)
        found[path] = file
    return {path: file for path, file in found.items() if path not in doubtful}


def _dpkg(rootfs: Rootfs, wanted: Callable[[str], bool]) -> Iterator[Owned]:
    status = _read(rootfs, _STATUS)
    if not status:
        return
    names = set(rootfs.children(rootfs.resolve(_INFO)))
    for stanza in status.split("\n\n"):
        fields = dict(
            line.split(": ", 1) for line in stanza.splitlines() if ": " in line[1:] and line[0] != " "
        )
        if fields.get("Status", "").rpartition(" ")[2] in ("", "not-installed", "config-files"):
            continue  # its files are not there
        package, version = fields.get("Package", ""), _REBUILT.sub("", fields.get("Version", ""))
        for name in (f"{package}:{fields.get('Architecture', '')}.md5sums", f"{package}.md5sums"):
            if name in names:
                for line in _read(rootfs, f"{_INFO}/{name}").splitlines():
                    checksum, _, path = line.partition("  ")
                    if wanted(path):
                        yield Owned(path, package, version, "md5", checksum)
                break


def _apk(rootfs: Rootfs, wanted: Callable[[str], bool]) -> Iterator[Owned]:
    package = version = folder = path = ""
    for line in _read(rootfs, _APK).splitlines():
        key, _, value = line.partition(":")
        match key:
            case "P":
                package = value
            case "V":
                version = value
            case "F":
                folder = value
            case "R":
                path = f"{folder}/{value}" if folder else value
            case "Z" if value.startswith("Q1") and wanted(path):
                try:
                    checksum = base64.b64decode(value[2:], validate=True).hex()
                except binascii.Error:
                    continue
                yield Owned(path, package, version, "sha1", checksum)


def _read(rootfs: Rootfs, path: str) -> str:
    """A text file, "" when there is none."""
    path = rootfs.resolve(path)
    entry = rootfs.get(path)
    if entry is None or entry.type not in ("file", "hardlink"):
        return ""
    return rootfs.read(path, _LARGEST).decode("utf-8", "surrogateescape")
