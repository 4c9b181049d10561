"""Whose name a registry is given: docker's config.json, its credential helpers, podman's auth.json.

Nothing here is ever logged; ``repr`` of a credential shows no secret.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from polyarch.errors import RegistryError
from polyarch.registry.failures import harmless

HUB_KEY = "https://index.docker.io/v1/"
_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")
_HELPER_TIMEOUT = 30  # seconds; a helper may ask the user


@dataclass(frozen=True)
class Credential:
    """A name and password, or a token in place of them."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of a basic Authorization header, or empty."""
        if not self.username and not self.password:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class Credentials(Protocol):
    """Finds what to log in with."""

    def find(self, registry: str, repository: str = "") -> Credential | None: ...


@dataclass(frozen=True)
class NoCredentials:
    """Anonymous everywhere."""

    def find(self, registry: str, repository: str = "") -> Credential | None:
        return None


@dataclass(frozen=True)
class FixedCredentials:
    """One credential for one registry: while logging in, and in tests."""

    registry: str
    credential: Credential

    def find(self, registry: str, repository: str = "") -> Credential | None:
        return self.credential if registry == self.registry else None


def hub_names() -> tuple[str, ...]:
    """What Docker Hub is called."""
    return _HUB_NAMES


def docker_config(environ: Mapping[str, str] = os.environ) -> Path:
    """docker's config.json."""
    return Path(environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


@dataclass
class ConfigFiles:
    """Looks through ``files`` in order; ``problems`` collects what kept one from answering."""

    files: tuple[Path, ...]
    problems: list[str] = field(default_factory=list)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> ConfigFiles:
        """``$REGISTRY_AUTH_FILE``, docker's config.json, podman's auth.json."""
        files = [Path(environ["REGISTRY_AUTH_FILE"])] if environ.get("REGISTRY_AUTH_FILE") else []
        files.append(docker_config(environ))
        if runtime := environ.get("XDG_RUNTIME_DIR"):
            files.append(Path(runtime) / "containers/auth.json")
        config = environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
        files.append(Path(config) / "containers/auth.json")
        return cls(tuple(files))

    def find(self, registry: str, repository: str = "") -> Credential | None:
        for path in self.files:
            document = self._load(path)
            if document and (found := self._look(document, registry, repository, path)):
                return found
        return None

    def documents(self) -> list[dict[str, Any]]:
        """What the files hold, those that can be read."""
        return [document for path in self.files if (document := self._load(path))]

    def _load(self, path: Path) -> dict[str, Any]:
        try:
            document = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
            self._note(f"{path} cannot be read ({getattr(error, 'strerror', None) or 'invalid JSON'}).")
            return {}
        return document if isinstance(document, dict) else {}

    def _look(
        self, document: dict[str, Any], registry: str, repository: str, path: Path
    ) -> Credential | None:
        if helper := helper_for(document, registry):
            try:
                if found := run_helper(helper, "get", _helper_key(registry)):
                    return found
            except RegistryError as error:
                self._note(f"{error.summary} (from {path}).")
        auths = document.get("auths")
        if not isinstance(auths, dict):
            return None
        for key in _keys(registry, repository):
            if isinstance(entry := auths.get(key), dict) and (credential := _entry(entry)):
                return credential
        return None

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def helper_for(document: dict[str, Any], registry: str) -> str:
    """The credential helper docker's config names for ``registry``, or empty."""
    helpers = document.get("credHelpers")
    if isinstance(helpers, dict):
        for key in _keys(registry, ""):
            if isinstance(name := helpers.get(key), str) and name:
                return name
    store = document.get("credsStore")
    return store if isinstance(store, str) else ""


def run_helper(name: str, verb: str, text: str) -> Credential | None:
    """Run ``docker-credential-NAME VERB`` with ``text`` on its standard input; RegistryError when it fails.

    ``get`` gives the credential, or None when the helper knows none; ``store`` and ``erase`` give None.
    """
    program = f"docker-credential-{name}"
    if "/" in name or name.startswith("."):
        raise RegistryError(f"{name!r} is not a credential helper's name", reason="credential-helper")
    try:
        done = subprocess.run(
            [program, verb], input=text.encode(), capture_output=True, timeout=_HELPER_TIMEOUT, check=False
        )
    except FileNotFoundError:
        raise RegistryError(
            f"the credential helper {program} is not installed", reason="credential-helper"
        ) from None
    except (OSError, subprocess.TimeoutExpired):
        raise RegistryError(f"the credential helper {program} failed", reason="credential-helper") from None
    if done.returncode:
        if verb == "get" and b"not found" in done.stdout + done.stderr:
            return None
        raise RegistryError(
            f"the credential helper {program} failed to {verb}",
            detail=harmless(done.stderr.decode(errors="replace")),  # not stdout: it may hold a secret
            reason="credential-helper",
        )
    return _answer(done.stdout) if verb == "get" else None


def _answer(output: bytes) -> Credential | None:
    try:
        document = json.loads(output)
        username, secret = str(document["Username"]), str(document["Secret"])
    except (ValueError, KeyError, TypeError):
        raise RegistryError(
            "the credential helper's answer makes no sense", reason="credential-helper"
        ) from None
    if username == "<token>":
        return Credential(identity_token=secret)
    return Credential(username, secret) if username or secret else None


def _helper_key(registry: str) -> str:
    return HUB_KEY if registry in _HUB_NAMES else registry


def _keys(registry: str, repository: str) -> list[str]:
    """The keys under which docker and podman may keep a registry's credentials, the most specific first."""
    names = list(_HUB_NAMES) if registry in _HUB_NAMES else [registry]
    parts = repository.split("/") if repository else []
    keys = [f"{name}/{'/'.join(parts[:n])}" for name in names for n in range(len(parts), 0, -1)]
    if registry in _HUB_NAMES:
        keys.append(HUB_KEY)
    for name in names:
        keys += [name]
        keys += [
            f"{scheme}://{name}{path}" for scheme in ("https", "http") for path in ("", "/", "/v1/", "/v2/")
        ]
    return keys


def _entry(entry: dict[str, Any]) -> Credential | None:
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if auth := entry.get("auth"):
        try:
            decoded = base64.b64decode(str(auth), validate=False).decode()
        except (binascii.Error, ValueError):
            return None
        username, _, password = decoded.partition(":")
        password = password.rstrip("\x00")
    identity = str(entry.get("identitytoken") or "")
    token = str(entry.get("registrytoken") or "")
    if not (username or password or identity or token):
        return None
    return Credential(username, password, identity, token)
