"""Files from http and https: fetched once, asked about again by what the server said of them."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import posixpath
import re
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

import msgspec

from polyarch.content.ingest import Ingest
from polyarch.content.state import State
from polyarch.errors import ContentError, NotFoundError, PolyarchError, UsageError

if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse

_CHUNK = 1 << 20
_TIMEOUT = (30.0, 300.0)  # seconds to connect, and between two pieces
_REDIRECTS = 10


@dataclass(frozen=True)
class HttpFile:
    """A file that was fetched. ``path`` is where it lies now and stays until the same URL gives another;
    ``last_modified_ns`` is 0 where the server does not say; ``filename`` is what the server, or the URL,
    calls it."""

    path: Path
    digest: str
    size: int
    filename: str
    last_modified: str = ""
    etag: str = ""

    @property
    def last_modified_ns(self) -> int:
        try:
            return int(parsedate_to_datetime(self.last_modified).timestamp()) * 1_000_000_000
        except (ValueError, TypeError, OverflowError):
            return 0


class _Record(msgspec.Struct, frozen=True):
    digest: str
    size: int
    filename: str
    last_modified: str = ""
    etag: str = ""


def is_http_url(text: str) -> bool:
    """Whether ``text`` is an http or https URL."""
    return text[:8].lower().startswith(("http://", "https://"))


def is_valid_url(text: str) -> bool:
    """Whether an http or https URL names a host."""
    try:
        return bool(urlsplit(text).hostname)
    except ValueError:
        return False


def fetch(url: str, state: State, *, checksum: str = "") -> HttpFile:
    """The file at ``url``, from this machine where the server says that it has not changed.

    With ``checksum`` (``sha256:…`` or another registered algorithm) a file fetched before is used without
    asking, and ContentError raised when the server gives another. NotFoundError for 404 and 410,
    PolyarchError for everything else that fails; messages name the URL without its credentials.
    """
    address = _Address.parse(url)
    algorithm = checksum.partition(":")[0] if checksum else "sha256"
    if algorithm not in ("sha256", "sha384", "sha512"):
        raise UsageError(f"unknown checksum algorithm {algorithm!r}", reason="invalid-checksum")
    name = hashlib.sha256(f"{address.shown}\n{address.secret}".encode()).hexdigest()[:32]
    folder = state.sources / "http" / name
    with _locked(folder):
        known = _known(folder)
        if known is not None and checksum and _digest(known.path, algorithm) == checksum:
            return known
        fresh = _download(address, folder, known)
        if checksum and (found := _digest(fresh.path, algorithm)) != checksum:
            raise ContentError(
                f"{address.shown} is not what was expected",
                detail=f"expected {checksum}\nfound    {found}",
                hint="correct --checksum if the file was changed on purpose",
                reason="checksum-mismatch",
            )
        return fresh


@dataclass(frozen=True)
class _Address:
    """``request`` is what is asked for, ``secret`` the Authorization header, ``shown`` what may be shown."""

    request: str
    shown: str
    secret: str

    @classmethod
    def parse(cls, url: str) -> _Address:
        try:
            parts = urlsplit(url)
            host = parts.hostname
        except ValueError:
            parts, host = None, None
        if parts is None or not host or not is_http_url(url):
            raise UsageError(
                "invalid URL", hint="it looks like https://example.com/file", reason="invalid-url"
            )
        bare = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, parts.query, ""))
        secret = ""
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            secret = "Basic " + base64.b64encode(pair.encode()).decode()
        # Queries often hold signatures.
        shown = bare.partition("?")[0] + ("?…" if parts.query else "")
        return cls(bare, shown if secret or parts.query else bare, secret)


def _download(address: _Address, folder: Path, known: HttpFile | None) -> HttpFile:
    headers = {"User-Agent": "polyarch", "Accept-Encoding": "identity"}
    if address.secret:
        headers["Authorization"] = address.secret
    if known is not None and known.etag:
        headers["If-None-Match"] = known.etag
    if known is not None and known.last_modified:
        headers["If-Modified-Since"] = known.last_modified
    with _response(address, headers) as response:
        if response.status == 304 and known is not None:
            return known
        if response.status != 200:
            raise _refused(address, response)
        digest, size = _store(response, folder, address)
        record = _Record(
            digest,
            size,
            _filename(response.headers.get("Content-Disposition", ""), address.request),
            response.headers.get("Last-Modified", ""),
            response.headers.get("ETag", ""),
        )
    with Ingest(folder) as temporary:
        temporary.write(msgspec.json.encode(record))
        temporary.place(folder / "record.json")
    for old in folder.glob("sha256-*"):
        if old.name != digest.replace(":", "-"):
            old.unlink(missing_ok=True)
    return _file(folder, record)


@contextmanager
def _response(address: _Address, headers: dict[str, str]) -> Iterator[BaseHTTPResponse]:
    import urllib3  # only builds that fetch something pay for it

    retries = urllib3.Retry(
        total=None, connect=2, read=2, redirect=_REDIRECTS, status=2, other=0, backoff_factor=0.2,
        status_forcelist=(502, 503, 504), raise_on_status=False,
    )  # fmt: skip
    timeout = urllib3.Timeout(connect=_TIMEOUT[0], read=_TIMEOUT[1])
    pool = _pool(address.request)
    try:
        response = pool.request(
            "GET", address.request, headers=headers, preload_content=False, retries=retries, timeout=timeout
        )
        try:
            yield response
        finally:
            response.close()
    except urllib3.exceptions.HTTPError as error:
        raise PolyarchError(
            f"{address.shown} cannot be fetched",
            detail=_reason(error, address),
            hint="check the address, and that this machine can reach it",
            reason="http-failed",
        ) from None
    finally:
        pool.clear()


def _pool(url: str) -> Any:
    import urllib3

    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.netloc):
        return urllib3.ProxyManager(proxy)
    return urllib3.PoolManager()


def _store(response: BaseHTTPResponse, folder: Path, address: _Address) -> tuple[str, int]:
    """Keep the body under its digest, whole or not at all."""
    hasher = hashlib.sha256()
    size = 0
    with Ingest(folder) as temporary:
        for chunk in response.stream(_CHUNK):
            hasher.update(chunk)
            size += len(chunk)
            temporary.write(chunk)
        announced = response.headers.get("Content-Length", "")
        if announced.isdecimal() and int(announced) != size:
            raise PolyarchError(
                f"{address.shown} ended after {size} of {announced} bytes", reason="http-failed"
            )
        digest = "sha256:" + hasher.hexdigest()
        temporary.place(folder / digest.replace(":", "-"))
    return digest, size


def _refused(address: _Address, response: BaseHTTPResponse) -> PolyarchError:
    what = f"{address.shown} cannot be fetched: the server answers {response.status} {response.reason or ''}"
    if response.status in (404, 410):
        return NotFoundError(what.rstrip(), reason="http-not-found")
    hint = "the server wants credentials" if response.status in (401, 403) else ""
    return PolyarchError(what.rstrip(), hint=hint, reason="http-failed")


def _reason(error: Exception, address: _Address) -> str:
    """What happened, without the parts of the URL that may be secret."""
    text = str(getattr(error, "reason", None) or error)
    text = text.replace(address.request, address.shown)
    query = urlsplit(address.request).query
    return text.replace(query, "…") if query else text


def _filename(disposition: str, url: str) -> str:
    if disposition:
        message = Message()
        message["Content-Disposition"] = disposition
        given = message.get_filename() or ""
        if given and given not in (".", "..") and not re.search(r"[/\\\x00-\x1f]", given):
            return given
    name = posixpath.basename(unquote(urlsplit(url).path))
    return name if name and name not in (".", "..") and "\0" not in name else "download"


def _known(folder: Path) -> HttpFile | None:
    try:
        record = msgspec.json.decode((folder / "record.json").read_bytes(), type=_Record)
    except (OSError, msgspec.DecodeError):
        return None
    file = _file(folder, record)
    try:
        whole = file.path.stat().st_size == record.size
    except OSError:
        return None
    return file if whole else None


def _file(folder: Path, record: _Record) -> HttpFile:
    path = folder / record.digest.replace(":", "-")
    return HttpFile(path, record.digest, record.size, record.filename, record.last_modified, record.etag)


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        return f"{algorithm}:{hashlib.file_digest(stream, algorithm).hexdigest()}"


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.utime(descriptor)  # the time of its last use, for the collector
        yield
    finally:
        os.close(descriptor)
