"""Logging in: basic, bearer, docker's and podman's files, helpers; and where credentials must not go."""

import base64
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyarch.content.copy import copy
from polyarch.content.memory import MemoryStore
from polyarch.errors import RegistryError
from polyarch.registry.auth import Challenge, bad_realm
from polyarch.registry.client import Client, verify_login
from polyarch.registry.config import Config
from polyarch.registry.credentials import ConfigFiles, Credential, FixedCredentials, NoCredentials
from polyarch.registry.logins import erase, save
from polyarch.registry.server import serve_in_thread
from polyarch.testing.faulty_registry import Faults
from polyarch.testing.guarded_registry import Guard
from polyarch.testing.random_images import random_index

CONFIG = Config(backoff=0.01)
RIGHT = Credential("user", "secret")


@contextlib.contextmanager
def guarded(root: Path, guard: Guard, faults: Faults | None = None) -> Iterator[str]:
    watched = faults or Faults()
    with serve_in_thread(root, wrap=lambda app: watched.wrap(guard.wrap(app))) as host:
        yield host


def client(host: str, credential: Credential | None = RIGHT) -> Client:
    found = FixedCredentials(host, credential) if credential else NoCredentials()
    return Client(credentials=found, config=CONFIG)


@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_push_mount_and_pull(tmp_path: Path, kind: str) -> None:
    made, back = MemoryStore(), MemoryStore()
    root = random_index(made)
    guard = Guard(kind)
    with guarded(tmp_path, guard) as host:
        mine = client(host)
        first, second = mine.repository(f"{host}/team/first"), mine.repository(f"{host}/team/second")
        copy(made, first, root)
        first.tag("v1", root)
        copy(first, second, root)
        fresh = client(host).repository(f"{host}/team/second")
        copy(fresh, back, fresh.resolve(root.digest))
        assert first.tags() == ["v1"]
    if kind == "bearer":
        assert "repository:team/first:pull,push" in guard.asked
        assert guard.issued < 10  # a token is kept for its scope


@pytest.mark.parametrize("kind", ["basic", "bearer"])
@pytest.mark.parametrize("credential", [None, Credential("user", "wrong")])
def test_without_the_right_password(tmp_path: Path, kind: str, credential: Credential | None) -> None:
    with guarded(tmp_path, Guard(kind)) as host:
        with pytest.raises(RegistryError) as caught:
            client(host, credential).repository(f"{host}/team/app").resolve("v1")
        assert caught.value.reason == "unauthorized"
        assert f"polyarch login {host}" in caught.value.hint
        assert "wrong" not in caught.value.summary + caught.value.hint


def test_anonymous_pull_with_a_token(tmp_path: Path) -> None:
    made, back = MemoryStore(), MemoryStore()
    root = random_index(made)
    with guarded(tmp_path, Guard(anonymous_pull=True)) as host:
        copy(made, client(host).repository(f"{host}/app"), root)
        nobody = client(host, None).repository(f"{host}/app")
        copy(nobody, back, root)
        with pytest.raises(RegistryError) as caught:
            nobody.tag("mine", root)
        assert caught.value.reason == "unauthorized"


def test_identity_tokens_use_oauth2(tmp_path: Path) -> None:
    with guarded(tmp_path, Guard()) as host:
        made = MemoryStore()
        copy(
            made,
            client(host, Credential(identity_token="identity")).repository(f"{host}/a"),
            random_index(made),
        )
        with pytest.raises(RegistryError):
            client(host, Credential(identity_token="forged")).repository(f"{host}/a").tags()


def test_registry_tokens_are_used_as_they_are(tmp_path: Path) -> None:
    guard = Guard()
    guard.tokens["given"] = {"app:pull", "app:push"}
    with guarded(tmp_path, guard) as host:
        made = MemoryStore()
        copy(
            made,
            client(host, Credential(registry_token="given")).repository(f"{host}/app"),
            random_index(made),
        )
    assert guard.issued == 0


def test_a_token_that_is_refused_is_renewed(tmp_path: Path) -> None:
    guard = Guard()
    with guarded(tmp_path, guard) as host:
        made = MemoryStore()
        root = random_index(made)
        repository = client(host).repository(f"{host}/app")
        copy(made, repository, root)
        guard.revoke()
        repository.tag("after", root)
        assert repository.tags() == ["after"]


@pytest.mark.parametrize(
    "realm",
    ["ftp://auth.example.com/token", "https://", "/token", "http://auth.example.com/token",
     "http://user@127.0.0.1/token", "http://127.0.0.1/#x", "javascript:alert(1)", "http://[::1"],
)  # fmt: skip
def test_a_hostile_realm_gets_nothing(tmp_path: Path, realm: str) -> None:
    with guarded(tmp_path, Guard(realm=realm)) as host:
        with pytest.raises(RegistryError) as caught:
            client(host).repository(f"{host}/app").resolve("v1")
        assert caught.value.reason in ("bad-realm", "unauthorized")


@pytest.mark.parametrize(
    ("realm", "registry", "secure", "good"),
    [
        ("https://auth.docker.io/token", "docker.io", True, True),
        ("https://gitlab.com/jwt/auth", "registry.gitlab.com", True, True),
        ("http://ghcr.io/token", "ghcr.io", True, False),
        ("https://127.0.0.1/token", "ghcr.io", True, False),
        ("https://169.254.169.254/latest", "ghcr.io", True, False),
        ("https://localhost:8080/token", "evil.example", True, False),
        ("http://inside:5000/token", "inside:5000", False, True),
        ("http://elsewhere/token", "inside:5000", False, False),
        ("http://127.0.0.1:9/token", "localhost:5000", False, True),
        ("https://ghcr.io@evil.example/token", "ghcr.io", True, False),
    ],
)
def test_realms(realm: str, registry: str, secure: bool, good: bool) -> None:
    assert (bad_realm(realm, registry, secure=secure) == "") is good


@pytest.mark.parametrize(
    ("header", "scheme", "parameters"),
    [
        ('Bearer realm="https://a/b",service="s",scope="x:y:pull,push"', "bearer",
         {"realm": "https://a/b", "service": "s", "scope": "x:y:pull,push"}),
        ("Basic realm=simple", "basic", {"realm": "simple"}),
        ('bearer  REALM = "a\\"b" , service=t', "bearer", {"realm": 'a"b', "service": "t"}),
        ("Negotiate", "negotiate", {}),
        ("", "", {}),
    ],
)  # fmt: skip
def test_challenges(header: str, scheme: str, parameters: dict[str, str]) -> None:
    assert Challenge.parse(header) == Challenge(scheme, parameters)


def test_verify_login(tmp_path: Path) -> None:
    for kind in ("basic", "bearer"):
        with guarded(tmp_path / kind, Guard(kind)) as host:
            verify_login(host, RIGHT, CONFIG)
            with pytest.raises(RegistryError) as caught:
                verify_login(host, Credential("user", "wrong"), CONFIG)
            assert caught.value.reason == "unauthorized"


# --- where credentials are found ----------------------------------------------------------------------------


def encoded(username: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{username}:{password}".encode()).decode()}


def found(path: Path, document: object, registry: str, repository: str = "") -> Credential | None:
    path.write_text(json.dumps(document))
    return ConfigFiles((path,)).find(registry, repository)


@pytest.mark.parametrize(
    ("key", "registry", "repository"),
    [
        ("ghcr.io", "ghcr.io", "a/b"),
        ("https://ghcr.io", "ghcr.io", ""),
        ("https://ghcr.io/v2/", "ghcr.io", ""),
        ("https://index.docker.io/v1/", "docker.io", "library/x"),
        ("docker.io", "docker.io", ""),
        ("localhost:5000", "localhost:5000", ""),
        ("quay.io/team", "quay.io", "team/app"),
    ],
)
def test_keys_of_docker_and_podman(tmp_path: Path, key: str, registry: str, repository: str) -> None:
    document = {"auths": {key: encoded("me", "p:w"), "other.example": encoded("x", "y")}}
    assert found(tmp_path / "c.json", document, registry, repository) == Credential("me", "p:w")


def test_the_most_specific_key_wins(tmp_path: Path) -> None:
    document = {"auths": {"quay.io": encoded("a", "1"), "quay.io/team": encoded("b", "2")}}
    assert found(tmp_path / "c.json", document, "quay.io", "team/app") == Credential("b", "2")
    assert found(tmp_path / "c.json", document, "quay.io", "else") == Credential("a", "1")


def test_tokens_in_files(tmp_path: Path) -> None:
    document = {"auths": {"r.io": {**encoded("u", ""), "identitytoken": "i", "registrytoken": "t"}}}
    assert found(tmp_path / "c.json", document, "r.io") == Credential("u", "", "i", "t")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"auths": []}', '{"auths": {"r.io": 3}}',
                                  '{"auths": {"r.io": {"auth": "%%%"}}}', '{"credHelpers": 1}'])  # fmt: skip
def test_broken_files_are_passed_over(tmp_path: Path, text: str) -> None:
    broken, good = tmp_path / "broken.json", tmp_path / "good.json"
    broken.write_text(text)
    good.write_text(json.dumps({"auths": {"r.io": encoded("a", "b")}}))
    assert ConfigFiles((broken, tmp_path / "absent", good)).find("r.io") == Credential("a", "b")


HELPER = """#!/bin/sh
read line
echo "$1 $line" >> "$HELPER_LOG"
case "$1 $line" in
"get known.io") echo '{"ServerURL":"known.io","Username":"me","Secret":"pw"}' ;;
"get token.io") echo '{"ServerURL":"token.io","Username":"<token>","Secret":"id"}' ;;
"get broken.io") echo 'leaked-secret'; exit 1 ;;
get*) echo 'credentials not found in native keychain'; exit 1 ;;
esac
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    program = tmp_path / "bin/docker-credential-test"
    program.parent.mkdir()
    program.write_text(HELPER)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HELPER_LOG", str(tmp_path / "log"))
    return tmp_path / "log"


def test_credential_helpers(tmp_path: Path, helper: Path) -> None:
    document = {"credHelpers": {"known.io": "test"}, "auths": {"plain.io": encoded("a", "b")}}
    assert found(tmp_path / "c.json", document, "known.io") == Credential("me", "pw")
    assert found(tmp_path / "c.json", document, "plain.io") == Credential("a", "b")
    document = {"credsStore": "test", "auths": {"plain.io": encoded("a", "b")}}
    assert found(tmp_path / "c.json", document, "token.io") == Credential(identity_token="id")
    assert found(tmp_path / "c.json", document, "plain.io") == Credential("a", "b")
    assert found(tmp_path / "c.json", document, "docker.io") is None
    assert "get https://index.docker.io/v1/" in helper.read_text()


@pytest.mark.parametrize(("name", "host"), [("absent", "x.io"), ("test", "broken.io"), ("../evil", "x.io")])
def test_a_helper_that_fails_is_named_not_fatal(tmp_path: Path, helper: Path, name: str, host: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"credsStore": name}))
    files = ConfigFiles((path,))
    assert files.find(host) is None
    assert len(files.problems) == 1 and "leaked-secret" not in files.problems[0]


def test_the_problem_shows_when_the_registry_wants_a_log_in(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps({"credsStore": "not-there"}))
    with guarded(tmp_path / "r", Guard("basic")) as host:
        mine = Client(credentials=ConfigFiles((path,)), config=CONFIG)
        with pytest.raises(RegistryError) as caught:
            mine.repository(f"{host}/app").resolve("v1")
    assert "docker-credential-not-there is not installed" in caught.value.hint


def test_the_files_that_are_looked_at(tmp_path: Path) -> None:
    environ = {
        "REGISTRY_AUTH_FILE": "/a.json",
        "DOCKER_CONFIG": "/d",
        "XDG_RUNTIME_DIR": "/run/me",
        "XDG_CONFIG_HOME": "/conf",
    }
    assert [str(path) for path in ConfigFiles.from_environment(environ).files] == [
        "/a.json",
        "/d/config.json",
        "/run/me/containers/auth.json",
        "/conf/containers/auth.json",
    ]


def test_no_secret_in_repr() -> None:
    shown = repr(Credential("user", "hidden1", "hidden2", "hidden3"))
    assert "user" in shown and "hidden" not in shown


# --- where they are kept ------------------------------------------------------------------------------------


def test_save_and_erase(tmp_path: Path) -> None:
    path = tmp_path / "docker/config.json"
    assert save("r.io", Credential("me", "pw"), path) == ""
    assert path.stat().st_mode & 0o777 == 0o600
    document = json.loads(path.read_text())
    document["HttpHeaders"] = {"kept": "yes"}
    path.write_text(json.dumps(document))
    save("docker.io", Credential("hub", "pw2"), path)
    files = ConfigFiles((path,))
    assert files.find("r.io") == Credential("me", "pw")
    assert files.find("docker.io") == Credential("hub", "pw2")
    assert json.loads(path.read_text())["HttpHeaders"] == {"kept": "yes"}
    assert "https://index.docker.io/v1/" in json.loads(path.read_text())["auths"]
    assert erase("r.io", path) and not erase("r.io", path)
    assert files.find("r.io") is None and files.find("docker.io")
    assert [entry.name for entry in path.parent.iterdir()] == ["config.json"]


def test_save_through_a_helper(tmp_path: Path, helper: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"credsStore": "test"}')
    assert save("r.io", Credential("me", "pw"), path) == "test"
    assert path.read_text() == '{"credsStore": "test"}'
    assert 'store {"ServerURL": "r.io", "Username": "me", "Secret": "pw"}' in helper.read_text()
    assert erase("r.io", path)
    assert "erase r.io" in helper.read_text()


def test_a_linked_config_stays_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "config.json"
    real.write_text("{}")
    link.symlink_to(real)
    save("r.io", Credential("a", "b"), link)
    assert link.is_symlink() and "r.io" in real.read_text()
