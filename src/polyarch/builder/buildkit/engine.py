"""Docker's engine API, as far as its BuildKit is reached by it: connections that are upgraded."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from polyarch.builder.buildkit.streams import (
    ProcessStream,
    Stream,
    connect_tcp,
    connect_unix,
    unreachable,
)
from polyarch.errors import PolyarchError, UsageError

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
_MAX_HEADER = 64 << 10
_MAX_ANSWER = 64 << 20
_STDOUT = 1


@dataclass(frozen=True)
class Engine:
    """An engine at ``place``; ``dial`` opens a connection to it."""

    place: str
    dial: Callable[[], Stream]

    def upgrade(
        self, path: str, protocol: str, headers: Sequence[tuple[str, str]] = (), body: bytes = b""
    ) -> Stream:
        """A connection that is ``protocol`` from here on. PolyarchError with what the engine said instead."""
        stream = self.dial()
        try:
            lines = [("Connection", "Upgrade"), ("Upgrade", protocol), *headers]
            status, _, ahead = self._exchange(stream, "POST", path, lines, body)
            if status not in (101, 200):
                raise _refused(self.place, path, status, ahead)
            return _Ahead(stream, ahead)
        except BaseException:
            stream.close()
            raise

    def ask(self, method: str, path: str, document: object = None) -> Any:
        """The JSON an engine answers."""
        stream = self.dial()
        try:
            body = b"" if document is None else json.dumps(document).encode()
            lines = [("Connection", "close"), ("Content-Type", "application/json")]
            status, headers, data = self._exchange(stream, method, path, lines, body)
            while len(data) < _MAX_ANSWER and not _complete(headers, data) and (more := stream.read()):
                data += more
        except OSError as error:
            raise unreachable(self.place, error) from None
        finally:
            stream.close()
        data = _dechunked(headers, data)
        if status >= 300:
            raise _refused(self.place, path, status, data)
        try:
            return json.loads(data or b"null")
        except ValueError:
            raise unreachable(self.place, "its answer makes no sense") from None

    def run(self, container: str, command: Sequence[str]) -> Stream:
        """The standard input and output of a program started in a container."""
        name = quote(container, safe="")
        wanted = {"AttachStdin": True, "AttachStdout": True, "AttachStderr": True, "Cmd": list(command)}
        made = self.ask("POST", f"/containers/{name}/exec", wanted)
        body = b'{"Detach":false,"Tty":false}'
        headers = [("Content-Type", "application/json")]
        started = self.upgrade(f"/exec/{made['Id']}/start", "tcp", headers, body)
        return _Frames(started)

    def _exchange(
        self, stream: Stream, method: str, path: str, headers: Sequence[tuple[str, str]], body: bytes
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers, and the beginning of what follows them."""
        lines = [f"{method} {path} HTTP/1.1", "Host: docker", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        try:
            stream.write("\r\n".join([*lines, "", ""]).encode() + body)
            data = b""
            while b"\r\n\r\n" not in data:
                more = stream.read()
                if not more or len(data) > _MAX_HEADER:
                    said = getattr(stream, "said", "")
                    raise unreachable(self.place, said or "it closed the connection")
                data += more
        except OSError as error:
            raise unreachable(self.place, getattr(stream, "said", "") or error) from None
        head, _, ahead = data.partition(b"\r\n\r\n")
        first, *rest = head.decode("latin-1").split("\r\n")
        words = first.split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1") or not words[1].isdigit():
            raise unreachable(self.place, "no Docker engine answers there")
        found = {n.strip().lower(): v.strip() for n, _, v in (line.partition(":") for line in rest)}
        return int(words[1]), found, ahead


class _Ahead:
    """A stream of which some bytes were read already."""

    def __init__(self, stream: Stream, ahead: bytes) -> None:
        self._stream = stream
        self._ahead = ahead
        self.write = stream.write
        self.end = stream.end
        self.close = stream.close

    def read(self) -> bytes:
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        return self._stream.read()


class _Frames:
    """What a program in a container writes comes in frames of 8 bytes' header: stream, length."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._buffer = b""
        self.said = ""
        self.write = stream.write
        self.end = stream.end
        self.close = stream.close

    def read(self) -> bytes:
        while True:
            header = self._take(8)
            if not header:
                return b""
            data = self._take(int.from_bytes(header[4:8], "big"))
            if header[0] == _STDOUT:
                if data:
                    return data
            else:
                self.said = (self.said + data.decode("utf-8", "replace"))[-4096:]

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            more = self._stream.read()
            if not more:
                return b""
            self._buffer += more
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data


def engine_at(place: str, options: dict[str, str] | None = None) -> Engine:
    """The engine ``place`` names: ``unix://PATH``, ``tcp://HOST:PORT``, ``ssh://[USER@]HOST[:PORT]``; the one
    of the environment when empty. ``options`` are driver options (cacert, cert, key, servername)."""
    place = place or os.environ.get("DOCKER_HOST") or DEFAULT_SOCKET
    parts = urlsplit(place)
    match parts.scheme:
        case "unix":
            path = Path(parts.netloc + parts.path)
            return Engine(place, lambda: connect_unix(path))
        case "tcp" | "http" | "https":
            tls = engine_tls(options or {}, always=parts.scheme == "https")
            host, port = parts.hostname or "", parts.port or (2376 if tls else 2375)
            name = (options or {}).get("servername", "")
            return Engine(place, lambda: connect_tcp(host, port, tls, name))
        case "ssh":
            command = (*ssh_command(place), "docker", "system", "dial-stdio")
            return Engine(place, lambda: ProcessStream(command, f"the builder at {place}"))
    raise UsageError(
        f"{place!r} is no address of a Docker engine",
        hint="it looks like unix:///var/run/docker.sock, tcp://host:2376 or ssh://user@host",
        reason="invalid-endpoint",
    )


def ssh_command(place: str) -> tuple[str, ...]:
    """ssh to ``ssh://[USER@]HOST[:PORT]``, with the user's own configuration; a command follows it."""
    parts = urlsplit(place)
    host = parts.hostname or ""
    if not host or host.startswith("-") or (parts.username or "").startswith("-"):
        raise UsageError(f"{place!r} names no host", reason="invalid-endpoint")
    user = ("-l", parts.username) if parts.username else ()
    port = ("-p", str(parts.port)) if parts.port else ()
    return ("ssh", "-T", "-o", "ConnectTimeout=30", *user, *port, "--", host)


def engine_tls(options: dict[str, str], *, always: bool) -> ssl.SSLContext | None:
    """TLS of the options, or of DOCKER_CERT_PATH; None for a plain connection."""
    folder = os.environ.get("DOCKER_CERT_PATH", "")
    found = {key: options.get(key, "") for key in ("cacert", "cert", "key")}
    if not any(found.values()):
        if not always and not (folder and os.environ.get("DOCKER_TLS_VERIFY")):
            return None
        names = {"cacert": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
        found = {key: str(Path(folder, name)) for key, name in names.items()} if folder else found
    try:
        context = ssl.create_default_context(cafile=found["cacert"] or None)
        if found["cert"]:
            context.load_cert_chain(found["cert"], found["key"] or None)
    except (OSError, ssl.SSLError) as error:
        raise PolyarchError(
            f"the certificates for the builder cannot be read: {error}",
            hint="cacert, cert and key are PEM files",
            reason="bad-certificate",
        ) from None
    return context


def _complete(headers: dict[str, str], data: bytes) -> bool:
    if "content-length" in headers:
        return len(data) >= int(headers["content-length"] or 0)
    return headers.get("transfer-encoding") == "chunked" and data.endswith(b"0\r\n\r\n")


def _dechunked(headers: dict[str, str], data: bytes) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return data
    out = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size.split(b";")[0] or b"0", 16)
        if not length:
            break
        out, data = out + rest[:length], rest[length + 2 :]
    return out


def _refused(place: str, path: str, status: int, data: bytes) -> PolyarchError:
    try:
        said = str(json.loads(data)["message"])
    except (ValueError, KeyError, TypeError):
        said = data.decode("utf-8", "replace").strip()[:500]
    return PolyarchError(
        f"the engine at {place} refused {path.partition('?')[0]}: {said or f'HTTP status {status}'}",
        hint="BuildKit needs a Docker engine of version 18.09 or newer",
        reason="engine-refused",
    )
