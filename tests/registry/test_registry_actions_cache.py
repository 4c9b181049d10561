"""The Actions cache as a store: its contract, and what goes wrong with such a service."""

from __future__ import annotations

import dataclasses
import io
import threading
from collections.abc import Iterator

import pytest

from polyarch.content.store import Store
from polyarch.content.verify import read
from polyarch.errors import ContentError, NotFoundError, PolyarchError, RegistryError, UnsupportedError
from polyarch.oci import digest as digests
from polyarch.oci import media_types
from polyarch.oci.descriptor import Descriptor
from polyarch.registry import actions_blobs
from polyarch.registry.actions_access import Access, find_access
from polyarch.registry.actions_service import CacheService
from polyarch.registry.actions_store import ActionsCache
from polyarch.registry.config import Config
from polyarch.testing.actions_service import READ, WRITE, ActionsService, Fault, serve_actions
from polyarch.testing.store_contract import StoreContract, describe

MAIN = ("refs/heads/main", READ | WRITE)
QUICK = Config(backoff=0.01, longest_wait=0.5)


@pytest.fixture
def service() -> Iterator[ActionsService]:
    with serve_actions() as running:
        yield running


def opened(service: ActionsService, *scopes: tuple[str, int], token: str = "") -> ActionsCache:
    access = Access(service.url + "/", token or service.token(*(scopes or (MAIN,))), 30)
    cache = ActionsCache(CacheService(access, QUICK), access.writable)
    cache.conflict, cache.twin, cache.pause = 1.0, 0.1, 0.02
    return cache


class TestContract(StoreContract):
    @pytest.fixture
    def store(self, service: ActionsService) -> Store:
        return opened(service)


def push(store: Store, data: bytes) -> Descriptor:
    expected = describe(data)
    store.push(io.BytesIO(data), expected)
    return expected


def index_of(text: str) -> tuple[bytes, Descriptor]:
    data = b'{"schemaVersion":2,"manifests":[],"annotations":{"a":"%s"}}' % text.encode()
    return data, Descriptor(media_type=media_types.OCI_INDEX, digest=digests.of(data), size=len(data))


def name(store: Store, text: str) -> Descriptor:
    data, descriptor = index_of(text)
    store.push(io.BytesIO(data), descriptor)
    store.tag("cache", descriptor)
    return descriptor


def test_large_layers_go_up_in_blocks(service: ActionsService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions_blobs, "BLOCK", 1000)
    data = bytes(range(256)) * 50
    service.faults.append(Fault("comp=block&", method="PUT", status=503, times=2))
    wanted = push(opened(service), data)
    assert service.asked("comp=block&") == 13 + 2 and service.asked("comp=blocklist") == 1
    assert read(opened(service), wanted, limit=len(data)) == data
    assert not service.leaked


@pytest.mark.parametrize("sent", [b"x" * 3001, b"x" * 2000, b"y" * 3000])
def test_a_lie_is_never_finished(
    service: ActionsService, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(actions_blobs, "BLOCK", 1000)
    with pytest.raises(ContentError):
        opened(service).push(io.BytesIO(sent), describe(b"x" * 3000))
    assert not service.known()


def test_a_cut_download_goes_on_where_it_was(service: ActionsService) -> None:
    data = bytes(range(256)) * 4000
    wanted = push(opened(service), data)
    service.faults += [Fault("/storage/", method="GET", cut=300_000), Fault("/storage/", method="GET", cut=9)]
    assert read(opened(service), wanted, limit=len(data)) == data


def test_a_truncated_blob_is_no_content(service: ActionsService) -> None:
    wanted = push(opened(service), b"whole layer")
    service.blobs = {name: data[:5] for name, data in service.blobs.items()}
    with pytest.raises(ContentError):
        read(opened(service), wanted, limit=100)


def test_a_signature_that_ran_out_is_renewed(service: ActionsService) -> None:
    data = b"x" * 3_000_000
    wanted = push(opened(service), data)
    with opened(service).open(wanted) as stream:
        first = stream.read(10)
        service.signatures.clear()
        stream._source._drop()  # type: ignore[attr-defined]  # as a broken connection does
        assert first + stream.read() == data


def test_what_was_evicted_is_not_found(service: ActionsService) -> None:
    store = opened(service)
    wanted = push(store, b"old")
    service.evict("blob")
    assert not store.exists(wanted.digest)
    with pytest.raises(NotFoundError):
        store.open(wanted)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_service_is_asked_again(service: ActionsService, status: int) -> None:
    service.faults += [
        Fault("CreateCacheEntry", status=status, headers={"Retry-After": "0"}),
        Fault("/storage/", status=status, times=2),
        Fault("Finalize", status=status),
        Fault("GetCacheEntry", status=status),
    ]
    wanted = push(opened(service), b"at last")
    assert read(opened(service), wanted, limit=10) == b"at last"


def test_a_service_that_stays_busy_says_so(service: ActionsService) -> None:
    service.faults.append(Fault("twirp", status=429, times=99))
    with pytest.raises(RegistryError) as caught:
        opened(service).resolve("cache")
    assert caught.value.reason == "rate-limited"


def test_an_expired_token(service: ActionsService) -> None:
    token = service.token(MAIN)
    store = opened(service, token=token)
    service.tokens.clear()
    with pytest.raises(RegistryError) as caught:
        store.resolve("cache")
    assert (
        caught.value.reason == "unauthorized" and token not in f"{caught.value.summary} {caught.value.detail}"
    )


def test_an_entry_never_changes_and_the_newest_counts(service: ActionsService) -> None:
    store = opened(service)
    first = name(store, "first")
    second = name(store, "second")
    assert store.resolve("cache").digest == second.digest != first.digest
    assert [key.rpartition("#")[2] for key in service.known()] == ["1", "2"]


def test_of_two_writers_one_is_told(service: ActionsService) -> None:
    mine, theirs = opened(service), opened(service)
    name(mine, "first")
    mine.resolve("cache")
    theirs.resolve("cache")
    second = name(theirs, "second")
    with pytest.raises(RegistryError) as caught:
        name(mine, "third")
    assert caught.value.reason == "cache-conflict"
    assert mine.resolve("cache").digest == second.digest
    assert name(mine, "third").digest == theirs.resolve("cache").digest


def test_a_writer_that_died_is_passed(service: ActionsService) -> None:
    store = opened(service)
    name(store, "first")
    key = service.known()[0].removesuffix("1")
    access = Access(service.url + "/", service.token(MAIN))
    assert CacheService(access, QUICK).create(f"{key}2") is not None  # and then its job was cancelled
    with pytest.raises(RegistryError):
        name(store, "second")
    assert name(store, "second").digest == opened(service).resolve("cache").digest


def test_a_layer_whose_writer_died_is_written_again(service: ActionsService) -> None:
    data = b"a layer"
    access = Access(service.url + "/", service.token(MAIN))
    CacheService(access, QUICK).create(f"polyarch-1-blob-{digests.of(data)}")
    wanted = push(opened(service), data)
    assert read(opened(service), wanted, limit=10) == data


def test_many_writers_all_get_their_turn(service: ActionsService) -> None:
    def write(number: int) -> None:
        store = opened(service)
        for _ in range(40):
            try:
                store.resolve("cache")
            except NotFoundError:
                pass
            try:
                name(store, f"writer {number}")
                return
            except RegistryError as error:
                assert error.reason == "cache-conflict"
        raise AssertionError("never got a turn")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [key.rpartition("#")[2] for key in service.known()] == ["1", "2", "3", "4", "5"]


def test_a_pull_request_reads_main_and_writes_its_own(service: ActionsService) -> None:
    layer = push(opened(service), b"of main")
    name(opened(service), "main")
    scopes = (("refs/pull/1/merge", READ | WRITE), ("refs/heads/main", READ))
    token = service.token(*scopes)
    access = Access(service.url + "/", token)
    assert access.readable == ("refs/pull/1/merge", "refs/heads/main") and access.writable == scopes[0][0]
    pull = CacheService(access, QUICK)
    assert read(ActionsCache(pull, access.writable), layer, limit=10) == b"of main"
    with pytest.raises(NotFoundError):
        ActionsCache(pull, "refs/pull/1/merge").resolve("cache")
    assert ActionsCache(pull, "refs/heads/main").resolve("cache").digest == index_of("main")[1].digest
    name(ActionsCache(pull, access.writable), "pull request")
    assert opened(service).resolve("cache").digest == index_of("main")[1].digest


def test_a_token_that_may_only_read(service: ActionsService) -> None:
    store = opened(service, ("refs/heads/main", READ))
    for work in (lambda: push(store, b"layer"), lambda: name(store, "index")):
        with pytest.raises(UnsupportedError) as caught:
            work()
        assert caught.value.reason == "cache-read-only"


@pytest.mark.parametrize("data", [b"", b"no zlib", b"\x78\x9c" + b"\0" * 50])
def test_an_entry_that_is_something_else(service: ActionsService, data: bytes) -> None:
    name(opened(service), "index")
    service.blobs = dict.fromkeys(service.blobs, data)
    with pytest.raises(PolyarchError):
        opened(service).resolve("cache")


def test_patience_ends(service: ActionsService) -> None:
    access = Access(service.url + "/", service.token(MAIN), 0)
    with pytest.raises(RegistryError) as caught:
        push(ActionsCache(CacheService(access, QUICK), "x"), b"layer")
    assert caught.value.reason == "cache-timeout"


JOB = {"ACTIONS_RESULTS_URL": "https://results.example/", "ACTIONS_RUNTIME_TOKEN": "t0ken"}


@pytest.mark.parametrize(
    ("environ", "given", "reason"),
    [
        ({}, {}, "no-cache-service"),
        ({**JOB, "ACTIONS_RUNTIME_TOKEN": ""}, {}, "no-cache-service"),
        ({"ACTIONS_CACHE_URL": "https://ghes.example", "ACTIONS_RUNTIME_TOKEN": "x"}, {}, "cache-service-v1"),
        ({**JOB, "ACTIONS_CACHE_URL": "https://old.example"}, {}, "cache-service-v1"),
        (JOB, {"url_v2": "http://results.example/"}, "cache-url"),
        (JOB, {"url_v2": "https://user@results.example/"}, "cache-url"),
        (JOB, {"url_v2": "file:///etc"}, "cache-url"),
    ],
)
def test_where_there_is_no_service(environ: dict[str, str], given: dict[str, str], reason: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        find_access(environ, **given)  # type: ignore[arg-type]
    assert caught.value.reason == reason


def test_where_there_is_one() -> None:
    access = find_access(JOB)
    assert access.url == "https://results.example/" and "t0ken" not in repr(access)
    both = {**JOB, "ACTIONS_CACHE_URL": "https://old.example", "ACTIONS_CACHE_SERVICE_V2": "True"}
    assert find_access(both, timeout=5).timeout == 5
    assert find_access({}, url_v2="https://a.example/b", token="x").url == "https://a.example/b/"


@pytest.mark.parametrize(
    "token", ["", "a.b.c", "..", "a.e30.c", "a.eyJhYyI6IjEifQ.c", "a." + "A" * 99999 + ".c"]
)
def test_tokens_that_tell_nothing(token: str) -> None:
    access = Access("https://results.example/", token)
    assert access.readable == ("",) and access.writable == ""


@pytest.mark.parametrize(
    "url", ["http://storage.example/x", "https://127.0.0.1/x", "ftp://a/b", "https://u@h/x", "", None]
)
def test_addresses_a_service_may_not_send_us_to(url: object) -> None:
    service = CacheService(Access("https://results.example/", "t"), QUICK)
    with pytest.raises(RegistryError):
        service.checked(service._task("test"), url)
    assert dataclasses.is_dataclass(Access)
