"""What ``polyarch doctor`` tells of registries: who we are to them, and whether they agree."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from polyarch.registry.config import Config
from polyarch.registry.credentials import ConfigFiles
from polyarch.registry.diagnosis import logins, registries


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
