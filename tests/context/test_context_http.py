"""Files over http, against a server of our own that counts what it is asked."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from polyarch.content.state import State
from polyarch.context.http import fetch, is_http_url
from polyarch.errors import ContentError, NotFoundError, PolyarchError, UsageError


@dataclass
class Server:
    url: str = ""
    content: bytes = b"content"
    headers: dict[str, str] = field(default_factory=dict)
    answer: Callable[[BaseHTTPRequestHandler], bool] | None = None
    seen: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.seen.append((self.command, self.path, dict(self.headers)))
            if made.answer is not None and made.answer(self):
                return
            if self.headers.get("If-None-Match") == made.headers.get("ETag", "-"):
                self.send_response(304)
                self.end_headers()
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(made.content)))
            for name, value in made.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(made.content)

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made.url = f"http://127.0.0.1:{listening.server_port}"
    thread = Thread(target=listening.serve_forever)
    thread.start()
    yield made
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_what_comes_back(server: Server, state: State) -> None:
    server.headers = {"Last-Modified": "Tue, 02 Jan 2024 03:04:05 GMT"}
    file = fetch(f"{server.url}/dir/na%20me.txt?x=1", state)
    assert file.path.read_bytes() == b"content" and file.size == 7
    assert file.digest == "sha256:" + hashlib.sha256(b"content").hexdigest()
    assert file.filename == "na me.txt"
    assert file.last_modified_ns == 1704164645 * 10**9
    server.headers = {"Content-Disposition": 'attachment; filename="other.bin"'}
    assert fetch(f"{server.url}/y", state).filename == "other.bin"
    server.headers = {"Content-Disposition": 'attachment; filename="../../evil"'}
    assert fetch(f"{server.url}/z", state).filename == "z"
    assert fetch(server.url, state).filename == "download"


def test_unchanged_is_not_sent_again(server: Server, state: State) -> None:
    server.headers = {"ETag": '"v1"'}
    first = fetch(f"{server.url}/f", state)
    assert fetch(f"{server.url}/f", state) == first
    assert server.seen[1][2]["If-None-Match"] == '"v1"'
    server.headers, server.content = {"ETag": '"v2"'}, b"changed"
    second = fetch(f"{server.url}/f", state)
    assert second.path.read_bytes() == b"changed" and not first.path.exists()


def test_checksum(server: Server, state: State) -> None:
    right = "sha256:" + hashlib.sha256(b"content").hexdigest()
    fetch(f"{server.url}/f", state, checksum=right)
    fetch(f"{server.url}/f", state, checksum=right)
    assert len(server.seen) == 1  # what is known to be right needs no asking
    strong = "sha512:" + hashlib.sha512(b"content").hexdigest()
    fetch(f"{server.url}/f", state, checksum=strong)
    with pytest.raises(ContentError) as caught:
        fetch(f"{server.url}/f", state, checksum="sha256:" + "0" * 64)
    assert caught.value.reason == "checksum-mismatch" and right in caught.value.detail
    with pytest.raises(UsageError):
        fetch(f"{server.url}/f", state, checksum="md5:00")


def test_refusals(server: Server, state: State) -> None:
    def answer(status: int) -> Callable[[BaseHTTPRequestHandler], bool]:
        def send(request: BaseHTTPRequestHandler) -> bool:
            request.send_response(status)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return True

        return send

    server.answer = answer(404)
    with pytest.raises(NotFoundError) as caught:
        fetch(f"{server.url}/gone", state)
    assert "/gone" in caught.value.summary and "404" in caught.value.summary
    server.answer = answer(403)
    with pytest.raises(PolyarchError) as refused:
        fetch(f"{server.url}/no", state)
    assert "403" in refused.value.summary
    server.answer = answer(503)
    with pytest.raises(PolyarchError):
        fetch(f"{server.url}/busy", state)
    assert len([1 for _, path, _ in server.seen if path == "/busy"]) == 3


def test_cut_off(server: Server, state: State) -> None:
    def cut(request: BaseHTTPRequestHandler) -> bool:
        request.send_response(200)
        request.send_header("Content-Length", "1000")
        request.end_headers()
        request.wfile.write(b"only this")
        request.close_connection = True
        return True

    server.answer = cut
    with pytest.raises(PolyarchError) as caught:
        fetch(f"{server.url}/f", state)
    assert caught.value.reason == "http-failed"
    assert not [
        path for path in (state.sources / "http").rglob("*") if path.is_file() and path.name != "lock"
    ]


def test_redirects(server: Server, state: State) -> None:
    def onward(request: BaseHTTPRequestHandler) -> bool:
        if request.path == "/end":
            return False
        request.send_response(302)
        request.send_header("Location", "/end" if request.path == "/start" else "/round")
        request.send_header("Content-Length", "0")
        request.end_headers()
        return True

    server.answer = onward
    file = fetch(f"{server.url}/start", state)
    assert file.path.read_bytes() == b"content" and file.filename == "start"
    with pytest.raises(PolyarchError) as caught:
        fetch(f"{server.url}/round", state)
    assert caught.value.reason == "http-failed"


def test_credentials_are_sent_and_not_shown(server: Server, state: State) -> None:
    fetch(server.url.replace("://", "://me:s3cret%21@") + "/f", state)
    assert server.seen[0][2]["Authorization"] == "Basic " + base64.b64encode(b"me:s3cret!").decode()
    with pytest.raises(PolyarchError) as caught:
        fetch("http://me:s3cret@127.0.0.1:1/f?token=t0ken", state)
    shown = str(vars(caught.value)) + str(caught.value)
    assert "s3cret" not in shown and "t0ken" not in shown and "127.0.0.1:1/f" in shown
    kept = b"".join(path.read_bytes() for path in state.root.rglob("*") if path.is_file())
    assert b"s3cret" not in kept


@pytest.mark.parametrize("text", ["http://", "http://[", "ftp://x/y", "file:///etc/passwd"])
def test_invalid(text: str, state: State) -> None:
    with pytest.raises(UsageError):
        fetch(text, state)


def test_is_http_url() -> None:
    assert is_http_url("HTTPS://x/y") and is_http_url("http://x")
    assert not is_http_url("httpx://y") and not is_http_url("./http://")
