"""The server the cases talk to: a read-only registry with the bases, web files, and a git repository."""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import threading
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from cases_bases import Images, make
from cases_corpus import content_of

MODIFIED = "Tue, 14 Nov 2023 22:13:20 GMT"
GIT_ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "Case",
    "GIT_AUTHOR_EMAIL": "case@example.com",
    "GIT_COMMITTER_NAME": "Case",
    "GIT_COMMITTER_EMAIL": "case@example.com",
    "GIT_AUTHOR_DATE": "1700000100 +0000",
    "GIT_COMMITTER_DATE": "1700000100 +0000",
    "GIT_ALLOW_PROTOCOL": "file:http",
}


class World:
    """Starts with the first use of `address`, ends with `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images: Images = make()
        self.web: dict[str, Mapping[str, Any]] = {}
        world = self

        class Handler(_Handler):
            owner = world

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        """host:port of the server."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @cached_property
    def git_root(self) -> Path:
        """Bare repositories: lib.git, app.git, and super.git with lib as a submodule."""
        root = self.folder / "git"
        root.mkdir()
        lib = _Repository(root, "lib")
        lib.commit("library", {"lib.txt": "library\n"})
        lib.publish()
        app = _Repository(root, "app")
        app.commit("first", {"README": "first\n", "sub/Dockerfile": "FROM scratch\nCOPY data /from-sub\n"})
        app.git("tag", "v1")
        (app.work / "run.sh").write_text("#!/bin/sh\necho run\n")
        (app.work / "run.sh").chmod(0o755)
        (app.work / "link").symlink_to("README")
        app.git("add", "run.sh", "link")
        app.commit("second", {"README": "second\n", "sub/data": "sub data\n"})
        app.git("tag", "-a", "v2", "-m", "second")
        app.git("checkout", "-q", "-b", "side")
        app.commit("side", {"README": "side\n", "Dockerfile": "FROM scratch\nCOPY README /from-git\n"})
        app.git("checkout", "-q", "main")
        app.commit("third", {"README": "third\n", "Dockerfile": "FROM scratch\nCOPY README /from-git\n"})
        app.publish()
        module = _Repository(root, "super")
        module.git("update-index", "--add", "--cacheinfo", f"160000,{lib.head},lib")
        modules = '[submodule "lib"]\n\tpath = lib\n\turl = ../lib.git\n'
        module.commit("with a submodule", {".gitmodules": modules})
        module.publish()
        return root

    @cached_property
    def layout(self) -> Path:
        """An OCI layout on disk with every base under its name."""
        root = self.folder / "layout"
        (root / "blobs/sha256").mkdir(parents=True)
        for digest, data in self.images.blobs.items():
            (root / "blobs/sha256" / digest.removeprefix("sha256:")).write_bytes(data)
        (root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        manifests = [
            {
                "mediaType": self.images.types[digest],
                "digest": digest,
                "size": len(self.images.blobs[digest]),
                "annotations": {"org.opencontainers.image.ref.name": name},
            }
            for name, digest in self.images.names.items()
        ]
        (root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
        return root

    def fill(self, text: str, case: str, word: str) -> str:
        """``text`` with the names of the corpus replaced by what they stand for now."""
        text = text.replace("://cases.test/web/", f"://{self.address}/web/{case.replace('/', '.')}/")
        if "cases-layout" in text:
            text = text.replace("cases-layout", str(self.layout))
        return text.replace("cases.test", self.address).replace("cases-run", word)

    def clear(self, text: str, case: str) -> str:
        """The opposite of `fill` for results."""
        text = text.replace(f"/web/{case.replace('/', '.')}/", "/web/")
        return text.replace(self.address, "cases.test")


class _Repository:
    def __init__(self, root: Path, name: str) -> None:
        self.work, self.bare = root / f"{name}.work", root / f"{name}.git"
        self.work.mkdir()
        self.git("init", "-q", "-b", "main")

    def git(self, *words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=self.work, env=GIT_ENVIRONMENT, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    def commit(self, message: str, files: Mapping[str, str]) -> None:
        for name, text in files.items():
            (self.work / name).parent.mkdir(exist_ok=True)
            (self.work / name).write_text(text)
            self.git("add", name)
        self.git("commit", "-q", "-m", message)

    @property
    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    def publish(self) -> None:
        self.git("clone", "-q", "--bare", ".", str(self.bare))
        subprocess.run(
            ["git", "config", "uploadpack.allowReachableSHA1InWant", "true"],
            cwd=self.bare, env=GIT_ENVIRONMENT, check=True,
        )  # fmt: skip


class _Handler(http.server.BaseHTTPRequestHandler):
    owner: World
    protocol_version = default_request_version = "HTTP/1.1"  # BuildKit knocks with TLS first: answer in HTTP

    def log_message(self, format: str, *args: object) -> None:
        pass  # the tests' output is for failures

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._git()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        if path in ("/v2", "/v2/"):
            return self._send(200, b"{}", {"Content-Type": "application/json"})
        if found := re.fullmatch(r"/v2/([a-z]+)/(manifests|blobs)/(.+)", path):
            return self._registry(found[1], found[3])
        if path.startswith("/web/"):
            return self._web(path)
        if path.startswith("/git/"):
            return self._git()
        return self._send(404, b"not here\n", {})

    def _registry(self, name: str, reference: str) -> None:
        images = self.owner.images
        digest = images.names.get(name, "") if reference == "latest" else reference
        if name not in images.names or digest not in images.blobs:
            error = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'
            return self._send(404, error, {"Content-Type": "application/json"})
        headers = {"Content-Type": images.types[digest], "Docker-Content-Digest": digest}
        return self._send(200, images.blobs[digest], headers)

    def _web(self, path: str) -> None:
        _, _, case, name = path.split("/", 3)
        value = self.owner.web.get(case, {}).get(name)
        if value is None:
            return self._send(404, b"not here\n", {})
        spec = {"content": value} if isinstance(value, str) else value
        if "redirect" in spec:
            return self._send(302, b"", {"Location": spec["redirect"]})
        headers = {"Content-Type": spec.get("type", "application/octet-stream"), "Last-Modified": MODIFIED}
        headers |= {"Last-Modified": spec["modified"]} if "modified" in spec else {}
        if "disposition" in spec:
            headers["Content-Disposition"] = f'attachment; filename="{spec["disposition"]}"'
        return self._send(200, content_of(name, spec), headers)

    def _git(self) -> None:
        body = self._body()
        path, _, query = self.path.partition("?")
        variables = {
            **GIT_ENVIRONMENT,
            "GIT_PROJECT_ROOT": str(self.owner.git_root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "PATH_INFO": path.removeprefix("/git"),
            "QUERY_STRING": query,
            "REQUEST_METHOD": self.command,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": "127.0.0.1",
        }
        done = subprocess.run(["git", "http-backend"], env=variables, input=body, capture_output=True)
        head, _, data = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line)
        status = int(headers.pop("Status", "200").split()[0]) if head else 500
        self._send(status, data, headers)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def _send(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
