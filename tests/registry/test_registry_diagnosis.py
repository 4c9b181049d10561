"""What ``polyarch doctor`` tells of registries: who we are to them, and whether they agree."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from polyarch.cli.main import main
from polyarch.content.state import State
from polyarch.registry.config import Config
from polyarch.registry.credentials import ConfigFiles
from polyarch.registry.diagnosis import logins, registries
from polyarch.registry.server.running import serve_in_thread
from polyarch.testing.guarded_registry import Guard


def auth(name: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{name}:{password}".encode()).decode()}


def files(folder: Path, **document: object) -> ConfigFiles:
    path = folder / "config.json"
    path.write_text(json.dumps(document))
    return ConfigFiles((path,))


def test_what_registries_are_named(tmp_path: Path) -> None:
    found = files(
        tmp_path,
        auths={"https://index.docker.io/v1/": {}, "ghcr.io": {}, "https://r.example:5000/v2/": {}},
        credHelpers={"x.dkr.ecr.eu-west-1.amazonaws.com": "ecr-login", "ghcr.io": "x"},
    )
    assert registries(found) == [
        "docker.io",
        "ghcr.io",
        "r.example:5000",
        "x.dkr.ecr.eu-west-1.amazonaws.com",
    ]
    assert registries(files(tmp_path, auths=[1], credHelpers="x")) == []


def test_whether_they_agree(tmp_path: Path, registry: str) -> None:
    expired = base64.urlsafe_b64encode(json.dumps({"exp": 1}).encode()).decode().rstrip("=")
    found = files(
        tmp_path,
        auths={registry: auth("me", "secret"), "127.0.0.1:9": auth("me", "x"), "e.example": {},
               "old.example": auth("me", f"a.{expired}.c")},
    )  # fmt: skip
    by_name = {login.registry: login for login in logins(found, Config())}
    assert by_name[registry].works and by_name[registry].detail == "accepts me"
    assert by_name["127.0.0.1:9"].works is None
    assert by_name["e.example"].works is False and by_name["e.example"].remedy == "polyarch login e.example"
    assert by_name["old.example"].detail == "the credential of me has expired"
    assert "secret" not in repr(by_name)


@pytest.mark.parametrize(("password", "works"), [("secret", True), ("wrong", False)])
@pytest.mark.parametrize("kind", ["basic", "bearer"])
def test_a_registry_that_asks(tmp_path: Path, kind: str, password: str, works: bool) -> None:
    with serve_in_thread(tmp_path / "registry", wrap=Guard(kind=kind).wrap) as address:
        (login,) = logins(files(tmp_path, auths={address: auth("user", password)}), Config())
    assert login.works is works, login
    assert login.detail == ("accepts user" if works else "the credential of user is not accepted")


def test_the_command(
    tmp_path: Path, state: State, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr("polyarch.executor.diagnosis._platforms", lambda emulators: iter(()))
    files(tmp_path, auths={"127.0.0.1:9": auth("me", "x")})
    main(["doctor"])
    assert "login 127.0.0.1:9" in capsys.readouterr().out
