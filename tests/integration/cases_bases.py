"""Base images for the corpus, made in memory from this machine's busybox: no registry, no download.

Only the host's variant holds a busybox that runs; the others carry a stub of the right machine, enough for
everything that does not execute.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOST = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
MACHINES = {"amd64": (2, 62), "arm64": (2, 183), "arm": (1, 40)}  # ELF class and machine
CREATED = "2024-01-01T00:00:00Z"
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"

PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
app:x:1000:1000:app:/home/app:/bin/sh
web:x:1001:1002:web:/home/web:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
"""
GROUP = "root:x:0:\ndaemon:x:1:\napp:x:1000:\nstaff:x:50:app,web\nwww:x:1002:\nnobody:x:65534:\n"


@dataclass
class Images:
    """Blobs by digest and manifests by repository name."""

    blobs: dict[str, bytes] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)

    def put(self, data: bytes, media_type: str, **extra: Any) -> dict[str, Any]:
        """Keep ``data``; its descriptor."""
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        self.types[digest] = media_type
        return {"mediaType": media_type, "digest": digest, "size": len(data), **extra}

    def manifest(self, layer: bytes, architecture: str, variant: str, config: Mapping[str, Any]) -> Any:
        """One platform's image with one layer; its descriptor."""
        image = {
            "architecture": architecture,
            "os": "linux",
            **({"variant": variant} if variant else {}),
            "created": CREATED,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
            "history": [{"created": CREATED, "created_by": "the base of the cases"}],
        }
        packed = gzip.compress(layer, mtime=0)
        body = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.put(json.dumps(image).encode(), "application/vnd.oci.image.config.v1+json"),
            "layers": [self.put(packed, "application/vnd.oci.image.layer.v1.tar+gzip")],
        }
        target = {"os": "linux", "architecture": architecture, **({"variant": variant} if variant else {})}
        return self.put(json.dumps(body).encode(), MANIFEST, platform=target)

    def index(self, name: str, manifests: list[Any]) -> None:
        """Name an index of ``manifests``."""
        body = {"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}
        self.names[name] = self.put(json.dumps(body).encode(), INDEX)["digest"]


def stub(architecture: str) -> bytes:
    """A static ELF file of ``architecture`` that would be loaded, and has nothing to run."""
    bits, machine = MACHINES[architecture]
    ident = b"\x7fELF" + bytes([bits, 1, 1]) + bytes(9)
    if bits == 2:
        header = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0x400078, 64, 0, 0, 64, 56, 1, 0, 0, 0)
        return ident + header + struct.pack("<IIQQQQQQ", 1, 5, 0, 0x400000, 0x400000, 120, 120, 0x1000)
    flags = 0x05000400  # the fifth ABI, hard float: arm/v7
    header = struct.pack("<HHIIIIIHHHHHH", 2, machine, 1, 0x10054, 52, 0, flags, 52, 32, 1, 0, 0, 0)
    return ident + header + struct.pack("<IIIIIIII", 1, 0, 0x10000, 0x10000, 84, 84, 5, 0x1000)


def busybox() -> tuple[bytes, list[str]]:
    """The host's static busybox and its applets."""
    path = shutil.which("busybox")
    if path is None:
        raise FileNotFoundError("busybox is not installed (apt-get install busybox-static)")
    names = subprocess.run([path, "--list"], capture_output=True, text=True, check=True).stdout.split()
    with open(path, "rb") as file:
        return file.read(), [name for name in names if name != "busybox"]


def root(architecture: str) -> bytes:
    """The base's only layer."""
    program, applets = busybox()
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:

        def add(name: str, mode: int, *, content: bytes | None = None, link: str = "", uid: int = 0) -> None:
            entry = tarfile.TarInfo(name)
            entry.mode, entry.mtime, entry.uid, entry.gid = mode, 1_700_000_000, uid, uid
            if link:
                entry.type, entry.linkname = tarfile.SYMTYPE, link
            elif content is None:
                entry.type = tarfile.DIRTYPE
            else:
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content or b""))

        for name in ("bin", "dev", "etc", "home", "proc", "sys", "usr", "usr/bin", "var", "var/log"):
            add(name, 0o755)
        add("root", 0o700)
        add("tmp", 0o1777)
        add("home/app", 0o755, uid=1000)
        add("bin/busybox", 0o755, content=program if architecture == HOST else stub(architecture))
        for applet in applets if architecture == HOST else ["sh"]:
            add(f"bin/{applet}", 0o777, link="busybox")
        add("etc/passwd", 0o644, content=PASSWD.encode())
        add("etc/group", 0o644, content=GROUP.encode())
        add("etc/arch", 0o644, content=f"{architecture}\n".encode())
        add("etc/hosts", 0o644, content=b"")
        add("etc/resolv.conf", 0o644, content=b"")
        add("var/link", 0o777, link="/usr")
    return stream.getvalue()


def make() -> Images:
    """busybox (three platforms), configured, onbuild, foreign (one manifest, arm64), bare (no shell)."""
    images = Images()
    plain = {"Env": [PATH], "Cmd": ["sh"]}
    layers = {name: root(name) for name in MACHINES}
    platforms = [("amd64", ""), ("arm64", ""), ("arm", "v7")]
    images.index("busybox", [images.manifest(layers[a], a, v, plain) for a, v in platforms])
    configured = {
        "Env": [PATH, "COLOR=green", "EMPTY="],
        "Entrypoint": ["/bin/entry", "now"],
        "Cmd": ["one", "two"],
        "User": "app",
        "WorkingDir": "/home/app",
        "ExposedPorts": {"80/tcp": {}},
        "Volumes": {"/data": {}},
        "Labels": {"base": "configured", "kept": "yes"},
        "Healthcheck": {"Test": ["CMD", "true"], "Interval": 5_000_000_000, "Retries": 2},
        "StopSignal": "SIGINT",
    }
    images.index("configured", [images.manifest(layers[a], a, v, configured) for a, v in platforms])
    shell = {**plain, "Shell": ["/bin/sh", "-e", "-c"]}
    images.index("shell", [images.manifest(layers[HOST], HOST, "", shell)])
    triggers = ["COPY . /app", "RUN echo triggered > /trigger", "ENV FROM_TRIGGER=yes"]
    onbuild = {**plain, "OnBuild": triggers}
    images.index("onbuild", [images.manifest(layers[a], a, v, onbuild) for a, v in platforms])
    empty = io.BytesIO()
    with tarfile.open(fileobj=empty, mode="w") as archive:
        entry = tarfile.TarInfo("only")
        entry.mtime = 1_700_000_000
        archive.addfile(entry)
    images.index("bare", [images.manifest(empty.getvalue(), a, v, {}) for a, v in platforms])
    images.names["foreign"] = images.manifest(layers["arm64"], "arm64", "", plain)["digest"]
    return images
