"""Registries that are down, busy, lie, break off or lead astray; and uploads that go on."""

import hashlib
import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyarch.content.copy import copy
from polyarch.content.memory import MemoryStore
from polyarch.content.verify import read
from polyarch.errors import ContentError, NotFoundError, PolyarchError, RegistryError
from polyarch.oci.descriptor import Descriptor
from polyarch.registry.client import Client
from polyarch.registry.config import Config, is_loopback, proxy_for
from polyarch.registry.credentials import Credential, FixedCredentials, NoCredentials
from polyarch.registry.failures import harmless, own_words
from polyarch.registry.repository import Repository
from polyarch.testing.faulty_registry import CuttingProxy, Fault, Faults, faulty_registry
from polyarch.testing.random_images import random_index
from polyarch.testing.store_contract import Dribble, describe

BLOB = bytes(range(256)) * 20_000  # 5 MB


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def host(tmp_path: Path, faults: Faults) -> Iterator[str]:
    with faulty_registry(tmp_path / "registry", faults) as address:
        yield address


def connect(host: str, *, uploads: Path | None = None, attempts: int = 3) -> Repository:
    config = Config(backoff=0.01, attempts=attempts, uploads=uploads, longest_wait=2)
    return Client(credentials=NoCredentials(), config=config).repository(f"{host}/app")


@pytest.fixture
def repository(host: str) -> Repository:
    return connect(host)


@pytest.fixture
def root(repository: Repository, faults: Faults) -> Descriptor:
    """An index that the registry has, under ``v1``."""
    made = MemoryStore()
    index = random_index(made)
    copy(made, repository, index)
    repository.tag("v1", index)
    faults.requests.clear()
    return index


# --- down and busy ------------------------------------------------------------------------------------------


def test_a_registry_that_is_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
    started = time.monotonic()
    with pytest.raises(RegistryError) as caught:
        connect(host).resolve("v1")
    assert caught.value.reason == "registry-down"
    assert host in caught.value.summary and "refuses connections" in caught.value.summary
    assert time.monotonic() - started < 3


def test_a_registry_that_hangs() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        config = Config(read_timeout=0.2, attempts=1)
        with pytest.raises(RegistryError) as caught:
            Client(credentials=NoCredentials(), config=config).repository(f"{host}/app").resolve("v1")
    assert caught.value.reason == "registry-down" and "in time" in caught.value.summary


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_registry_is_asked_again(faults: Faults, root: Descriptor, host: str, status: int) -> None:
    faults.planned = [Fault("HEAD", "manifests", 2, status)]
    assert connect(host).resolve("v1").digest == root.digest
    assert faults.seen("HEAD", "manifests") == 3


@pytest.mark.parametrize(
    ("status", "reason"),
    [(429, "rate-limited"), (500, "registry-failed"), (503, "registry-down"), (403, "denied"),
     (400, "registry-refused"), (418, "registry-refused")],
)  # fmt: skip
def test_a_registry_that_stays_unwilling(faults: Faults, host: str, status: int, reason: str) -> None:
    body = json.dumps({"errors": [{"code": "WHY", "message": "because \x1b[31mred\u202e"}]}).encode()
    faults.planned = [Fault(".*", "manifests", 99, status, body=body)]
    with pytest.raises(RegistryError) as caught:
        connect(host).resolve("v1")
    assert (caught.value.reason, caught.value.status) == (reason, status)
    assert "WHY: because" in caught.value.detail and "\x1b" not in caught.value.detail
    assert "\u202e" not in caught.value.detail


def test_retry_after_is_honoured(faults: Faults, root: Descriptor, host: str) -> None:
    faults.planned = [Fault("HEAD", "manifests", 1, 429, {"Retry-After": "1"})]
    started = time.monotonic()
    connect(host).resolve("v1")
    assert 0.9 < time.monotonic() - started < 3


def test_a_wait_that_is_too_long_is_an_error_at_once(faults: Faults, host: str) -> None:
    faults.planned = [Fault(".*", "manifests", 99, 429, {"Retry-After": "3600"})]
    started = time.monotonic()
    with pytest.raises(RegistryError) as caught:
        connect(host).resolve("v1")
    assert caught.value.reason == "rate-limited" and time.monotonic() - started < 2


def test_an_upload_is_not_repeated_blindly(faults: Faults, host: str) -> None:
    faults.planned = [Fault("PUT", "uploads", 99, 400)]
    with pytest.raises(RegistryError) as caught:
        connect(host).push(io.BytesIO(BLOB), describe(BLOB))
    assert faults.seen("PUT", "uploads") <= 4
    assert caught.value.status == 400


# --- lies ---------------------------------------------------------------------------------------------------


def flipped(body: bytes) -> bytes:
    return body[:-1] + bytes([body[-1] ^ 1]) if body else body


def test_a_manifest_that_was_changed(faults: Faults, root: Descriptor, host: str) -> None:
    faults.planned = [Fault("GET", "manifests", 99, change=flipped)]
    with pytest.raises(ContentError) as caught:
        read(connect(host), root, limit=1 << 20)
    assert caught.value.reason == "digest-mismatch" and host in caught.value.summary


def test_a_tag_whose_digest_header_lies(faults: Faults, root: Descriptor, host: str) -> None:
    lie = {"Docker-Content-Digest": "sha256:" + "0" * 64, "Content-Type": "text/plain"}
    faults.planned = [Fault(".*", "manifests/v1", 99, changed_headers=lie)]
    with pytest.raises(ContentError) as caught:
        connect(host).resolve("v1")
    assert caught.value.reason == "digest-mismatch"


def test_a_registry_without_helpful_headers(faults: Faults, root: Descriptor, host: str) -> None:
    faults.planned = [Fault("HEAD", "manifests/v1", 99, 405)]
    assert connect(host).resolve("v1") == root


def test_a_blob_that_was_changed_leaves_nothing(faults: Faults, root: Descriptor, host: str) -> None:
    faults.planned = [Fault("GET", "blobs", 99, change=flipped)]
    target = MemoryStore()
    with pytest.raises(ContentError) as caught:
        copy(connect(host), target, root)
    assert caught.value.reason == "digest-mismatch"
    assert not target.exists(root.digest)


def test_a_truncated_blob(faults: Faults, host: str) -> None:
    repository = connect(host)
    repository.push(io.BytesIO(BLOB), describe(BLOB))
    short = {"Content-Length": "1000"}
    faults.planned = [Fault("GET", "blobs", 99, change=lambda b: b[:1000], changed_headers=short)]
    with pytest.raises(ContentError) as caught:
        repository.open(describe(BLOB)).read()
    assert caught.value.reason == "truncated"


def test_a_manifest_without_end(faults: Faults, root: Descriptor, host: str) -> None:
    large = {"Content-Length": str(6 << 20), "Docker-Content-Digest": ""}
    faults.planned = [
        Fault("GET", "manifests", 99, change=lambda _b: b" " * (6 << 20), changed_headers=large),
        Fault("HEAD", "manifests", 99, 405),
    ]
    with pytest.raises(ContentError) as caught:
        connect(host).resolve("v1")
    assert caught.value.reason == "manifest-too-large"


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"errors": 3}', b"\xff", b"", b'{"errors":[null,{}]}'])
def test_senseless_error_bodies(faults: Faults, host: str, body: bytes) -> None:
    assert own_words(body)[0] == ""
    faults.planned = [Fault(".*", "tags", 99, 400, body=body)]
    with pytest.raises(RegistryError):
        connect(host).tags()


@pytest.mark.parametrize("body", [b"[1]", b'{"tags": 3}', b"no json"])
def test_senseless_lists(faults: Faults, host: str, body: bytes) -> None:
    faults.planned = [Fault(".*", "tags", 99, 200, body=body)]
    with pytest.raises(PolyarchError):
        connect(host).tags()


def test_endless_pages_stay_on_the_registry(faults: Faults, root: Descriptor, host: str) -> None:
    elsewhere = {"Link": '<http://127.0.0.1:1/v2/app/tags/list?n=1&last=x>; rel="next"'}
    faults.planned = [Fault("GET", "tags", 1, changed_headers=elsewhere)]
    assert connect(host).tags() == ["v1"]
    assert faults.seen("GET", "tags") == 2


def test_harmless() -> None:
    assert harmless("a\x1b[2Jb\r\nc\u2066d") == "a [2Jb c d"
    assert len(harmless("x" * 1000)) == 300


# --- redirects ----------------------------------------------------------------------------------------------


def test_a_redirect_is_followed_without_the_credentials(tmp_path: Path, faults: Faults, host: str) -> None:
    elsewhere = Faults()
    with faulty_registry(tmp_path / "cdn", elsewhere) as cdn:
        connect(cdn).push(io.BytesIO(BLOB), describe(BLOB))
        elsewhere.requests.clear()
        target = f"http://{cdn}/v2/app/blobs/{describe(BLOB).digest}"
        challenge = {"WWW-Authenticate": 'Basic realm="x"'}
        faults.planned = [Fault("GET", "blobs", 1, 401, challenge),
                          Fault("GET", "blobs", 1, 307, {"Location": target})]  # fmt: skip
        credentials = FixedCredentials(host, Credential("user", "secret"))
        mine = Client(credentials=credentials, config=Config(backoff=0.01)).repository(f"{host}/app")
        assert mine.open(describe(BLOB)).read() == BLOB
        sent = [headers.get("authorization") for method, _, headers in faults.requests if method == "GET"]
        assert sent[-1] and sent[-1].startswith("Basic ")
        assert [headers.get("authorization") for _, _, headers in elsewhere.requests] == [None]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "http://user:pw@127.0.0.1/x", "gopher://x/"])
def test_a_redirect_to_nowhere_good(faults: Faults, host: str, location: str) -> None:
    faults.planned = [Fault("GET", "blobs", 99, 307, {"Location": location})]
    with pytest.raises(RegistryError) as caught:
        connect(host).open(describe(BLOB)).read()
    assert caught.value.reason == "bad-redirect"


def test_a_redirect_in_circles(faults: Faults, host: str) -> None:
    faults.planned = [Fault("GET", "blobs", 99, 307, {"Location": "/v2/app/blobs/" + describe(b"").digest})]
    with pytest.raises(RegistryError) as caught:
        connect(host).open(describe(BLOB)).read()
    assert caught.value.reason == "bad-redirect"


def test_where_a_redirect_may_not_lead() -> None:
    from polyarch.registry.failures import Task
    from polyarch.registry.transport import Transport

    transport = Transport("registry.example", NoCredentials(), Config())
    transport._scheme = "https"
    task = Task("testing", "registry.example")
    for bad in (
        "http://cdn.example/x",
        "https://127.0.0.1/x",
        "https://169.254.169.254/x",
        "https://localhost/",
    ):
        with pytest.raises(RegistryError):
            transport._checked(task, bad, "https://registry.example/v2/")
    good = "https://cdn.example/x?sig=1"
    assert transport._checked(task, good, "https://registry.example/v2/") == good
    # a registry behind a proxy that forgets its own TLS
    assert transport.absolute("http://registry.example/v2/x?y") == "https://registry.example/v2/x?y"
    assert transport.absolute("/v2/x") == "https://registry.example/v2/x"


# --- connections that break ---------------------------------------------------------------------------------


def test_a_download_goes_on_where_it_broke(faults: Faults, host: str) -> None:
    repository = connect(host)
    repository.push(io.BytesIO(BLOB), describe(BLOB))
    faults.requests.clear()
    faults.planned = [Fault("GET", "blobs", 3, cut=1_000_000)]
    assert repository.open(describe(BLOB)).read() == BLOB
    ranges = [headers.get("range") for method, _, headers in faults.requests if method == "GET"]
    assert len(ranges) == 4 and ranges[0] is None and ranges[1] is not None and ranges[1] != "bytes=0-"


def test_a_download_from_a_server_without_ranges(faults: Faults, host: str) -> None:
    repository = connect(host)
    repository.push(io.BytesIO(BLOB), describe(BLOB))
    with repository.open(describe(BLOB)) as stream:
        assert stream.read(100_000)
    whole = {"Content-Type": "application/octet-stream"}
    faults.planned = [Fault("GET", "blobs", 1, cut=1_000_000), Fault("GET", "blobs", 9, 200, whole, BLOB)]
    assert repository.open(describe(BLOB)).read() == BLOB


def test_a_download_that_never_gets_anywhere(faults: Faults, host: str) -> None:
    repository = connect(host, attempts=1)
    repository.push(io.BytesIO(BLOB), describe(BLOB))
    faults.planned = [Fault("GET", "blobs", 999, cut=0)]
    with pytest.raises(PolyarchError) as caught:
        repository.open(describe(BLOB)).read()
    assert caught.value.reason in ("registry-down", "truncated")


@pytest.mark.parametrize("seekable", [True, False])
def test_an_upload_goes_on_where_it_broke(faults: Faults, host: str, seekable: bool) -> None:
    with CuttingProxy(host, after=2_000_000) as proxy:
        repository = connect(proxy.host)
        if seekable:
            repository.push(io.BytesIO(BLOB), describe(BLOB))
        else:
            source = MemoryStore()
            source.push(io.BytesIO(BLOB), describe(BLOB))
            with pytest.raises(RegistryError) as caught:
                repository.push(Dribble(BLOB, 1 << 20), describe(BLOB))  # type: ignore[arg-type]
            assert caught.value.reason == "upload-interrupted"
            with source.open(describe(BLOB)) as stream:
                repository.push(stream, describe(BLOB))
        assert proxy.was_cut == 1
    assert connect(host).open(describe(BLOB)).read() == BLOB
    assert faults.seen("POST", "uploads") == 1
    (resumed,) = [headers for method, _, headers in faults.requests if method == "PATCH"]
    first = int(resumed["content-range"].partition("-")[0])
    assert 1_000_000 < first < 2_100_000


UPLOADER = """
import hashlib, sys
from pathlib import Path
from polyarch.oci.descriptor import Descriptor
from polyarch.registry.client import Client
from polyarch.registry.config import Config
from polyarch.registry.credentials import NoCredentials

host, uploads, name = sys.argv[1:]
data = Path(name).read_bytes()
config = Config(uploads=Path(uploads), backoff=0.01, attempts=1)
repository = Client(credentials=NoCredentials(), config=config).repository(host + "/app")
digest = "sha256:" + hashlib.sha256(data).hexdigest()
with open(name, "rb") as file:
    sys.stdout.write("begun\\n"); sys.stdout.flush()
    repository.push(file, Descriptor(media_type="a/b", digest=digest, size=len(data)))
"""


def test_an_upload_goes_on_in_another_process(
    tmp_path: Path, faults: Faults, host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, uploads = tmp_path / "blob", tmp_path / "uploads"
    path.write_bytes(BLOB)
    stuck = threading.Event()

    class Slow(CuttingProxy):
        """Stops passing bytes on after a while, so that the process can be killed in the middle."""

        def _serve(self, client: socket.socket) -> None:
            super()._serve(client)
            stuck.set()

    with Slow(host, after=2_000_000, cuts=99) as proxy:
        command = [sys.executable, "-c", UPLOADER, proxy.host, str(uploads), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert stuck.wait(30)
            process.kill()
    assert len(list(uploads.iterdir())) == 1
    # the address is another now, so the journal's line is moved to it, as a proxy of the user's would
    (journal,) = uploads.iterdir()
    location = json.loads(journal.read_text())["location"].replace(proxy.host, host)
    name = hashlib.sha256(f"{host}/app@{describe(BLOB).digest}".encode()).hexdigest()[:32]
    (uploads / f"{name}.json").write_text(json.dumps({"location": location}))
    faults.requests.clear()
    connect(host, uploads=uploads).push(io.BytesIO(BLOB), describe(BLOB))
    assert faults.seen("POST", "uploads") == 0
    (resumed,) = [headers for method, _, headers in faults.requests if method == "PATCH"]
    assert int(resumed["content-range"].partition("-")[0]) > 1_000_000
    assert not (uploads / f"{name}.json").exists()


def test_a_registry_that_saw_more_than_it_said(faults: Faults, host: str) -> None:
    """Bytes of a broken connection may still come in after the registry was asked how many it has."""
    with CuttingProxy(host, after=2_000_000) as proxy:
        stale = {"Range": "0-99"}
        faults.planned = [Fault("GET", "uploads", 1, changed_headers=stale)]
        connect(proxy.host).push(io.BytesIO(BLOB), describe(BLOB))
    assert faults.seen("POST", "uploads") == 1
    assert faults.seen("GET", "uploads") == 2
    assert connect(host).open(describe(BLOB)).read() == BLOB


@pytest.mark.parametrize("text", ["", "{", '{"location": 3}', '{"location": "/v2/app/blobs/uploads/gone"}'])
def test_a_journal_that_is_no_good(tmp_path: Path, host: str, text: str) -> None:
    uploads = tmp_path / "uploads"
    uploads.mkdir()
    name = hashlib.sha256(f"{host}/app@{describe(BLOB).digest}".encode()).hexdigest()[:32]
    (uploads / f"{name}.json").write_text(text)
    connect(host, uploads=uploads).push(io.BytesIO(BLOB), describe(BLOB))
    assert list(uploads.iterdir()) == []


def test_two_processes_push_the_same_blob(tmp_path: Path, host: str) -> None:
    path = tmp_path / "blob"
    path.write_bytes(BLOB)
    command = [sys.executable, "-c", UPLOADER, host, str(tmp_path / "uploads"), str(path)]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert connect(host).open(describe(BLOB)).read() == BLOB


def test_a_proxy_that_takes_small_bodies_only(faults: Faults, host: str) -> None:
    data = BLOB * 14  # 72 MB
    faults.planned = [Fault("PUT", "uploads", 1, 413)]
    connect(host).push(io.BytesIO(data), describe(data))
    sizes = [int(h["content-length"]) for method, _, h in faults.requests if method == "PATCH"]
    assert len(sizes) == 3 and max(sizes) == 32 << 20
    assert connect(host).exists(describe(data).digest)


def test_an_upload_that_lies_is_taken_back(faults: Faults, host: str, tmp_path: Path) -> None:
    with pytest.raises(ContentError):
        connect(host).push(io.BytesIO(b"x" * len(BLOB)), describe(BLOB))
    assert not list((tmp_path / "registry").rglob("_uploads/*"))


# --- how hosts are reached ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "insecure", "expected"),
    [
        ("ghcr.io", "", ("https",)),
        ("localhost:5000", "", ("http", "https")),
        ("127.0.0.9", "", ("http", "https")),
        ("[::1]:5000", "", ("http", "https")),
        ("localhost:443", "", ("https", "http")),
        ("registry.lan:5000", "registry.lan:5000", ("https", "http")),
        ("10.1.2.3:5000", "10.0.0.0/8", ("https", "http")),
        ("11.1.2.3:5000", "10.0.0.0/8", ("https",)),
        ("127.0.0.1.example.com", "", ("https",)),
    ],
)
def test_schemes(host: str, insecure: str, expected: tuple[str, ...]) -> None:
    config = Config.from_environment({"POLYARCH_INSECURE_REGISTRIES": insecure})
    assert config.schemes(host) == expected


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "x.localhost:80", "[::1]:5000"])
def test_loopback(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    assert is_loopback(host) and proxy_for("http", host) is None


def test_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "inside.example,.corp")
    assert proxy_for("https", "ghcr.io") == "http://proxy:3128"
    assert proxy_for("https", "inside.example:5000") is None
    assert proxy_for("https", "a.corp") is None
    assert proxy_for("http", "ghcr.io") is None


def test_not_found_says_what_and_where(host: str, root: Descriptor) -> None:
    with pytest.raises(NotFoundError) as caught:
        connect(host).resolve("absent")
    assert f"{host}/app:absent" in caught.value.summary and caught.value.reason == "not-found"
