"""The times of downloads: what the server says, else the newest file of an archive."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from polyarch.content.state import State
from polyarch.context.times import source_time


def archive() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as packed:
        for name, mtime in (("old", 11), ("deep/new", 1_700_000_302)):
            member = tarfile.TarInfo(name)
            member.mtime = mtime
            packed.addfile(member)
    return stream.getvalue()


@pytest.fixture
def url() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = b"no archive" if self.path.endswith(".txt") else archive()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            if self.path.startswith("/dated"):
                self.send_header("Last-Modified", "Tue, 14 Nov 2023 22:16:41 GMT")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=listening.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{listening.server_port}"
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_downloads(url: str, tmp_path: Path) -> None:
    state = State(tmp_path)
    assert source_time(url + "/dated.tar", state) == 1_700_000_201
    assert source_time(url + "/plain.tar", state) == 1_700_000_302
    assert source_time(url + "/dated.txt", state) == 1_700_000_201
    assert source_time(url + "/plain.txt", state) is None
