"""GitHub Actions' cache service and the storage behind it, for tests: version 2 of the protocol, with what
goes wrong in real life (conflicts, eviction, expired tokens and signatures, busy servers, cut downloads)."""

from __future__ import annotations

import base64
import json
import re
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from xml.etree import ElementTree

READ, WRITE = 1, 2
_METHOD = re.compile(r"/twirp/github\.actions\.results\.api\.v1\.CacheService/(\w+)")


@dataclass
class Stored:
    """An entry, or one that is being written (``size`` -1)."""

    ref: str
    key: str
    version: str
    blob: str
    size: int = -1


@dataclass
class Fault:
    """What happens to the next ``times`` requests whose method and path match: a status, or with ``cut`` a
    body that ends after so many bytes."""

    path: str
    method: str = ".*"
    status: int = 500
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = -1


class ActionsService:
    """The state of the service. ``requests`` are method and path of everything that was asked."""

    def __init__(self) -> None:
        self.entries: list[Stored] = []
        self.blobs: dict[str, bytes] = {}
        self.blocks: dict[str, dict[str, bytes]] = {}
        self.signatures: set[str] = set()
        self.tokens: dict[str, list[tuple[str, int]]] = {}
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.leaked = False  # whether storage was ever shown a token
        self.url = ""
        self._lock = threading.RLock()

    def token(self, *scopes: tuple[str, int]) -> str:
        """A new token that opens these refs."""
        claims = {"ac": json.dumps([{"Scope": ref, "Permission": allowed} for ref, allowed in scopes])}
        body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
        token = f"e30.{body}.{secrets.token_hex(8)}"
        self.tokens[token] = list(scopes)
        return token

    def evict(self, pattern: str = ".*") -> int:
        """Forget the entries whose keys match."""
        with self._lock:
            gone = [one for one in self.entries if re.search(pattern, one.key)]
            self.entries = [one for one in self.entries if one not in gone]
            for one in gone:
                self.blobs.pop(one.blob, None)
        return len(gone)

    def known(self) -> list[str]:
        """The keys of all entries that are whole."""
        return [one.key for one in self.entries if one.size >= 0]

    def asked(self, part: str) -> int:
        """How many requests had ``part`` in method and path."""
        return sum(part in f"{method} {path}" for method, path in self.requests)

    # --- the protocol ---------------------------------------------------------------------------------------

    def call(self, method: str, body: dict[str, Any], token: str) -> tuple[int, dict[str, Any]]:
        """A call's status and answer."""
        scopes = self.tokens.get(token)
        if scopes is None:
            return 401, {"code": "unauthenticated", "msg": "invalid token"}
        with self._lock:
            if method == "CreateCacheEntry":
                return self._create(body, scopes)
            if method == "FinalizeCacheEntryUpload":
                return self._finalize(body, scopes)
            if method == "GetCacheEntryDownloadURL":
                return self._find(body, scopes)
        return 404, {"code": "bad_route", "msg": "no such method"}

    def _create(self, body: dict[str, Any], scopes: list[tuple[str, int]]) -> tuple[int, dict[str, Any]]:
        ref = next((ref for ref, allowed in scopes if allowed & WRITE), None)
        if ref is None:
            return 403, {"code": "permission_denied", "msg": "token has no writable scope"}
        if len(body["key"]) > 512 or "," in body["key"]:
            return 400, {"code": "invalid_argument", "msg": "key"}
        for one in self.entries:
            if (one.ref, one.key, one.version) == (ref, body["key"], body["version"]):
                return 409, {"code": "already_exists", "msg": "cache entry with the same key exists"}
        blob = secrets.token_hex(8)
        self.entries.append(Stored(ref, body["key"], body["version"], blob))
        return 200, {"ok": True, "signed_upload_url": self.sign(blob)}

    def _finalize(self, body: dict[str, Any], scopes: list[tuple[str, int]]) -> tuple[int, dict[str, Any]]:
        writable = [ref for ref, allowed in scopes if allowed & WRITE]
        for number, one in enumerate(self.entries):
            if one.ref in writable and (one.key, one.version) == (body["key"], body["version"]):
                data = self.blobs.get(one.blob)
                if one.size >= 0 or data is None or int(body["size_bytes"]) != len(data):
                    return 400, {"code": "invalid_argument", "msg": "size does not match"}
                one.size = len(data)
                self.entries.append(self.entries.pop(number))  # the newest is last
                return 200, {"ok": True, "entry_id": str(number + 1)}
        return 404, {"code": "not_found", "msg": "no such reservation"}

    def _find(self, body: dict[str, Any], scopes: list[tuple[str, int]]) -> tuple[int, dict[str, Any]]:
        for ref, _ in sorted(scopes, key=lambda scope: not scope[1] & WRITE):
            mine = [e for e in self.entries if e.ref == ref and e.version == body["version"] and e.size >= 0]
            exact = [one for one in mine if one.key == body["key"]]
            begun = [one for key in body.get("restore_keys", ()) for one in mine if one.key.startswith(key)]
            for one in (*exact, *reversed(begun)):
                answer = {"ok": True, "signed_download_url": self.sign(one.blob), "matched_key": one.key}
                return 200, answer
        return 200, {"ok": False, "signed_download_url": "", "matched_key": ""}

    def sign(self, blob: str) -> str:
        """An URL that opens a blob until ``signatures`` forgets it."""
        signature = secrets.token_hex(8)
        self.signatures.add(signature)
        return f"{self.url}/storage/{blob}?sv=2024&sig={signature}"

    def put(self, blob: str, query: dict[str, str], data: bytes, headers: dict[str, str]) -> int:
        """Put Blob, Put Block, Put Block List."""
        with self._lock:
            match query.get("comp"):
                case "block":
                    self.blocks.setdefault(blob, {})[query["blockid"]] = data
                case "blocklist":
                    names = [node.text or "" for node in ElementTree.fromstring(data)]
                    if any(name not in self.blocks.get(blob, {}) for name in names):
                        return 400
                    self.blobs[blob] = b"".join(self.blocks[blob][name] for name in names)
                case _:
                    if headers.get("x-ms-blob-type") != "BlockBlob":
                        return 400
                    self.blobs[blob] = data
        return 201


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: ActionsService

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        self.service.requests.append((self.command, self.path))
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        for fault in self.service.faults:
            if fault.times and re.fullmatch(fault.method, self.command) and re.search(fault.path, self.path):
                fault.times -= 1
                if fault.cut >= 0:
                    self._storage(parts.path, dict(parse_qsl(parts.query)), data, cut=fault.cut)
                else:
                    self._answer(fault.status, b'{"code":"unavailable","msg":"later"}', fault.headers)
                return
        call = _METHOD.fullmatch(parts.path)
        if call and self.command == "POST":
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, answer = self.service.call(call[1], json.loads(data), token)
            self._answer(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})
        elif parts.path.startswith("/storage/"):
            self._storage(parts.path, dict(parse_qsl(parts.query)), data)
        else:
            self._answer(404, b"{}", {})

    do_GET = do_PUT = do_POST = _serve

    def _storage(self, path: str, query: dict[str, str], data: bytes, cut: int = -1) -> None:
        blob = path.removeprefix("/storage/")
        self.service.leaked = self.service.leaked or "Authorization" in self.headers
        if query.get("sig") not in self.service.signatures:
            self._answer(403, b"", {"x-ms-error-code": "AuthenticationFailed"})
        elif self.command == "PUT":
            headers = {name.lower(): value for name, value in self.headers.items()}
            self._answer(self.service.put(blob, query, data, headers), b"", {})
        elif blob not in self.service.blobs:
            self._answer(404, b"", {"x-ms-error-code": "BlobNotFound"})
        else:
            self._part(self.service.blobs[blob], cut)

    def _part(self, whole: bytes, cut: int) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("x-ms-range", self.headers.get("Range", "")))
        start = int(wanted[1]) if wanted else 0
        headers = {"Content-Range": f"bytes {start}-{len(whole) - 1}/{len(whole)}"} if wanted else {}
        self._answer(206 if wanted else 200, whole[start:], headers, cut=cut)

    def _answer(self, status: int, body: bytes, headers: dict[str, str], cut: int = -1) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body if cut < 0 else body[:cut])
        if cut >= 0:
            self.close_connection = True


@contextmanager
def serve_actions() -> Iterator[ActionsService]:
    """The service on loopback while the block lasts."""
    service = ActionsService()
    handler = type("Handler", (_Handler,), {"service": service})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    service.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
