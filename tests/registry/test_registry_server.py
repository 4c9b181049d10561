"""The server against the distribution specification: blobs and uploads (spec.md, "Endpoints")."""

import hashlib
import os
import socket
from collections.abc import Iterator

import pytest
from raw_client import EMPTY, OCTETS, Registry, code

from polyarch.oci import digest as digests
from polyarch.registry.server import serve_in_thread


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_in_thread(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def registry(host: str) -> Registry:
    return Registry(host)


# --- basics -------------------------------------------------------------------------------------------------


def test_version_check(registry: Registry) -> None:
    for path in ("/v2/", "/v2"):
        answer = registry("GET", path)
        assert answer.status == 200
        assert answer.headers["Docker-Distribution-API-Version"] == "registry/2.0"


@pytest.mark.parametrize(
    "path",
    ["/v2/../../etc/passwd", "/v2/a/../b/tags/list", "/v2/%2e%2e/%2e%2e/tags/list", "/v2/UPPER/tags/list",
     "/v2/a//b/tags/list", "/v2/_uploads/tags/list", "/v2/a%00b/tags/list", f"/v2/{'a' * 256}/tags/list",
     "/v2/a/_manifests/tags/list", "/v2/.hidden/tags/list"],
)  # fmt: skip
def test_names_that_are_none(registry: Registry, path: str) -> None:
    with socket.create_connection(registry.host.split(":")) as connection:  # nobody normalises this path
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.split()[1] in (b"400", b"404"), answer
    assert b"root:" not in answer


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/v2/app/manifests/v1", "GET, HEAD, PUT, DELETE"),
        ("PUT", "/v2/app/tags/list", "GET"),
        ("PATCH", f"/v2/app/blobs/{EMPTY}", "GET, HEAD, DELETE"),
    ],
)
def test_methods_that_are_none(registry: Registry, method: str, path: str, allowed: str) -> None:
    answer = registry(method, path)
    assert (answer.status, code(answer), answer.headers["Allow"]) == (405, "UNSUPPORTED", allowed)


# --- blobs --------------------------------------------------------------------------------------------------


def test_blob_get_and_head(registry: Registry) -> None:
    digest = registry.push(b"0123456789")
    answer = registry("GET", f"/v2/app/blobs/{digest}")
    assert (answer.status, answer.data) == (200, b"0123456789")
    head = registry("HEAD", f"/v2/app/blobs/{digest}")
    assert (head.status, head.data) == (200, b"")
    for found in (answer, head):
        assert found.headers["Docker-Content-Digest"] == digest
        assert found.headers["Content-Length"] == "10"
        assert found.headers["ETag"] == f'"{digest}"'
    assert registry("GET", f"/v2/app/blobs/{digest}", If_None_Match=f'"{digest}"').status == 304


@pytest.mark.parametrize(
    ("wanted", "status", "body", "found"),
    [
        ("bytes=0-3", 206, b"0123", "bytes 0-3/10"),
        ("bytes=4-", 206, b"456789", "bytes 4-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=8-100", 206, b"89", "bytes 8-9/10"),
        ("bytes=-100", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=5-2", 200, b"0123456789", None),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_blob_ranges(
    registry: Registry, wanted: str, status: int, body: bytes | None, found: str | None
) -> None:
    digest = registry.push(b"0123456789")
    answer = registry("GET", f"/v2/app/blobs/{digest}", Range=wanted)
    assert answer.status == status
    assert answer.headers.get("Content-Range") == found
    assert body is None or answer.data == body


def test_blob_unknown(registry: Registry) -> None:
    absent = digests.of(b"absent")
    for method in ("GET", "DELETE"):
        answer = registry(method, f"/v2/app/blobs/{absent}")
        assert (answer.status, code(answer)) == (404, "BLOB_UNKNOWN")
    assert registry("HEAD", f"/v2/app/blobs/{absent}").status == 404
    answer = registry("GET", "/v2/app/blobs/sha256:123")
    assert (answer.status, code(answer)) == (400, "DIGEST_INVALID")


def test_blob_delete_hides_it_here_only(registry: Registry) -> None:
    digest = registry.push(b"shared", "one")
    registry.push(b"shared", "two")
    assert registry("DELETE", f"/v2/one/blobs/{digest}").status == 202
    assert registry("HEAD", f"/v2/one/blobs/{digest}").status == 404
    assert registry("HEAD", f"/v2/two/blobs/{digest}").status == 200


@pytest.mark.parametrize("data", [b"", b"x", os.urandom(3_000_001)])
def test_upload_post_then_put(registry: Registry, data: bytes) -> None:
    location = registry.begin()
    answer = registry("PUT", f"{location}?digest={digests.of(data)}", data, **OCTETS)
    assert answer.status == 201
    assert answer.headers["Docker-Content-Digest"] == digests.of(data)
    assert registry("GET", answer.headers["Location"]).data == data
    assert registry("GET", location).status == 404  # the upload is over


def test_upload_sha512(registry: Registry) -> None:
    digest = "sha512:" + hashlib.sha512(b"long").hexdigest()
    answer = registry("PUT", f"{registry.begin()}?digest={digest}", b"long", **OCTETS)
    assert answer.status == 201
    assert registry("GET", f"/v2/app/blobs/{digest}").data == b"long"


def test_upload_in_chunks(registry: Registry) -> None:
    location = registry.begin()
    for first, piece in ((0, b"first "), (6, b"second "), (13, b"third")):
        answer = registry(
            "PATCH", location, piece, Content_Range=f"{first}-{first + len(piece) - 1}", **OCTETS
        )
        assert answer.status == 202
        assert answer.headers["Range"] == f"0-{first + len(piece) - 1}"
        location = answer.headers["Location"]
    status = registry("GET", location)
    assert (status.status, status.headers["Range"]) == (204, "0-17")
    answer = registry("PUT", f"{location}?digest={digests.of(b'first second third')}")
    assert answer.status == 201


def test_upload_with_the_last_chunk_in_put(registry: Registry) -> None:
    location = registry("PATCH", registry.begin(), b"abc", Content_Range="0-2", **OCTETS).headers["Location"]
    answer = registry(
        "PUT", f"{location}?digest={digests.of(b'abcdef')}", b"def", Content_Range="3-5", **OCTETS
    )
    assert answer.status == 201


def test_upload_streamed_without_length(registry: Registry) -> None:
    location = registry.begin()
    answer = registry("PATCH", location, iter([b"some ", b"stream"]), **OCTETS)
    assert (answer.status, answer.headers["Range"]) == (202, "0-10")


@pytest.mark.parametrize("wrong", ["3-5", "9-11", "1-3"])
def test_upload_out_of_order(registry: Registry, wrong: str) -> None:
    location = registry("PATCH", registry.begin(), b"12345", Content_Range="0-4", **OCTETS).headers[
        "Location"
    ]
    for method, path in (("PATCH", location), ("PUT", f"{location}?digest={digests.of(b'12345abc')}")):
        answer = registry(method, path, b"abc", Content_Range=wrong, **OCTETS)
        assert (answer.status, answer.headers["Range"]) == (416, "0-4")
    assert registry("PATCH", location, b"abc", Content_Range="5-7", **OCTETS).status == 202


@pytest.mark.parametrize("header", ["nonsense", "5-2", "-3", "0-99999999999999999999"])
def test_upload_with_a_senseless_range(registry: Registry, header: str) -> None:
    answer = registry("PATCH", registry.begin(), b"abc", Content_Range=header, **OCTETS)
    assert (answer.status, code(answer)) == (400, "BLOB_UPLOAD_INVALID")


def test_upload_whose_range_and_length_differ(registry: Registry) -> None:
    answer = registry("PATCH", registry.begin(), b"abc", Content_Range="0-9", **OCTETS)
    assert (answer.status, code(answer)) == (400, "SIZE_INVALID")


def test_upload_with_a_wrong_digest_leaves_nothing(registry: Registry, host: str) -> None:
    for path in (f"/v2/app/blobs/uploads/?digest={digests.of(b'right')}",):
        answer = registry("POST", path, b"wrong", **OCTETS)
        assert (answer.status, code(answer)) == (400, "DIGEST_INVALID")
    location = registry.begin()
    answer = registry("PUT", f"{location}?digest={digests.of(b'right')}", b"wrong", **OCTETS)
    assert (answer.status, code(answer)) == (400, "DIGEST_INVALID")
    assert registry("HEAD", f"/v2/app/blobs/{digests.of(b'right')}").status == 404
    assert registry("GET", location).status == 404


def test_upload_without_a_digest(registry: Registry) -> None:
    answer = registry("PUT", registry.begin(), b"x", **OCTETS)
    assert (answer.status, code(answer)) == (400, "DIGEST_INVALID")


@pytest.mark.parametrize("identity", ["nonsense", "0" * 32, "..", "%2e%2e%2fx"])
@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_upload_unknown(registry: Registry, method: str, identity: str) -> None:
    answer = registry(method, f"http://{registry.host}/v2/app/blobs/uploads/{identity}")
    assert answer.status in (400, 404, 405)


def test_upload_belongs_to_its_repository(registry: Registry) -> None:
    stolen = registry.begin("mine").replace("/v2/mine/", "/v2/yours/")
    assert registry("PATCH", stolen, b"x", **OCTETS).status == 404


def test_upload_cancelled(registry: Registry) -> None:
    location = registry.begin()
    assert registry("DELETE", location).status == 204
    assert registry("GET", location).status == 404


def test_mount(registry: Registry) -> None:
    digest = registry.push(b"to be mounted", "source")
    answer = registry("POST", f"/v2/target/blobs/uploads/?mount={digest}&from=source")
    assert answer.status == 201
    assert answer.headers["Location"] == f"/v2/target/blobs/{digest}"
    assert registry("GET", f"/v2/target/blobs/{digest}").data == b"to be mounted"
    for query in (f"mount={digest}&from=stranger", f"mount={digest}"):
        answer = registry("POST", f"/v2/third/blobs/uploads/?{query}")
        assert answer.status == 202 and answer.headers["Location"]
