"""The cache service of GitHub Actions, version 2 of its protocol: entries under keys, never changed again.

Twirp with JSON bodies (``github.actions.results.api.v1.CacheService``): an entry is created, which gives an
URL to upload to; uploaded there as an Azure block blob; and finalized. A look-up gives the newest entry whose
key begins with what was asked for, and an URL to download from. URLs are signed, stand for themselves, and
never see the token.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from polyarch.errors import NotFoundError, PolyarchError, RegistryError
from polyarch.registry.actions_access import Access
from polyarch.registry.config import Config, is_loopback, is_private_target
from polyarch.registry.credentials import NoCredentials
from polyarch.registry.failures import Task, harmless
from polyarch.registry.transport import BROKEN, MAX_ERROR, Call, Response, Transport, finish

_SERVICE = "twirp/github.actions.results.api.v1.CacheService/"
_VERSION = hashlib.sha256(b"polyarch cache 1").hexdigest()  # of what entries hold; others never match ours
_MAX_ANSWER = 64 << 10  # bytes


@dataclass(frozen=True)
class Entry:
    """One that was found: its whole key, and where it can be downloaded from for a while."""

    key: str
    url: str


class CacheService:
    """Calls to the service on behalf of one job. Safe to share between threads."""

    def __init__(self, access: Access, config: Config) -> None:
        self.access = access
        self.web = _Web(access, config)

    def create(self, key: str) -> str | None:
        """Reserve ``key``: the URL to upload to, or None where it is taken, by an entry or by somebody who
        is about to write one."""
        task = self._task(f"reserving {key}")
        try:
            answer = self._ask(task, "CreateCacheEntry", {"key": key, "version": _VERSION}, conflict=True)
        except _TakenError:
            return None
        if not answer.get("ok"):
            return None
        return self.checked(task, answer.get("signed_upload_url"))

    def finalize(self, key: str, size: int) -> None:
        """Say that the ``size`` bytes of ``key`` are uploaded: from now on it is found."""
        task = self._task(f"finishing {key}")
        body = {"key": key, "version": _VERSION, "size_bytes": str(size)}
        if not self._ask(task, "FinalizeCacheEntryUpload", body).get("ok"):
            raise RegistryError(f"{task}: it does not take the upload", reason="upload-refused")

    def find(self, key: str) -> Entry | None:
        """The newest entry whose key begins with ``key``, of the job's ref or else of its bases."""
        task = self._task(f"looking for {key}")
        body = {"key": key, "restore_keys": [key], "version": _VERSION}
        try:
            answer = self._ask(task, "GetCacheEntryDownloadURL", body)
        except NotFoundError:
            return None
        found = answer.get("matched_key")
        if not answer.get("ok") or not isinstance(found, str) or not found.startswith(key):
            return None
        return Entry(found, self.checked(task, answer.get("signed_download_url")))

    def checked(self, task: Task, url: object) -> str:
        """A signed URL that may be used; RegistryError for what makes no sense."""
        parts = urlsplit(url) if isinstance(url, str) else None
        home = urlsplit(self.access.url)
        if parts is None or not parts.hostname or "@" in parts.netloc:
            why = "it gives no address"
        elif parts.scheme != "https" and (parts.scheme != "http" or home.scheme == "https"):
            why = "it gives an address that is not https"
        elif is_private_target(parts.netloc) and not is_loopback(home.netloc):
            why = "it gives an address of this machine"
        else:
            return str(url)
        raise RegistryError(f"{task}: {why}", reason="bad-redirect")

    def close(self) -> None:
        self.web.close()

    def _task(self, operation: str) -> Task:
        return Task(f"{operation} in the Actions cache", urlsplit(self.access.url).netloc)

    def _ask(
        self, task: Task, method: str, body: dict[str, Any], *, conflict: bool = False
    ) -> dict[str, Any]:
        data = json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        call = Call(task, "POST", f"{urlsplit(self.access.url).path}{_SERVICE}{method}", headers, data)
        response = self.web.send(call)
        try:
            if conflict and response.status == 409:
                raise _TakenError
            if response.status != 200:
                raise self.web.refusal(task, response)
            found = json.loads(response.read(_MAX_ANSWER))
        except BROKEN as error:
            raise RegistryError(f"{task}: the connection broke", reason="registry-down") from error
        except (ValueError, RecursionError):
            raise RegistryError(f"{task}: the answer makes no sense", reason="bad-answer") from None
        finally:
            finish(response)
        if not isinstance(found, dict):
            raise RegistryError(f"{task}: the answer makes no sense", reason="bad-answer")
        return found


class _TakenError(Exception):
    """The key has an entry, or will have one."""


class _Web(Transport):
    """HTTP to the service, which gets the token, and to storage, which does not."""

    def __init__(self, access: Access, config: Config) -> None:
        parts = urlsplit(access.url)
        super().__init__(parts.netloc, NoCredentials(), config)
        self._scheme = parts.scheme
        self._bearer = f"Bearer {access.token}"
        self.backoff = config.backoff  # seconds

    def send(self, call: Call) -> Response:
        """See ``Transport.send``; nothing has to be found out, and nobody logs in."""
        return self._persist(call, "" if "://" in call.path else self._bearer)

    def refusal(self, task: Task, response: Response) -> PolyarchError:
        """The error of the service (JSON) or of Azure's storage (a header)."""
        status = response.status
        code = response.headers.get("x-ms-error-code", "")
        words = ""
        try:
            document = json.loads(response.read(MAX_ERROR))
            code, words = str(document.get("code") or code), str(document.get("msg") or "")
        except (*BROKEN, ValueError, RecursionError, AttributeError):
            pass
        detail = f"the service says: {harmless(': '.join(part for part in (code, words) if part))}"
        detail = detail if code or words else f"it answered with HTTP status {status}"
        if status == 404:
            return NotFoundError(f"{task}: not found", detail=detail, reason="not-found")
        known = {
            401: ("the token is not taken", "unauthorized", "it ends with its job"),
            403: ("the token does not allow it", "denied", "a job may write only entries of its own ref"),
            416: ("there is less of it than promised", "truncated", ""),
            429: ("it is asked too often", "rate-limited", "let fewer jobs run at the same time"),
        }
        why, reason, hint = known.get(
            status, ("it fails", "registry-down" if status >= 500 else "refused", "")
        )
        return RegistryError(f"{task}: {why}", status=status, detail=detail, hint=hint, reason=reason)


class Patience:
    """Time that runs out: ``check`` raises RegistryError when it has."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def check(self, task: Task) -> None:
        if time.monotonic() > self._end:
            raise RegistryError(
                f"{task}: it took longer than {self._seconds:g} s",
                hint="timeout=DURATION of the option gives it more",
                reason="cache-timeout",
            )
