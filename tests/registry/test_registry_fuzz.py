"""No request brings the server down: whatever comes is answered, and never with 500."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from polyarch.oci.digest import of
from polyarch.registry.server import DEFAULT_PLATFORM
from polyarch.registry.server.app import create_app
from polyarch.registry.server.blobs import wanted_part
from polyarch.registry.server.refusal import Refusal
from polyarch.registry.server.storage import Storage

PARTS = st.sampled_from(
    ["v2", "blobs", "uploads", "manifests", "tags", "list", "referrers", "_catalog", "app", "..", ".", "",
     "latest", of(b"x"), "sha256:zz", "a" * 300, "%00", "\x00", "ünïcode", "0" * 32, "_blobs", "_uploads"]
)  # fmt: skip
QUERIES = st.sampled_from(
    ["", "digest=", f"digest={of(b'')}", "digest=sha256:..", f"mount={of(b'x')}&from=../..", "n=-1&last=",
     "n=99999999999999999999", "n=2&last=%ff", "artifactType=%00", "&&&=", "digest=" + "f" * 5000]
)  # fmt: skip
NAMES = st.sampled_from(
    [b"range", b"content-range", b"content-length", b"accept", b"content-type", b"if-none-match"]
)
VALUES = st.sampled_from([b"bytes=0-", b"0-0", b"99999999999999999999", b"-1"])
HEADERS = st.lists(st.tuples(NAMES, st.one_of(st.binary(max_size=30), VALUES)), max_size=3)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return create_app(Storage(tmp_path_factory.mktemp("fuzz")), default_platform=DEFAULT_PLATFORM)


def ask(app: Any, scope: dict[str, Any], body: bytes) -> tuple[int, bytes]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "BREW"]),
    parts=st.lists(PARTS, max_size=6),
    query=QUERIES,
    headers=HEADERS,
    body=st.one_of(st.binary(max_size=200), st.sampled_from([b"{}", b'{"schemaVersion":2,"manifests":[]}'])),
)
def test_any_request_is_answered(
    app: Any, method: str, parts: list[str], query: str, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    scope = {"type": "http", "method": method, "path": "/v2/" + "/".join(parts),
             "query_string": query.encode(), "headers": headers}  # fmt: skip
    status, answer = ask(app, scope, body)
    assert 200 <= status < 500
    if status >= 400 and method != "HEAD":
        assert json.loads(answer)["errors"][0]["message"]


def test_nothing_was_written_outside(app: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    root: Path = app._storage.root
    names = {path.name for path in root.iterdir()} if root.exists() else set()
    assert names <= {"blobs", "repositories", "oci-layout", "index.json"}


@given(st.text(max_size=40), st.integers(0, 100))
def test_any_range_is_inside_or_refused(header: str, size: int) -> None:
    for text in (header, f"bytes={header}"):
        try:
            part = wanted_part(text, size)
        except Refusal as refusal:
            assert refusal.status == 416
            continue
        assert part is None or 0 <= part[0] <= part[1] < size
