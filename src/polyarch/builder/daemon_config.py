"""The configuration of daemons that are started: ``buildkitd.toml`` and what it names."""

from __future__ import annotations

import tomllib
from pathlib import Path

from polyarch.errors import NotFoundError, UsageError

CONFIG_FOLDER = "/etc/buildkit"  # where daemons find these files
_MAX_CONFIG = 1 << 20  # bytes


def load(config: str) -> dict[str, bytes]:
    """The file, and the certificates and keys of registries that it names, which are renamed in it to where
    they will be (as buildx does). NotFoundError and UsageError say what is wrong."""
    path = Path(config).expanduser()
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NotFoundError(
            f"--buildkitd-config {config}: {error.strerror}", reason="config-not-found"
        ) from None
    if len(content) > _MAX_CONFIG:
        raise UsageError(f"--buildkitd-config {config} is too large", reason="invalid-config")
    try:
        text = content.decode()
        document = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(
            f"--buildkitd-config {config} is not TOML: {error}", reason="invalid-config"
        ) from None
    files: dict[str, bytes] = {}
    for host, settings in _registries(document).items():
        for place in _named(settings):
            inside = f"certs/{host}/{Path(place).name}"
            try:
                files[inside] = Path(place).read_bytes()
            except OSError as error:
                raise NotFoundError(
                    f"--buildkitd-config {config}: {place}: {error.strerror}", reason="config-not-found"
                ) from None
            text = text.replace(f'"{place}"', f'"{CONFIG_FOLDER}/{inside}"')
    return {"buildkitd.toml": text.encode(), **files}


def _registries(document: dict[str, object]) -> dict[str, dict[str, object]]:
    found = document.get("registry")
    if not isinstance(found, dict):
        return {}
    return {host: settings for host, settings in found.items() if isinstance(settings, dict)}


def _named(settings: dict[str, object]) -> list[str]:
    """The files of one registry's settings."""
    found: list[object] = []
    authorities = settings.get("ca")
    found += authorities if isinstance(authorities, list) else []
    pairs = settings.get("keypair")
    for pair in pairs if isinstance(pairs, list) else []:
        if isinstance(pair, dict):
            found += [pair.get("key"), pair.get("cert")]
    return [one for one in found if isinstance(one, str) and one]
