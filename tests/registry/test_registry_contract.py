"""A repository of our own server is a store like any other."""

import io
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyarch.content.copy import copy
from polyarch.content.memory import MemoryStore
from polyarch.errors import NotFoundError, UsageError
from polyarch.registry.client import Client
from polyarch.registry.config import Config
from polyarch.registry.credentials import NoCredentials
from polyarch.registry.repository import Repository
from polyarch.registry.server import serve_in_thread
from polyarch.testing.random_images import push_bytes, random_index
from polyarch.testing.store_contract import StoreContract, describe

_COUNT = itertools.count()  # every test has a repository of its own


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_in_thread(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    config = Config(uploads=tmp_path / "uploads", backoff=0.01)
    with Client(credentials=NoCredentials(), config=config) as made:
        yield made


@pytest.fixture
def repository(host: str, client: Client) -> Repository:
    return client.repository(f"{host}/team/app-{next(_COUNT)}")


class TestRepository(StoreContract):
    @pytest.fixture
    def store(self, repository: Repository) -> Repository:
        return repository


def test_references_of_every_form(host: str, repository: Repository) -> None:
    made = MemoryStore()
    root = random_index(made)
    copy(made, repository, root)
    name = str(repository)
    repository.tag(f"{name}:v1", root)
    for reference in ("v1", f"{name}:v1", root.digest, f"{name}@{root.digest}", f"{name}:x@{root.digest}"):
        assert repository.resolve(reference).digest == root.digest
    with pytest.raises(UsageError):
        repository.resolve(f"{host}/team/other:v1")
    with pytest.raises(UsageError):
        repository.tag(root.digest, root)


def test_tags_in_pages(client: Client, repository: Repository, host: str) -> None:
    with pytest.raises(NotFoundError):
        repository.tags()
    made = MemoryStore()
    root = random_index(made)
    copy(made, repository, root)
    wanted = sorted(f"v{n}" for n in range(25))
    for name in wanted:
        repository.tag(name, root)
    assert repository.tags() == wanted
    call = repository._call(repository._task("listing"), "GET", "tags/list?n=4")
    from polyarch.registry.repository import paginate

    assert paginate(repository._transport, call, "tags") == wanted
    assert repository.name in client.catalog(host)


def test_blobs_are_mounted_between_repositories(client: Client, repository: Repository, host: str) -> None:
    made = MemoryStore()
    root = random_index(made)
    copy(made, repository, root)
    other = client.repository(f"{host}/other")
    blob = push_bytes(made, b"blob", "a/b")
    assert not other.mount(
        blob, repository.name
    )  # not there either: the upload that was opened serves the push
    with made.open(blob) as stream:
        other.push(stream, blob)
    assert other.exists(blob.digest) and not repository.exists(blob.digest)
    assert repository.mount(blob, "other") and repository.exists(blob.digest)
    copy(repository, other, root)
    assert other.resolve(root.digest).digest == root.digest


def test_what_one_repository_has_another_does_not_show(client: Client, host: str) -> None:
    first, second = client.repository(f"{host}/first"), client.repository(f"{host}/second")
    blob = describe(b"private")
    first.push(io.BytesIO(b"private"), blob)
    assert not second.exists(blob.digest)
    with pytest.raises(NotFoundError):
        second.open(blob).read()


def test_deleting(client: Client, host: str, repository: Repository) -> None:
    made = MemoryStore()
    root = random_index(made)
    copy(made, repository, root)
    repository.tag("v1", root)
    assert repository.delete(root.digest)
    fresh = Client(credentials=NoCredentials(), config=Config()).repository(str(repository))
    assert not fresh.exists(root.digest) and fresh.tags() == []
    assert not fresh.delete(root.digest)


def test_referrers(repository: Repository) -> None:
    from polyarch.oci import media_types
    from polyarch.oci.manifest import Manifest, encode

    made = MemoryStore()
    root = random_index(made)
    copy(made, repository, root)
    assert repository.referrers(root.digest) == ()
    empty = push_bytes(repository, b"{}", media_types.OCI_EMPTY)
    found = set()
    for kind in ("application/x.sbom", "application/x.signature"):
        raw = encode(
            Manifest(schema_version=2, media_type=media_types.OCI_MANIFEST, artifact_type=kind,
                     config=empty, layers=(empty,), subject=root, annotations={"kind": kind})
        )  # fmt: skip
        found.add(push_bytes(repository, raw.data, raw.media_type).digest)
    listed = repository.referrers(root.digest)
    assert {entry.digest for entry in listed} == found
    (one,) = repository.referrers(root.digest, "application/x.sbom")
    assert one.artifact_type == "application/x.sbom" and one.annotations == {"kind": "application/x.sbom"}
