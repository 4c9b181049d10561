"""A Debian archive made on the spot: small packages in a folder that apt reads like any mirror."""

from __future__ import annotations

import hashlib
import io
import lzma
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

CONTROL = """\
Package: {name}
Version: {version}
Architecture: {architecture}
Maintainer: Nobody <nobody@example.com>
Description: a package for a test
{more}"""


def tar_of(files: dict[str, bytes | str | None], *, mtime: int = 1_600_000_000) -> bytes:
    """A tar: bytes are files (0755 under bin), text is a symlink's target, None a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo("./" + name)
            info.mtime = mtime
            if content is None:
                info.type, info.mode = tarfile.DIRTYPE, 0o755
                archive.addfile(info)
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size, info.mode = len(content), 0o755 if "bin/" in name else 0o644
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def ar_of(members: dict[str, bytes]) -> bytes:
    """An ar archive, as deb(5) wants it."""
    parts = [b"!<arch>\n"]
    for name, data in members.items():
        parts.append(f"{name:<16}{1_600_000_000:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode())
        parts.append(data + b"\n" * (len(data) % 2))
    return b"".join(parts)


@dataclass
class Mirror:
    """``add`` packages, then ``write``; ``line`` is what a recipe takes as its mirror."""

    folder: Path
    stanzas: dict[str, list[str]] = field(default_factory=dict)

    @property
    def line(self) -> str:
        # "copy", for apt leaves packages of "file" where they are
        return f"deb [trusted=yes] copy://{self.folder} test main"

    def add(
        self,
        name: str,
        files: dict[str, bytes | str | None],
        *,
        version: str = "1.0",
        architecture: str = "amd64",
        more: str = "",
    ) -> Path:
        control = CONTROL.format(
            name=name, version=version, architecture=architecture, more=more and more + "\n"
        )
        data = ar_of(
            {
                "debian-binary": b"2.0\n",
                "control.tar.xz": lzma.compress(tar_of({"control": control.encode()})),
                "data.tar.xz": lzma.compress(tar_of(files)),
            }
        )
        place = f"pool/{name}_{version}_{architecture}.deb"
        path = self.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        checksum = hashlib.sha256(data).hexdigest()
        stanza = f"{control}Filename: {place}\nSize: {len(data)}\nSHA256: {checksum}\n"
        self.stanzas.setdefault(architecture, []).append(stanza)
        return path

    def write(self) -> None:
        listed = []
        for architecture, stanzas in self.stanzas.items():
            place = f"main/binary-{architecture}/Packages"
            path = self.folder / "dists" / "test" / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n".join(stanzas))
            data = path.read_bytes()
            listed.append(f" {hashlib.sha256(data).hexdigest()} {len(data)} {place}\n")
        release = self.folder / "dists" / "test" / "Release"
        release.write_text(
            f"Suite: test\nCodename: test\nArchitectures: {' '.join(self.stanzas)}\nComponents: main\n"
            f"Date: Sun, 13 Sep 2020 12:26:40 UTC\nSHA256:\n{''.join(listed)}"
        )
