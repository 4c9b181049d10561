"""The server against the distribution specification: manifests, negotiation, listings, and its disk."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from raw_client import OCTETS, Registry, code, entry

from polyarch.oci import digest as digests
from polyarch.oci import media_types
from polyarch.oci.platform import Platform
from polyarch.registry.server import serve_in_thread


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_in_thread(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def registry(host: str) -> Registry:
    return Registry(host)


# --- manifests ----------------------------------------------------------------------------------------------


def test_manifest_byte_for_byte(registry: Registry) -> None:
    registry.manifest()
    odd = registry("GET", "/v2/app/manifests/v1").data.replace(b"{", b"{\n\t ", 1) + b"\n\n"
    answer = registry("PUT", "/v2/app/manifests/odd", odd, Content_Type=media_types.OCI_MANIFEST)
    assert answer.headers["Location"] == f"/v2/app/manifests/{digests.of(odd)}"
    for reference in ("odd", digests.of(odd)):
        found = registry("GET", f"/v2/app/manifests/{reference}")
        assert found.data == odd
        assert found.headers["Content-Type"] == media_types.OCI_MANIFEST
        assert found.headers["Docker-Content-Digest"] == digests.of(odd)
        head = registry("HEAD", f"/v2/app/manifests/{reference}")
        assert head.headers["Content-Length"] == str(len(odd)) and head.data == b""


def test_manifest_unknown(registry: Registry) -> None:
    registry.manifest()
    for reference in ("nope", digests.of(b"nope")):
        for method in ("GET", "DELETE"):
            answer = registry(method, f"/v2/app/manifests/{reference}")
            assert (answer.status, code(answer)) == (404, "MANIFEST_UNKNOWN")
    answer = registry("GET", "/v2/no/such/repository/manifests/v1")
    assert (answer.status, code(answer)) == (404, "NAME_UNKNOWN")


@pytest.mark.parametrize("tag", ["-x", ".x", "a" * 129, "a b", "ä"])
def test_manifest_with_a_bad_tag(registry: Registry, tag: str) -> None:
    answer = registry("PUT", f"/v2/app/manifests/{tag}", b"{}", Content_Type=media_types.OCI_MANIFEST)
    assert answer.status == 400


@pytest.mark.parametrize(
    "document",
    [b"", b"{", b"[]", b"null", b"{}", b'{"schemaVersion":1}', b'{"schemaVersion":2,"layers":[]}',
     b'{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}',
     b'{"schemaVersion":2,"manifests":[{"digest":"sha256:zz","size":1,"mediaType":"x"}]}',
     b'{"schemaVersion":2,"layers":' + b"[" * 50_000],
)  # fmt: skip
def test_manifest_that_is_none(registry: Registry, document: bytes) -> None:
    answer = registry("PUT", "/v2/app/manifests/bad", document, Content_Type=media_types.OCI_MANIFEST)
    assert (answer.status, code(answer)) == (400, "MANIFEST_INVALID")
    assert registry("HEAD", "/v2/app/manifests/bad").status == 404


def test_manifest_whose_types_differ(registry: Registry) -> None:
    registry.manifest()
    data = registry("GET", "/v2/app/manifests/v1").data
    answer = registry("PUT", "/v2/app/manifests/x", data, Content_Type=media_types.DOCKER_MANIFEST)
    assert (answer.status, code(answer)) == (400, "MANIFEST_INVALID")


def test_manifest_under_a_wrong_digest(registry: Registry) -> None:
    registry.manifest()
    data = registry("GET", "/v2/app/manifests/v1").data
    answer = registry("PUT", f"/v2/app/manifests/{digests.of(b'x')}", data,
                      Content_Type=media_types.OCI_MANIFEST)  # fmt: skip
    assert (answer.status, code(answer)) == (400, "DIGEST_INVALID")


def test_manifest_too_large(registry: Registry) -> None:
    data = b'{"schemaVersion":2,"annotations":{"a":"' + b"x" * (4 << 20) + b'"}}'
    answer = registry("PUT", "/v2/app/manifests/big", data, Content_Type=media_types.OCI_MANIFEST)
    assert answer.status == 413


def test_manifest_with_missing_parts(registry: Registry) -> None:
    config = b"config only here"
    registry.push(config)
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": entry(config, media_types.OCI_CONFIG),
        "layers": [entry(b"never pushed", media_types.OCI_LAYER)],
    }
    data = json.dumps(document).encode()
    answer = registry("PUT", "/v2/app/manifests/x", data, Content_Type=media_types.OCI_MANIFEST)
    assert (answer.status, code(answer)) == (404, "MANIFEST_BLOB_UNKNOWN")
    index = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX,
        "manifests": [entry(data, media_types.OCI_MANIFEST)],
    }
    answer = registry("PUT", "/v2/app/manifests/x", json.dumps(index), Content_Type=media_types.OCI_INDEX)
    assert (answer.status, code(answer)) == (404, "MANIFEST_BLOB_UNKNOWN")


def test_manifest_with_a_part_of_another_size(registry: Registry) -> None:
    config = b"some config"
    registry.push(config)
    document = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_MANIFEST,
        "config": {**entry(config, media_types.OCI_CONFIG), "size": 3},
        "layers": [],
    }
    answer = registry("PUT", "/v2/app/manifests/x", json.dumps(document),
                      Content_Type=media_types.OCI_MANIFEST)  # fmt: skip
    assert (answer.status, code(answer)) == (400, "SIZE_INVALID")


def test_build_cache_index_of_layers(registry: Registry) -> None:
    registry.push(b"cached layer")
    index = {
        "schemaVersion": 2,
        "mediaType": media_types.OCI_INDEX,
        "manifests": [entry(b"cached layer", media_types.OCI_LAYER)],
    }
    registry.put(index, "cache")


def test_foreign_layers_need_not_be_here(registry: Registry) -> None:
    kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
    registry.manifest(tag="win", layers=[entry(b"far away", kind, urls=["https://example.com/x"])])


def test_retagging_and_deleting(registry: Registry) -> None:
    first = registry.manifest("del", tag="v1", seed=b"1")
    second = registry.manifest("del", tag="v1", seed=b"2")
    assert registry("HEAD", "/v2/del/manifests/v1").headers["Docker-Content-Digest"] == second
    assert registry("HEAD", f"/v2/del/manifests/{first}").status == 200
    registry.manifest("del", tag="v2", seed=b"2")
    assert registry("DELETE", "/v2/del/manifests/v1").status == 202
    assert registry("HEAD", "/v2/del/manifests/v1").status == 404
    assert registry("HEAD", "/v2/del/manifests/v2").status == 200
    assert registry("DELETE", f"/v2/del/manifests/{second}").status == 202
    assert json.loads(registry("GET", "/v2/del/tags/list").data)["tags"] == []


# --- what a client that takes no index gets -----------------------------------------------------------------


@pytest.fixture
def index(registry: Registry) -> dict[str, str]:
    """An index under multi:latest; its parts' digests by platform, its own under ``index``."""
    made = {p: registry.manifest("multi", tag=p, seed=p.encode()) for p in ("amd64", "arm64")}
    entries = []
    for name, digest in made.items():
        size = int(registry("HEAD", f"/v2/multi/manifests/{digest}").headers["Content-Length"])
        entries.append({"mediaType": media_types.OCI_MANIFEST, "digest": digest, "size": size,
                        "platform": {"os": "linux", "architecture": name}})  # fmt: skip
    document = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": entries}
    return {**made, "index": registry.put(document, "latest", "multi")}


@pytest.mark.parametrize(
    ("accept", "agent", "expected"),
    [
        (f"{media_types.OCI_INDEX}, {media_types.OCI_MANIFEST}", "", "index"),
        (f"{media_types.OCI_MANIFEST};q=0.5, {media_types.OCI_INDEX};q=0.9", "", "index"),
        ("*/*", "", "index"),
        (media_types.OCI_MANIFEST, "", "amd64"),
        (f"{media_types.DOCKER_MANIFEST}, {media_types.OCI_MANIFEST}", "", "amd64"),
        (f"{media_types.OCI_INDEX};q=0, {media_types.OCI_MANIFEST}", "", "amd64"),
        (
            media_types.OCI_MANIFEST,
            "docker/20.10 go/go1.2 kernel/5 os/linux arch/arm64 UpstreamClient(x)",
            "arm64",
        ),
        (media_types.OCI_MANIFEST, "docker/20.10 os/linux arch/nonsense", "amd64"),
    ],
)
def test_negotiation(
    registry: Registry, index: dict[str, str], accept: str, agent: str, expected: str
) -> None:
    for method in ("GET", "HEAD"):
        answer = registry(method, "/v2/multi/manifests/latest", Accept=accept, User_Agent=agent or "x")
        assert answer.headers["Docker-Content-Digest"] == index[expected]
    # by digest a client gets what it asked for
    answer = registry("GET", f"/v2/multi/manifests/{index['index']}", Accept=accept)
    assert digests.of(answer.data) == index["index"]


def test_negotiation_without_the_platform(registry: Registry, index: dict[str, str]) -> None:
    agent = "docker/20 os/linux arch/s390x"
    answer = registry("GET", "/v2/multi/manifests/latest", Accept=media_types.OCI_MANIFEST, User_Agent=agent)
    assert (answer.status, code(answer)) == (404, "MANIFEST_UNKNOWN")
    assert b"linux/s390x" in answer.data


def test_default_platform(tmp_path: Path) -> None:
    with serve_in_thread(tmp_path, default_platform=Platform.parse("linux/arm64")) as host:
        registry = Registry(host)
        digest = registry.manifest(tag="x")
        size = int(registry("HEAD", f"/v2/app/manifests/{digest}").headers["Content-Length"])
        child = {"mediaType": media_types.OCI_MANIFEST, "digest": digest, "size": size,
                 "platform": {"os": "linux", "architecture": "arm64"}}  # fmt: skip
        registry.put({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [child]}, "multi")
        answer = registry("GET", "/v2/app/manifests/multi", Accept=media_types.OCI_MANIFEST)
        assert answer.headers["Docker-Content-Digest"] == digest


# --- lists --------------------------------------------------------------------------------------------------


def test_tags_in_pages(registry: Registry) -> None:
    for tag in ("b", "a", "C", "d10", "d9"):
        registry.manifest("tags", tag=tag)

    def tags(query: str) -> tuple[list[str], str]:
        answer = registry("GET", f"/v2/tags/tags/list{query}")
        found = json.loads(answer.data)
        assert found["name"] == "tags"
        return found["tags"], answer.headers.get("Link", "")

    assert tags("") == (["C", "a", "b", "d10", "d9"], "")
    assert tags("?n=2") == (["C", "a"], '</v2/tags/tags/list?n=2&last=a>; rel="next"')
    assert tags("?n=2&last=a")[0] == ["b", "d10"]
    assert tags("?n=2&last=d10") == (["d9"], "")
    assert tags("?n=0") == ([], "")
    assert tags("?last=b") == (["d10", "d9"], "")
    assert registry("GET", "/v2/tags/tags/list?n=x").status == 400
    answer = registry("GET", "/v2/nobody/tags/list")
    assert (answer.status, code(answer)) == (404, "NAME_UNKNOWN")


def test_catalog(tmp_path: Path) -> None:
    with serve_in_thread(tmp_path) as host:
        registry = Registry(host)
        assert json.loads(registry("GET", "/v2/_catalog").data) == {"repositories": []}
        for name in ("z", "a/b/c", "a/b", "a"):
            registry.manifest(name)
        registry.push(b"no manifest", "blobs-only")
        answer = registry("GET", "/v2/_catalog?n=3")
        assert json.loads(answer.data) == {"repositories": ["a", "a/b", "a/b/c"]}
        assert "last=a%2Fb%2Fc" in answer.headers["Link"]
        assert json.loads(registry("GET", "/v2/_catalog?n=3&last=a/b/c").data) == {"repositories": ["z"]}


def test_referrers(registry: Registry) -> None:
    digest = registry.manifest("ref", tag="v1")
    listed = registry("GET", f"/v2/ref/referrers/{digest}")
    assert (listed.status, listed.headers["Content-Type"]) == (200, media_types.OCI_INDEX)
    assert json.loads(listed.data)["manifests"] == []
    subject = {"mediaType": media_types.OCI_MANIFEST, "digest": digest, "size": 1}
    data = {"schemaVersion": 2, "mediaType": media_types.OCI_MANIFEST, "subject": subject,
            "artifactType": "application/x.one", "annotations": {"a": "b"},
            "config": entry(b"{}", media_types.OCI_EMPTY), "layers": []}  # fmt: skip
    registry.push(b"{}", "ref")
    answer = registry("PUT", "/v2/ref/manifests/sig", json.dumps(data), Content_Type=media_types.OCI_MANIFEST)
    assert answer.headers["OCI-Subject"] == digest
    signature = answer.headers["Docker-Content-Digest"]
    plain = registry.manifest("ref", tag="other", seed=b"2", subject=subject)
    found = {
        e["digest"]: e for e in json.loads(registry("GET", f"/v2/ref/referrers/{digest}").data)["manifests"]
    }
    assert set(found) == {signature, plain}
    assert found[signature]["artifactType"] == "application/x.one"
    assert found[signature]["annotations"] == {"a": "b"}
    assert found[plain]["artifactType"] == media_types.OCI_CONFIG  # falls back to the config's type
    filtered = registry("GET", f"/v2/ref/referrers/{digest}?artifactType=application/x.one")
    assert [e["digest"] for e in json.loads(filtered.data)["manifests"]] == [signature]
    assert filtered.headers["OCI-Filters-Applied"] == "artifactType"
    assert registry("GET", "/v2/ref/referrers/sha256:12").status == 400
    assert registry("DELETE", f"/v2/ref/manifests/{signature}").status == 202
    left = json.loads(registry("GET", f"/v2/ref/referrers/{digest}").data)["manifests"]
    assert [e["digest"] for e in left] == [plain]


def test_referrers_of_older_clients(registry: Registry) -> None:
    digest = registry.manifest("oldref", tag="v1")
    signature = registry.manifest("oldref", tag="sig", seed=b"s")
    size = int(registry("HEAD", f"/v2/oldref/manifests/{signature}").headers["Content-Length"])
    child = {"mediaType": media_types.OCI_MANIFEST, "digest": signature, "size": size, "artifactType": "a/b"}
    index = {"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": [child]}
    registry.put(index, digest.replace(":", "-"), "oldref")
    assert json.loads(registry("GET", f"/v2/oldref/referrers/{digest}").data)["manifests"] == [child]


# --- crashes and crowds -------------------------------------------------------------------------------------


def test_an_upload_survives_the_server(tmp_path: Path) -> None:
    with serve_in_thread(tmp_path) as host:
        registry = Registry(host)
        location = registry("PATCH", registry.begin(), b"before ", **OCTETS).headers["Location"]
    with serve_in_thread(tmp_path) as host:
        registry = Registry(host)
        assert registry("GET", location).headers["Range"] == "0-6"
        answer = registry("PUT", f"{location}?digest={digests.of(b'before after')}", b"after", **OCTETS)
        assert answer.status == 201


def test_a_connection_that_breaks_leaves_what_came(registry: Registry) -> None:
    location = registry.begin()
    with socket.create_connection(registry.host.split(":")) as connection:
        connection.sendall(
            f"PATCH {location} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n".encode() + b"x" * 600
        )
        time.sleep(0.3)  # what the web server has not handed on when the connection breaks is lost
    for _ in range(100):
        status = registry("GET", location)
        if status.headers["Range"] != "0-0":
            break
        time.sleep(0.02)
    assert (status.status, status.headers["Range"]) == (204, "0-599")
    answer = registry("PATCH", location, b"x" * 400, Content_Range="600-999", **OCTETS)
    assert answer.status == 202


def test_many_pushing_the_same_at_once(registry: Registry) -> None:
    failures: list[object] = []

    def work(number: int) -> None:
        try:
            mine = Registry(registry.host)
            for name in ("crowd/a", "crowd/b"):
                mine.manifest(name, tag="same")
                mine.manifest(name, tag=f"own-{number}", seed=str(number).encode())
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(json.loads(registry("GET", "/v2/crowd/a/tags/list").data)["tags"]) == 9


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from polyarch.registry.server import uploads

    real = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) > 1000:
            raise OSError(28, "No space left on device")
        return real(descriptor, data)

    with serve_in_thread(tmp_path) as host:
        registry = Registry(host)
        location = registry.begin()
        monkeypatch.setattr(uploads.os, "write", full)
        answer = registry("PATCH", location, b"x" * 5000, **OCTETS)
        monkeypatch.undo()
        assert answer.status == 507 and b"no space" in answer.data
        assert registry("GET", location).status == 404
        assert not list(tmp_path.rglob("_uploads/*"))
        registry.push(b"y" * 5000)


def test_what_is_on_disk_is_an_oci_layout(tmp_path: Path) -> None:
    from polyarch.content.layout import Layout

    with serve_in_thread(tmp_path) as host:
        digest = Registry(host).manifest()
    assert Layout(tmp_path, create=False).exists(digest)
