"""What a job of GitHub Actions may do at the cache service: where that is, the token, and the refs it opens.

A token is a JWT whose claim ``ac`` lists refs with permissions: a pull request may write entries of its own
ref and read those of its base and the default branch. The service enforces that; here it is only read.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from polyarch.errors import UnsupportedError
from polyarch.registry.config import is_loopback

DEFAULT_TIMEOUT = 600.0  # seconds; BuildKit's
_READ, _WRITE = 1, 2
_MAX_TOKEN = 64 << 10  # characters
_MAX_SCOPES = 16


@dataclass(frozen=True)
class Access:
    """The service's address, which ends in a slash, and who we are. ``timeout`` in seconds is what writing a
    cache, or reading one table or layer, may take."""

    url: str
    token: str = field(repr=False)
    timeout: float = DEFAULT_TIMEOUT

    @property
    def readable(self) -> tuple[str, ...]:
        """The refs whose entries may be read, best first: the job's own, then its bases'. One nameless ref
        where the token does not tell."""
        scopes = _scopes(self.token)
        found = [ref for ref, permission in scopes if permission & (_READ | _WRITE)]
        writable = self.writable
        found.sort(key=lambda ref: ref != writable)
        return tuple(found) or ("",)

    @property
    def writable(self) -> str | None:
        """The ref whose entries may be written; None where there is none."""
        scopes = _scopes(self.token)
        if not scopes:
            return ""
        return next((ref for ref, permission in scopes if permission & _WRITE), None)


def find_access(
    environ: Mapping[str, str], *, url: str = "", url_v2: str = "", token: str = "", timeout: float = 0
) -> Access:
    """The access that options or the job's environment give; UnsupportedError says what is missing."""
    old = url or environ.get("ACTIONS_CACHE_URL", "")
    place = url_v2 or environ.get("ACTIONS_RESULTS_URL", "")
    spoken = url_v2 or not old or environ.get("ACTIONS_CACHE_SERVICE_V2", "").lower() in ("1", "true")
    token = token or environ.get("ACTIONS_RUNTIME_TOKEN", "")
    if place and not spoken:
        place = ""
    if not place and old:
        raise UnsupportedError(
            "the cache service here speaks version 1 of its protocol only",
            hint="GitHub Enterprise Server has no other so far; use type=registry",
            reason="cache-service-v1",
        )
    if not place or not token:
        missing = "ACTIONS_RESULTS_URL" if not place else "ACTIONS_RUNTIME_TOKEN"
        raise UnsupportedError(
            f"the cache service of GitHub Actions is not to be found: {missing} is not set",
            hint="GitHub gives it to actions and not to `run:` steps: use polyarch's action, or the "
            "step that `polyarch ci github` writes",
            reason="no-cache-service",
        )
    _check_url(place)
    return Access(place.rstrip("/") + "/", token, timeout or DEFAULT_TIMEOUT)


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    plain = parts.scheme == "http" and is_loopback(parts.netloc)
    if (parts.scheme != "https" and not plain) or not parts.hostname or "@" in parts.netloc:
        raise UnsupportedError(
            f"{url[:200]!r} is no address of a cache service", hint="it is an https URL", reason="cache-url"
        )


def _scopes(token: str) -> list[tuple[str, int]]:
    """The refs and permissions a token speaks of; none where it cannot be read."""
    parts = token.split(".")
    if len(parts) != 3 or len(token) > _MAX_TOKEN:
        return []
    try:
        padded = parts[1] + "=" * (-len(parts[1]) % 4)
        claims = json.loads(base64.urlsafe_b64decode(padded))
        listed = claims.get("ac") if isinstance(claims, dict) else None
        entries = json.loads(listed) if isinstance(listed, str) else listed
    except (ValueError, binascii.Error, RecursionError):
        return []
    found = []
    for entry in entries[:_MAX_SCOPES] if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("Scope"), str):
            permission = entry.get("Permission")
            found.append((entry["Scope"], permission if isinstance(permission, int) else 0))
    return found
