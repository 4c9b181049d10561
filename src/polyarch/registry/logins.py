"""Remembering and forgetting log-ins where docker keeps them: its config.json, or the helper that names."""

from __future__ import annotations

import base64
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from polyarch.errors import PolyarchError, RegistryError
from polyarch.registry.credentials import (
    HUB_KEY,
    Credential,
    docker_config,
    helper_for,
    hub_names,
    run_helper,
)


def save(registry: str, credential: Credential, path: Path | None = None) -> str:
    """Keep ``credential`` for ``registry``; returns the helper that took it, or empty when it went into the
    file ``path`` (by default docker's) in plain form. Other settings in the file stay as they are."""
    path = path or docker_config()
    document = _load(path)
    key = _key(registry)
    if helper := helper_for(document, registry):
        secret = {"ServerURL": key, "Username": credential.username, "Secret": credential.password}
        run_helper(helper, "store", json.dumps(secret))
        return helper
    plain = f"{credential.username}:{credential.password}".encode()
    auths = document.setdefault("auths", {})
    if not isinstance(auths, dict):
        raise _broken(path, "'auths' is no object")
    auths[key] = {"auth": base64.b64encode(plain).decode()}
    _replace(path, document)
    return ""


def erase(registry: str, path: Path | None = None) -> bool:
    """Forget what is kept for ``registry``; whether there was anything in the file or a helper was asked."""
    path = path or docker_config()
    document = _load(path)
    helper = helper_for(document, registry)
    if helper:
        try:
            run_helper(helper, "erase", _key(registry))
        except RegistryError as error:
            if error.summary.endswith("is not installed"):
                raise
            # helpers fail to erase what they do not have: that is what was wanted
    auths = document.get("auths")
    found = False
    if isinstance(auths, dict):
        for key in {_key(registry), registry, *(hub_names() if _key(registry) == HUB_KEY else ())}:
            found |= auths.pop(key, None) is not None
    if found:
        _replace(path, document)
    return found or bool(helper)


def _key(registry: str) -> str:
    return HUB_KEY if registry in hub_names() else registry


def _load(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        raise _broken(path, "it is not valid JSON") from None
    if not isinstance(document, dict):
        raise _broken(path, "it is no object")
    return document


def _broken(path: Path, why: str) -> PolyarchError:
    return PolyarchError(
        f"{path} cannot be changed: {why}",
        hint="mend or remove the file, then log in again",
        reason="invalid-config",
    )


def _replace(path: Path, document: dict[str, Any]) -> None:
    """Write the file anew, readable by its owner only. A link stays a link: its target is replaced."""
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(prefix=".config-", dir=target.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            json.dump(document, file, indent="\t")
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
