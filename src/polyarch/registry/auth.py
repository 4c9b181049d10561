"""Authentication against one registry: basic, and bearer tokens (distribution's token specification).

A token is fetched when the registry asks for one, kept for its scope, and renewed before it runs out. Where
the registry sends us for it (the realm) is looked at first: never from https to http, never to this machine
from elsewhere, never anything but http(s).
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit

from polyarch.errors import RegistryError
from polyarch.registry.config import is_loopback, is_private_target
from polyarch.registry.credentials import Credential
from polyarch.registry.failures import Task, refused

CLIENT_ID = "polyarch"
_DEFAULT_LIFETIME = 60  # seconds, when the token says nothing (token specification)
_MARGIN = 10  # seconds before its end at which a token counts as spent
_PARAMETER = re.compile(r'([a-zA-Z0-9_-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))\s*(?:,|$)')
_MAX_TOKEN = 1 << 20

# (method, url, headers, body) → (status, headers, body): one plain exchange without any authentication
Exchange = Callable[[str, str, Mapping[str, str], bytes | None], tuple[int, Mapping[str, str], bytes]]


@dataclass(frozen=True)
class Challenge:
    """One WWW-Authenticate header (RFC 9110 §11.6.1)."""

    scheme: str
    parameters: Mapping[str, str]

    @classmethod
    def parse(cls, header: str) -> Challenge:
        scheme, _, rest = header.strip().partition(" ")
        parameters: dict[str, str] = {}
        for match in _PARAMETER.finditer(rest):
            value = match[2] if match[2] is not None else match[3]
            parameters.setdefault(match[1].lower(), re.sub(r"\\(.)", r"\1", value))
        return cls(scheme.lower(), parameters)


def scope(repository: str, *actions: str) -> str:
    """A scope of the token specification: ``repository:app:pull,push``."""
    return f"repository:{repository}:{','.join(actions)}"


@dataclass(frozen=True)
class _Token:
    value: str = field(repr=False)
    ends: float


@dataclass
class Authorizer:
    """Knows how to be let in by one registry. Safe to share between threads."""

    registry: str
    secure: bool
    find: Callable[[str], Credential | None]  # by repository, "" for none
    exchange: Exchange
    _challenge: Challenge | None = None
    _tokens: dict[frozenset[str], _Token] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def asked(self) -> bool:
        """Whether the registry has asked who we are."""
        return self._challenge is not None

    def header(self, task: Task, scopes: Iterable[str], repository: str = "") -> str:
        """The Authorization header for a request, empty when none is known to be needed yet."""
        challenge = self._challenge
        if challenge is None:
            return ""
        if challenge.scheme == "basic":
            credential = self.find(repository)
            return credential.basic if credential else ""
        with self._lock:
            return "Bearer " + self._token(task, frozenset(scopes), repository).value

    def challenged(
        self, task: Task, headers: Iterable[str], scopes: Iterable[str], repository: str, sent: str
    ) -> bool:
        """Learn from a 401; whether trying again makes sense. ``sent`` is the header that did not do."""
        offered = [Challenge.parse(header) for header in headers]
        chosen = next((c for c in offered if c.scheme == "bearer" and c.parameters.get("realm")), None)
        chosen = chosen or next((c for c in offered if c.scheme == "basic"), None)
        if chosen is None:
            return False
        with self._lock:
            self._challenge = chosen
            if chosen.scheme == "basic":
                credential = self.find(repository)
                return bool(credential and credential.basic and credential.basic != sent)
            wanted = frozenset(scopes)
            known = self._tokens.get(wanted)
            if known and sent == "Bearer " + known.value:
                del self._tokens[wanted]
            return True

    def _token(self, task: Task, scopes: frozenset[str], repository: str) -> _Token:
        known = self._tokens.get(scopes)
        if known and known.ends > time.monotonic() + _MARGIN:
            return known
        assert self._challenge is not None
        credential = self.find(repository)
        if credential and credential.registry_token:
            token = _Token(credential.registry_token, time.monotonic() + 3600)
        else:
            token = self._fetch(task, self._challenge, scopes, credential)
        self._tokens[scopes] = token
        return token

    def _fetch(
        self, task: Task, challenge: Challenge, scopes: frozenset[str], credential: Credential | None
    ) -> _Token:
        realm = challenge.parameters["realm"]
        self._check_realm(realm)
        wanted = sorted(scopes) or [s for s in [challenge.parameters.get("scope", "")] if s]
        fields = [("scope", s) for s in wanted]
        if service := challenge.parameters.get("service"):
            fields.insert(0, ("service", service))
        started = time.monotonic()
        if credential and credential.identity_token:
            status, body = self._post(realm, wanted, service, {
                "grant_type": "refresh_token", "refresh_token": credential.identity_token})  # fmt: skip
        else:
            status, body = self._get(realm, fields, credential)
            if status in (404, 405) and credential:
                status, body = self._post(realm, wanted, service, {
                    "grant_type": "password", "username": credential.username,
                    "password": credential.password})  # fmt: skip
        if status != 200:
            raise refused(Task(f"{task}: asking for a token", self.registry), status, body)
        return _parse_token(self.registry, body, started)

    def _get(
        self, realm: str, fields: list[tuple[str, str]], credential: Credential | None
    ) -> tuple[int, bytes]:
        headers = {}
        if credential and credential.basic:
            headers["Authorization"] = credential.basic
            fields = [*fields, ("account", credential.username)]
        separator = "&" if urlsplit(realm).query else "?"
        url = realm + (separator + urlencode(fields) if fields else "")
        status, _, body = self.exchange("GET", url, headers, None)
        return status, body

    def _post(
        self, realm: str, scopes: list[str], service: str | None, grant: Mapping[str, str]
    ) -> tuple[int, bytes]:
        form = {**grant, "client_id": CLIENT_ID, "scope": " ".join(scopes), "service": service or ""}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        status, _, body = self.exchange("POST", realm, headers, urlencode(form).encode())
        return status, body

    def _check_realm(self, realm: str) -> None:
        if why := bad_realm(realm, self.registry, secure=self.secure):
            raise RegistryError(
                f"{self.registry} asks to log in at a place that {why}; nothing was sent there",
                hint="if this is your own registry, correct the realm in its configuration",
                reason="bad-realm",
            )


def bad_realm(realm: str, registry: str, *, secure: bool) -> str:
    """Why credentials for ``registry`` must not be sent to ``realm``, or an empty string."""
    try:
        parts = urlsplit(realm)
        host = parts.netloc
        _ = parts.port
    except ValueError:
        return "is no valid address"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "is no web address"
    if "@" in host or parts.fragment:
        return "is written to deceive"
    if secure and parts.scheme != "https":
        return "is not encrypted"
    if is_private_target(host) and not is_loopback(registry) and host != registry:
        return "is an address of this machine or its link"
    if (
        parts.scheme == "http"
        and parts.hostname != urlsplit(f"//{registry}").hostname
        and not is_loopback(host)
    ):
        return "is neither encrypted nor the registry itself"
    return ""


def _parse_token(registry: str, body: bytes, started: float) -> _Token:
    try:
        document = json.loads(body[:_MAX_TOKEN])
        value = document.get("token") or document.get("access_token")
        lifetime = float(document.get("expires_in") or _DEFAULT_LIFETIME)
    except (ValueError, TypeError, AttributeError, RecursionError):
        value, lifetime = None, 0
    if not isinstance(value, str) or not value or not re.fullmatch(r"[\x21-\x7e]+", value):
        raise RegistryError(f"{registry}'s token server sent no token", reason="bad-token")
    return _Token(value, started + max(lifetime, _DEFAULT_LIFETIME))
