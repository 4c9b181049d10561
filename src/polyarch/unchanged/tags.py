"""What a tag names at its registry, in one small request where that is enough."""

from __future__ import annotations

import socket

from polyarch.oci.media_types import ACCEPTED

TYPE_CHECKING = False  # type checkers take it for true

if TYPE_CHECKING:
    from collections.abc import Sequence

_PATIENCE = 5.0  # seconds; a registry that takes longer is asked again by the full build
_MAX_HEAD = 64 << 10  # bytes


def names(
    registry: str, repository: str, tag: str, digest: str, address: str, *, insecure: Sequence[str]
) -> bool:
    """Whether ``tag`` names ``digest``. With an ``address`` (``host:port``, plain http) one HEAD request is
    sent there; any answer but the expected one is a no. Otherwise the client of all other requests is used,
    with its certificates, proxies and credentials."""
    if address:
        return _head(address, f"/v2/{repository}/manifests/{tag}") == digest
    from dataclasses import replace

    from polyarch.oci.reference import Reference
    from polyarch.registry.client import Client
    from polyarch.registry.config import Config

    config = Config.from_environment()
    with Client(config=replace(config, insecure=config.insecure | frozenset(insecure))) as client:
        return client.repository(Reference(registry, repository, tag)).resolve(tag).digest == digest


def _head(address: str, path: str) -> str:
    """The Docker-Content-Digest of a manifest (distribution-spec, "Checking if content exists"); "" for any
    answer that does not plainly give it."""
    host, _, port = address.rpartition(":")
    request = (
        f"HEAD {path} HTTP/1.1\r\nHost: {address}\r\nUser-Agent: polyarch\r\n"
        f"Accept: {', '.join(ACCEPTED)}\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE) as connection:
        connection.sendall(request.encode("ascii"))
        data = b""
        while b"\r\n\r\n" not in data and len(data) < _MAX_HEAD:
            chunk = connection.recv(_MAX_HEAD)
            if not chunk:
                return ""
            data += chunk
    status, *headers = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    if status.split(" ")[1:2] != ["200"]:
        return ""
    for header in headers:
        name, _, value = header.partition(":")
        if name.lower() == "docker-content-digest":
            return value.strip()
    return ""
