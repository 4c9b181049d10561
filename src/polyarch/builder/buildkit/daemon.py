"""One BuildKit daemon: where it is, how it is reached, and what is asked of it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import parse_qs, urlsplit

import grpc

from polyarch.builder.buildkit import rpc
from polyarch.builder.buildkit.bridge import Bridge
from polyarch.builder.buildkit.engine import Engine, engine_at
from polyarch.builder.buildkit.protocol import control_pb2 as control
from polyarch.builder.buildkit.streams import ProcessStream, Stream, connect_tcp, connect_unix, unreachable
from polyarch.errors import PolyarchError, UsageError
from polyarch.registry.config import is_loopback

_DIAL = ("buildctl", "dial-stdio")
_PROBE_SECONDS = 5.0
_ANSWER_WITHIN = 20.0  # seconds for a daemon to say what it is
_SERVICE = control.DESCRIPTOR.services_by_name["Control"]

Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True)
class _Route:
    """How to get to a daemon: an address gRPC knows, a stream that is dialled, or an engine."""

    place: str
    target: str = ""
    credentials: grpc.ChannelCredentials | None = None
    name: str = ""
    dial: Callable[[], Stream] | None = None
    engine: Engine | None = None
    near: bool = False


class Daemon:
    """A connection to a daemon; nothing is sent before the first call. ``place`` is its address for messages.

    ``endpoint`` is ``tcp://HOST:PORT``, ``unix://PATH``, ``ssh://…`` (a Docker engine), or a place in which
    ``buildctl`` is run: ``docker-container://NAME``, ``podman-container://NAME``,
    ``kube-pod://POD?namespace=…&container=…&context=…``. ``options`` are buildx's driver options cacert,
    cert, key and servername. With ``dial`` it is what that opens.
    """

    def __init__(
        self,
        endpoint: str,
        options: dict[str, str] | None = None,
        *,
        engine: bool = False,
        dial: Callable[[], Stream] | None = None,
    ) -> None:
        if dial is not None:
            self._route = _Route(endpoint, dial=dial)
        else:
            self._route = _route(endpoint, options or {}, engine=engine)
        self.place = self._route.place
        self._bridge: Bridge | None = None
        self._channel = self._open()
        self.control = rpc.Stub(self._channel, _SERVICE)

    def _open(self) -> grpc.Channel:
        route = self._route
        options = list(rpc.UNLIMITED)
        dial = route.dial
        if route.engine is not None:
            dial = lambda: _grpc_of(route.engine)  # noqa: E731  # one expression, used once
        if dial is not None:
            self._bridge = Bridge(dial)
            return grpc.insecure_channel(self._bridge.address, options=[*options, _AUTHORITY])
        if route.credentials is not None:
            if route.name:
                options.append(("grpc.ssl_target_name_override", route.name))
            return grpc.secure_channel(route.target, route.credentials, options=options)
        if route.target.startswith("unix:"):
            options.append(_AUTHORITY)
        return grpc.insecure_channel(route.target, options=options)

    @property
    def near(self) -> bool:
        """Whether it is on this machine."""
        return self._route.near

    @property
    def engine(self) -> Engine | None:
        """The Docker engine the daemon is part of."""
        return self._route.engine

    def open_session(self, headers: Headers) -> Stream:
        """A stream on which this daemon calls what the client offers."""
        if self._route.engine is not None:
            return self._route.engine.upgrade("/session", "h2c", headers)
        return _Tunnel(self.control, [(name.lower(), value) for name, value in headers])

    def ask(self, method: str, request: object) -> object:
        """A short call. PolyarchError where the daemon cannot be reached or refuses."""
        try:
            call = getattr(self.control, method)
            return call(request, timeout=_ANSWER_WITHIN, wait_for_ready=False)
        except grpc.RpcError as error:
            raise self.failure(error) from None

    def failure(self, error: grpc.RpcError) -> PolyarchError:
        """What is to be said of a call that failed."""
        code, details = error.code(), error.details() or ""
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            if self._bridge is not None and self._bridge.failure is not None:
                return self._bridge.failure
            return unreachable(self.place, _shortened(details) or "no answer")
        return PolyarchError(
            f"the builder at {self.place} refused: {_shortened(details) or code.name}",
            reason="builder-refused",
        )

    def close(self) -> None:
        """Break the connection."""
        self._channel.close()
        if self._bridge is not None:
            self._bridge.close()


_AUTHORITY = ("grpc.default_authority", "localhost")


class _Tunnel:
    """A session's stream through the daemon's own API."""

    def __init__(self, stub: rpc.Stub, metadata: Headers) -> None:
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._call = stub.Session(self._messages(), metadata=metadata)

    def _messages(self) -> Iterator[control.BytesMessage]:
        while (data := self._queue.get()) is not None:
            yield control.BytesMessage(data=data)

    def read(self) -> bytes:
        try:
            for message in self._call:
                if message.data:
                    return bytes(message.data)
        except grpc.RpcError as error:
            raise OSError(error.details()) from None
        return b""

    def write(self, data: bytes) -> None:
        self._queue.put(data)

    def end(self) -> None:
        self._queue.put(None)

    def close(self) -> None:
        self._queue.put(None)
        self._call.cancel()


def _route(endpoint: str, options: dict[str, str], *, engine: bool) -> _Route:
    parts = urlsplit(endpoint)
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    place = parts.netloc + parts.path
    if engine or parts.scheme == "ssh":
        found = engine_at(endpoint, options)
        return _Route(found.place, engine=found, near=_near(found.place))
    match parts.scheme:
        case "unix":
            path = Path(place)
            dial: Callable[[], Stream] = lambda: connect_unix(path)  # noqa: E731  # one expression
            if _is_engine(dial):
                return _Route(endpoint, engine=Engine(endpoint, dial), near=True)
            return _Route(endpoint, f"unix:{path}", near=True)
        case "tcp":
            return _tcp(endpoint, options)
        case "docker-container":
            inside = engine_at(query.get("host", ""), options)
            return _Route(endpoint, dial=lambda: inside.run(place, _DIAL), near=_near(inside.place))
        case "podman-container":
            command = ("podman", "exec", "-i", place, *_DIAL)
            return _Route(endpoint, dial=lambda: ProcessStream(command, endpoint), near=True)
        case "kube-pod":
            kubectl = _kubectl(place, query)
            return _Route(endpoint, dial=lambda: ProcessStream(kubectl, endpoint))
    raise UsageError(
        f"{endpoint!r} is no address of a BuildKit daemon",
        hint="it looks like tcp://host:1234, unix:///run/buildkit/buildkitd.sock, docker-container://NAME"
        " or kube-pod://POD?namespace=NAMESPACE",
        reason="invalid-endpoint",
    )


def _tcp(endpoint: str, options: dict[str, str]) -> _Route:
    parts = urlsplit(endpoint)
    host, port = parts.hostname or "", parts.port or 1234
    target = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if any(options.get(key) for key in ("cacert", "cert", "key")):
        credentials = grpc.ssl_channel_credentials(
            _file(options, "cacert"), _file(options, "key"), _file(options, "cert")
        )
        return _Route(endpoint, target, credentials, options.get("servername", ""), near=_near(endpoint))
    dial: Callable[[], Stream] = lambda: connect_tcp(host, port)  # noqa: E731  # one expression
    if _is_engine(dial):
        return _Route(endpoint, engine=Engine(endpoint, dial), near=_near(endpoint))
    return _Route(endpoint, target, near=_near(endpoint))


def _near(place: str) -> bool:
    """Whether an address is one of this machine."""
    parts = urlsplit(place)
    if parts.scheme == "unix":
        return True
    return parts.scheme != "ssh" and is_loopback(parts.hostname or "")


def _file(options: dict[str, str], key: str) -> bytes | None:
    path = options.get(key)
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise PolyarchError(
            f"the driver option {key}={path} cannot be read: {error.strerror}", reason="bad-certificate"
        ) from None


def _kubectl(place: str, query: dict[str, str]) -> tuple[str, ...]:
    """kubectl, or what KUBECTL says, with the user's own configuration."""
    command = shlex.split(os.environ.get("KUBECTL", "kubectl"))
    for key in ("context", "namespace"):
        if value := query.get(key):
            command.append(f"--{key}={value}")
    command += ["exec", "-i"]
    if container := query.get("container"):
        command.append(f"--container={container}")
    if place.startswith("-"):
        raise UsageError(f"{place!r} is no name of a pod", reason="invalid-endpoint")
    return (*command, place, "--", *_DIAL)


def _is_engine(dial: Callable[[], Stream]) -> bool:
    """Whether a Docker engine answers, which speaks HTTP/1.1; a BuildKit daemon does not."""
    stream = dial()
    try:
        connection = getattr(stream, "connection", None)
        if connection is not None:
            connection.settimeout(_PROBE_SECONDS)
        stream.write(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
        answer = stream.read()
        return answer.startswith(b"HTTP/1.1 ")
    except OSError:
        return False
    finally:
        stream.close()


def _grpc_of(engine: Engine | None) -> Stream:
    assert engine is not None
    return engine.upgrade("/grpc", "h2c")


def _shortened(text: str) -> str:
    return text.strip().splitlines()[0][:500] if text.strip() else ""
