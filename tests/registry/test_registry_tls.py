"""https: certificates that are trusted, not trusted, asked for, and the settings that say so."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyarch.content.copy import copy
from polyarch.content.memory import MemoryStore
from polyarch.errors import RegistryError
from polyarch.registry import config as settings
from polyarch.registry.client import Client
from polyarch.registry.config import Config
from polyarch.registry.credentials import NoCredentials
from polyarch.registry.repository import Repository
from polyarch.registry.server import serve_in_thread
from polyarch.testing.random_images import random_index
from polyarch.testing.tls_front import TlsFront

# pytest forgets that the client has silenced this
pytestmark = pytest.mark.filterwarnings("ignore::urllib3.exceptions.InsecureRequestWarning")
CERTIFICATES = Path(__file__).parent / "certificates"


@pytest.fixture
def plain(tmp_path: Path) -> Iterator[str]:
    with serve_in_thread(tmp_path / "registry") as host:
        yield host


@pytest.fixture
def far_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat loopback like any other host: nothing is taken on trust there."""
    monkeypatch.setattr(settings, "is_loopback", lambda _host: False)


def connect(host: str, *, folder: Path | None = None, insecure: frozenset[str] = frozenset()) -> Repository:
    config = Config(certificates=(folder,) if folder else (), insecure=insecure, attempts=2, backoff=0.01)
    return Client(credentials=NoCredentials(), config=config).repository(f"{host}/app")


def trust(folder: Path, host: str, *names: str) -> Path:
    (folder / host).mkdir(parents=True)
    for name in names:
        shutil.copy(CERTIFICATES / name, folder / host / name)
    return folder


def works(repository: Repository) -> bool:
    made = MemoryStore()
    root = random_index(made)
    copy(made, repository, root)
    return repository.exists(root.digest)


def test_loopback_may_speak_tls_too(plain: str) -> None:
    with TlsFront(plain, CERTIFICATES / "server.pem") as front:
        assert works(connect(front.host))


def test_a_certificate_nobody_vouches_for(plain: str, far_away: None) -> None:
    with TlsFront(plain, CERTIFICATES / "server.pem") as front, pytest.raises(RegistryError) as caught:
        works(connect(front.host))
    assert caught.value.reason == "tls" and "not trusted" in caught.value.summary
    assert f"certs.d/{front.host}/ca.crt" in caught.value.hint


def test_an_authority_of_certs_d(plain: str, far_away: None, tmp_path: Path) -> None:
    with TlsFront(plain, CERTIFICATES / "server.pem") as front:
        assert works(connect(front.host, folder=trust(tmp_path / "certs.d", front.host, "ca.crt")))


def test_a_certificate_for_another_name(plain: str, far_away: None, tmp_path: Path) -> None:
    with TlsFront(plain, CERTIFICATES / "server.pem", address="127.0.0.2") as front:
        folder = trust(tmp_path / "certs.d", front.host, "ca.crt")
        with pytest.raises(RegistryError) as caught:
            works(connect(front.host, folder=folder))
    assert caught.value.reason == "tls" and "127.0.0.2" in caught.value.detail


def test_a_client_certificate(plain: str, far_away: None, tmp_path: Path) -> None:
    with TlsFront(plain, CERTIFICATES / "server.pem", clients=CERTIFICATES / "ca.crt") as front:
        folder = trust(tmp_path / "with", front.host, "ca.crt", "client.cert", "client.key")
        assert works(connect(front.host, folder=folder))
        with pytest.raises(RegistryError):
            works(connect(front.host, folder=trust(tmp_path / "without", front.host, "ca.crt")))


def test_a_client_certificate_without_its_key(plain: str, far_away: None, tmp_path: Path) -> None:
    with TlsFront(plain, CERTIFICATES / "server.pem") as front:
        folder = trust(tmp_path, front.host, "ca.crt", "client.cert")
        with pytest.raises(RegistryError) as caught:
            works(connect(front.host, folder=folder))
    assert "client.key" in caught.value.hint


def test_an_insecure_registry_by_https_and_http(plain: str, far_away: None) -> None:
    with TlsFront(plain, CERTIFICATES / "server.pem") as front:
        assert works(connect(front.host, insecure=frozenset({front.host})))
    assert works(connect(plain, insecure=frozenset({plain})))


def test_plain_http_is_not_for_other_hosts(plain: str, far_away: None) -> None:
    with pytest.raises(RegistryError) as caught:
        works(connect(plain))
    assert caught.value.reason == "tls"
    assert f"POLYARCH_INSECURE_REGISTRIES={plain}" in caught.value.hint
