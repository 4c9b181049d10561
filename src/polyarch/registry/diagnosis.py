"""Which registries this user has credentials for, and whether they are accepted: rows of the doctor."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from urllib.parse import urlsplit

from polyarch.errors import PolyarchError, RegistryError
from polyarch.registry.client import Client
from polyarch.registry.config import Config
from polyarch.registry.credentials import ConfigFiles, hub_names
from polyarch.registry.lifetime import ends_at

_PATIENCE = 5.0  # seconds for a registry to answer
_MAX_ASKED = 20
_ANSWERS = frozenset((401, 403))


@dataclass(frozen=True)
class Login:
    """What is known of one registry. ``works`` is None where it did not answer; ``remedy`` what to do."""

    registry: str
    works: bool | None
    detail: str
    remedy: str = ""


def logins(files: ConfigFiles | None = None, config: Config | None = None) -> list[Login]:
    """The registries that the user's files name, each asked once, all at the same time."""
    files = files or ConfigFiles.from_environment()
    config = replace(config or Config.from_environment(), attempts=1, connect_timeout=_PATIENCE)
    config = replace(config, read_timeout=_PATIENCE)
    found = registries(files)[:_MAX_ASKED]
    if not found:
        return []
    with ThreadPoolExecutor(len(found), thread_name_prefix="doctor") as pool:
        return list(pool.map(lambda registry: _ask(registry, files, config), found))


def registries(files: ConfigFiles) -> list[str]:
    """The registries named under ``auths`` and ``credHelpers``, as references call them."""
    names: dict[str, None] = {}
    for document in files.documents():
        for section in ("auths", "credHelpers"):
            entries = document.get(section)
            if isinstance(entries, Mapping):
                names.update((_name(str(key)), None) for key in entries)
    return sorted(name for name in names if name)


def _name(key: str) -> str:
    host = urlsplit(key if "://" in key else f"//{key}").netloc
    return hub_names()[0] if host in hub_names() else host


def _ask(registry: str, files: ConfigFiles, config: Config) -> Login:
    login = f"polyarch login {registry}"
    try:
        credential = files.find(registry)
    except PolyarchError as error:
        return Login(registry, False, error.summary, login)
    if credential is None:
        why = next(iter(files.problems), "a name, but no credential")
        return Login(registry, False, why, login)
    who = credential.username or "a token"
    end = ends_at(credential)
    if end is not None and end < time.time():
        return Login(registry, False, f"the credential of {who} has expired", login)
    try:
        with Client(credentials=files, config=config) as client:
            client.ping(registry)
    except RegistryError as error:
        if error.status in _ANSWERS:
            return Login(registry, False, f"the credential of {who} is not accepted", login)
        return Login(registry, None, f"does not answer: {error.summary}", error.hint)
    except PolyarchError as error:
        return Login(registry, None, error.summary, error.hint)
    lasts = f", for {(end - time.time()) / 60:.0f} minutes more" if end is not None else ""
    return Login(registry, True, f"accepts {who}{lasts}")
