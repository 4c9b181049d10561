"""HTTP to registries: connections, patience, redirects by hand, authentication where it belongs.

Credentials are sent to the registry's own host only; a redirect never leads from https to http, nor from
another machine to this one.
"""

from __future__ import annotations

import email.utils
import random
import socket
import ssl
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urljoin, urlsplit

import urllib3
import urllib3.exceptions

from polyarch.errors import PolyarchError, RegistryError
from polyarch.registry.auth import Authorizer
from polyarch.registry.config import (
    Config,
    address_of,
    is_loopback,
    is_private_target,
    name_of,
    port_of,
    proxy_for,
)
from polyarch.registry.credentials import Credential, Credentials
from polyarch.registry.failures import Task, refused, root_cause, unreachable

# Certificates go unchecked only where the user, or loopback, said so: no need to say it for every request.
urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)

Response = urllib3.BaseHTTPResponse
BROKEN = (urllib3.exceptions.HTTPError, OSError)
_BUSY = frozenset({429, 500, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_SLOW = (TimeoutError, urllib3.exceptions.TimeoutError)
_MAX_REDIRECTS = 6
MAX_ERROR = 64 << 10  # bytes of an error body that are looked at


@dataclass(frozen=True)
class Call:
    """One request: ``path`` begins with ``/v2/`` or is a whole URL (an upload's location).

    ``scopes`` are what a token has to allow. ``repeatable`` says that sending it twice does no harm and that
    ``body``, if any, can be sent again.
    """

    task: Task
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] | None = None
    scopes: frozenset[str] = frozenset()
    repository: str = ""
    repeatable: bool = True


class Transport:
    """The way to one registry. Safe to share between threads."""

    def __init__(self, registry: str, credentials: Credentials, config: Config) -> None:
        self.registry = registry
        self.host = address_of(registry)
        self._config = config
        self._pools: dict[tuple[str, str], urllib3.PoolManager] = {}
        self._lock = threading.Lock()  # held while finding the scheme
        self._pool_lock = threading.Lock()
        self._scheme = ""
        self._credentials = credentials
        self.authorizer: Authorizer | None = None

    # --- what callers use -----------------------------------------------------------------------------------

    @contextmanager
    def call(self, call: Call, *, expect: Collection[int]) -> Iterator[Response]:
        """The response to ``call`` with a status in ``expect``; any other is raised as its error. The body is
        not read yet; leaving the block gives the connection back."""
        response = self.send(call)
        try:
            if response.status not in expect:
                raise self.refusal(call.task, response)
            yield response
        except BROKEN as error:
            raise unreachable(call.task, error) from error
        finally:
            finish(response)

    def send(self, call: Call) -> Response:
        """The response to ``call``, whatever its status, after redirects, log-in and retries."""
        authorizer = self._reach(call.task)
        header = authorizer.header(call.task, call.scopes, call.repository)
        response = self._persist(call, header)
        for _ in range(2):
            if response.status != 401 or not (call.repeatable or call.body is None):
                return response
            challenges = response.headers.getlist("WWW-Authenticate")
            if not authorizer.challenged(call.task, challenges, call.scopes, call.repository, header):
                return response
            finish(response)
            header = authorizer.header(call.task, call.scopes, call.repository)
            response = self._persist(call, header)
        return response

    def credential(self, repository: str = "") -> Credential | None:
        """What the registry is told who we are with."""
        return self._credentials.find(self.registry, repository)

    def refusal(self, task: Task, response: Response) -> PolyarchError:
        """The error a response means."""
        try:
            body = response.read(MAX_ERROR)
        except BROKEN:
            body = b""
        return refused(task, response.status, body, note=" ".join(getattr(self._credentials, "problems", [])))

    def absolute(self, location: str, base: str = "") -> str:
        """A Location header as a URL. One that forgot the TLS in front of its own host gets it back."""
        url = urljoin(base or f"{self._scheme}://{self.host}/", location)
        parts = urlsplit(url)
        if self._scheme == "https" and parts.scheme == "http" and parts.hostname == name_of(self.host):
            return f"https://{self.host}{url[len('http://') + len(parts.netloc) :]}"
        return url

    def token(self, task: Task, scopes: Collection[str]) -> str:
        """See ``Client.token``."""
        authorizer = self._reach(task)
        repository = next((scope.split(":")[1] for scope in scopes if scope.count(":") >= 2), "")
        if not authorizer.asked:
            with self.call(Call(task, "GET", "/v2/"), expect=(200, 401, 403)):
                pass  # the answer's headers say where tokens come from
        kind, _, value = authorizer.header(task, scopes, repository).partition(" ")
        return value if kind == "Bearer" else ""

    def open_address(self) -> str:
        """See ``Client.open_address``."""
        asked = self.authorizer is None or self.authorizer.asked or proxy_for("http", self.host)
        if self._scheme != "http" or asked:
            return ""
        return self.host if port_of(self.host) else f"{self.host}:80"

    def close(self) -> None:
        for pool in self._pools.values():
            pool.clear()

    # --- how it is done -------------------------------------------------------------------------------------

    def _reach(self, task: Task) -> Authorizer:
        """Find out, once, by which scheme the registry answers."""
        if self.authorizer is None:
            with self._lock:
                if self.authorizer is None:
                    self._scheme = self._find_scheme(task)
                    self.authorizer = Authorizer(
                        self.registry,
                        self._scheme == "https",
                        lambda repository: self._credentials.find(self.registry, repository),
                        lambda *exchange: self._exchange(task, *exchange),
                    )
        return self.authorizer

    def _find_scheme(self, task: Task) -> str:
        schemes = self._config.schemes(self.host)
        if len(schemes) == 1:
            return schemes[0]
        failure: BaseException | None = None
        for scheme in schemes:
            try:
                response = self._once("GET", f"{scheme}://{self.host}/v2/", {}, None)
            except BROKEN as error:
                failure = failure or error
                if scheme == "http" and isinstance(root_cause(error), _SLOW):
                    break  # it is there and does not answer: it would not shake hands either
                continue
            # An https server answers plain http with 400.
            wrong = scheme == "http" and response.status == 400 and "https" in schemes
            finish(response)
            if not wrong:
                return scheme
        if failure is None:
            return schemes[0]
        raise unreachable(task, failure)

    def _persist(self, call: Call, authorization: str) -> Response:
        """Send until an answer worth having: connections that break and busy servers are tried again."""
        attempts = self._config.attempts if call.repeatable else 1
        for attempt in range(1, attempts + 1):
            last = attempt == attempts
            try:
                response = self._follow(call, authorization)
            except BROKEN as error:
                if last or _hopeless(error, attempt):
                    raise unreachable(call.task, error) from error
                time.sleep(self._pause(attempt))
                continue
            wait = self._pause(attempt)
            if response.status in _BUSY:
                wait = _retry_after(response, wait)
            if response.status not in _BUSY or last or wait > self._config.longest_wait:
                return response
            finish(response)
            time.sleep(wait)
        raise AssertionError("unreachable")

    def _follow(self, call: Call, authorization: str) -> Response:
        url = call.path if "://" in call.path else f"{self._scheme}://{self.host}{call.path}"
        url, method, body = self.absolute(url), call.method, call.body
        for _ in range(_MAX_REDIRECTS):
            headers = dict(call.headers)
            if authorization and self._is_home(url):
                headers["Authorization"] = authorization
            response = self._once(method, url, headers, body)
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                return response
            finish(response)
            if call.body is not None and not call.repeatable:
                raise RegistryError(
                    f"{call.task}: {self.registry} redirects an upload", reason="bad-redirect"
                )
            if response.status == 303:
                method, body = "GET", None
            url = self._checked(call.task, self.absolute(location, url), url)
        raise RegistryError(f"{call.task}: {self.registry} redirects in circles", reason="bad-redirect")

    def _is_home(self, url: str) -> bool:
        parts = urlsplit(url)
        return parts.netloc.lower() == self.host.lower() and parts.scheme == self._scheme

    def _checked(self, task: Task, url: str, before: str) -> str:
        parts = urlsplit(url)
        why = ""
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            why = "to something that is no web address"
        elif urlsplit(before).scheme == "https" and parts.scheme == "http":
            why = "from https to http"
        elif is_private_target(parts.netloc) and not is_loopback(self.host) and not self._is_home(url):
            why = "to an address of this machine"
        if why:
            raise RegistryError(f"{task}: {self.registry} redirects {why}", reason="bad-redirect")
        return url

    def _once(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None
    ) -> Response:
        parts = urlsplit(url)
        return self._pool(parts.scheme, parts.netloc).request(
            method,
            url,
            headers={"User-Agent": self._config.user_agent, **headers},
            body=body,
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
        )

    def _exchange(
        self, task: Task, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """One request to a token server: retried when busy, never redirected elsewhere."""
        for attempt in range(1, self._config.attempts + 1):
            last = attempt == self._config.attempts
            try:
                response = self._once(method, url, headers, body)
                try:
                    if response.status not in _BUSY or last:
                        return response.status, response.headers, response.read(1 << 20)
                    wait = min(_retry_after(response, self._pause(attempt)), self._config.longest_wait)
                finally:
                    finish(response)
            except BROKEN as error:
                if last or _hopeless(error, attempt):
                    host = urlsplit(url).netloc
                    raise unreachable(Task(f"{task}: asking for a token", host), error) from error
                wait = self._pause(attempt)
            time.sleep(wait)
        raise AssertionError("unreachable")

    def _pool(self, scheme: str, host: str) -> urllib3.PoolManager:
        with self._pool_lock:
            pool = self._pools.get((scheme, host))
            if pool is None:
                pool = self._pools[scheme, host] = self._make_pool(scheme, host)
            return pool

    def _make_pool(self, scheme: str, host: str) -> urllib3.PoolManager:
        options: dict[str, object] = {
            "maxsize": 8,
            "timeout": urllib3.Timeout(connect=self._config.connect_timeout, read=self._config.read_timeout),
        }
        if scheme == "https":
            options["ssl_context"] = self._config.tls(host)
        if proxy := proxy_for(scheme, host):
            if "://" not in proxy:
                proxy = "http://" + proxy
            auth = urlsplit(proxy)
            if auth.username:
                options["proxy_headers"] = urllib3.make_headers(
                    proxy_basic_auth=f"{auth.username}:{auth.password or ''}"
                )
            return urllib3.ProxyManager(proxy, **options)  # type: ignore[arg-type]
        return urllib3.PoolManager(**options)  # type: ignore[arg-type]

    def _pause(self, attempt: int) -> float:
        return self._config.backoff * float(2 ** (attempt - 1)) * random.uniform(0.7, 1.3)


def finish(response: Response) -> None:
    """Give the connection back: for reuse when little is left to read, else closed."""
    try:
        if response.length_remaining is not None and response.length_remaining <= MAX_ERROR:
            response.read(MAX_ERROR + 1)
            response.release_conn()
            return
    except BROKEN:
        pass
    response.close()


def _hopeless(error: BaseException, attempt: int) -> bool:
    """Whether trying again cannot help: certificates stay wrong; nobody listens, even a moment later."""
    cause = root_cause(error)
    if isinstance(cause, ssl.SSLError):
        return True
    return attempt >= 2 and isinstance(cause, ConnectionRefusedError | socket.gaierror)


def _retry_after(response: Response, otherwise: float) -> float:
    header = response.headers.get("Retry-After", "").strip()
    if header.isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except (ValueError, TypeError):
        return otherwise
