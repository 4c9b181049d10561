"""Small things a build may ask its client for: log-ins at registries, secrets, ssh agents."""

from __future__ import annotations

import hmac
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import grpc

from polyarch.builder.buildkit.protocol import filesync_pb2 as filesync
from polyarch.builder.buildkit.protocol import secrets_pb2 as secret
from polyarch.builder.buildkit.protocol import sshforward_pb2 as sshforward
from polyarch.builder.buildkit.rpc import Handler
from polyarch.builder.buildkit.session import Offer
from polyarch.builder.buildkit.streams import Stream, connect_unix
from polyarch.errors import PolyarchError
from polyarch.registry import ed25519
from polyarch.registry.client import Client

_TOKEN_SECONDS = 60  # what a token lasts at least (token specification)
_AGENT = "buildkit.ssh.id"
_MAX_SECRET = 500 << 10  # bytes, as the daemon has it


class Registries:
    """The client's log-ins at registries. Passwords stay here where a registry takes tokens: the daemon gets
    those. That two sessions have the same log-in it can tell by a key made of it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._seed = os.urandom(32)  # the key proves something while both live, and to nobody later

    def offer(self) -> Offer:
        """The service."""
        methods: dict[str, Handler] = {
            "Credentials": self._find,
            "FetchToken": self._token,
            "GetTokenAuthority": self._authority,
            "VerifyTokenAuthority": self._verify,
        }
        return Offer(filesync.DESCRIPTOR.services_by_name["Auth"], methods)

    def _find(
        self, request: filesync.CredentialsRequest, context: grpc.ServicerContext
    ) -> filesync.CredentialsResponse:
        found = self._client.credentials.find(registry_of(request.host))
        if found is None:
            return filesync.CredentialsResponse()
        if found.identity_token:
            return filesync.CredentialsResponse(secret=found.identity_token)
        return filesync.CredentialsResponse(username=found.username, secret=found.password)

    def _token(
        self, request: filesync.FetchTokenRequest, context: grpc.ServicerContext
    ) -> filesync.FetchTokenResponse:
        try:
            token = self._client.token(registry_of(request.host), list(request.scopes))
        except PolyarchError as error:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, error.summary)
            raise
        return filesync.FetchTokenResponse(token=token, expires_in=_TOKEN_SECONDS, issued_at=int(time.time()))

    def _authority(
        self, request: filesync.GetTokenAuthorityRequest, context: grpc.ServicerContext
    ) -> filesync.GetTokenAuthorityResponse:
        key = self._key(request.host, request.salt, context)
        return filesync.GetTokenAuthorityResponse(public_key=ed25519.public_key(key))

    def _verify(
        self, request: filesync.VerifyTokenAuthorityRequest, context: grpc.ServicerContext
    ) -> filesync.VerifyTokenAuthorityResponse:
        key = self._key(request.host, request.salt, context)
        signed = ed25519.sign(key, request.payload) + request.payload
        return filesync.VerifyTokenAuthorityResponse(signed=signed)

    def _key(self, host: str, salt: bytes, context: grpc.ServicerContext) -> bytes:
        """The seed of the key that stands for a log-in; there is none where nobody is logged in."""
        found = self._client.credentials.find(registry_of(host))
        secret = (found.password or found.identity_token) if found is not None else ""
        if not secret:
            context.abort(grpc.StatusCode.UNAVAILABLE, "there is no log-in at this registry")
        return hmac.digest(salt, self._seed + secret.encode(), "sha256")


def registry_of(host: str) -> str:
    """The registry behind a host; Docker Hub has another name in log-ins."""
    return "docker.io" if host in ("registry-1.docker.io", "index.docker.io") else host


def secrets(known: Mapping[str, Callable[[], bytes]]) -> Offer:
    """Secrets by id, read when they are asked for."""

    def get(request: secret.GetSecretRequest, context: grpc.ServicerContext) -> secret.GetSecretResponse:
        read = known.get(request.id)
        if read is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"secret {request.id}: not found")
            raise AssertionError  # abort raises
        try:
            data = read()
        except (PolyarchError, OSError):
            context.abort(grpc.StatusCode.INTERNAL, f"secret {request.id} cannot be read")
            raise
        if len(data) > _MAX_SECRET:
            context.abort(
                grpc.StatusCode.INVALID_ARGUMENT, f"secret {request.id} is larger than {_MAX_SECRET} bytes"
            )
        return secret.GetSecretResponse(data=data)

    return Offer(secret.DESCRIPTOR.services_by_name["Secrets"], {"GetSecret": get})


def agents(known: Mapping[str, Path]) -> Offer:
    """ssh agents by id, connected to when a step does."""

    def check(
        request: sshforward.CheckAgentRequest, context: grpc.ServicerContext
    ) -> sshforward.CheckAgentResponse:
        if (request.id or "default") not in known:
            context.abort(grpc.StatusCode.NOT_FOUND, f"unset ssh forward key {request.id or 'default'}")
        return sshforward.CheckAgentResponse()

    def forward(
        requests: Iterator[sshforward.BytesMessage], context: grpc.ServicerContext
    ) -> Iterator[sshforward.BytesMessage]:
        metadata = dict(context.invocation_metadata())
        socket = known.get(str(metadata.get(_AGENT) or "default"))
        if socket is None:
            context.abort(grpc.StatusCode.NOT_FOUND, "there is no such ssh agent")
            return
        stream = connect_unix(socket)
        if not context.add_callback(stream.close):
            stream.close()  # it has ended already
            return
        threading.Thread(target=_feed, args=(requests, stream), daemon=True).start()
        try:
            while data := stream.read():
                yield sshforward.BytesMessage(data=data)
        except OSError:
            return  # the agent or the daemon has closed

    service = sshforward.DESCRIPTOR.services_by_name["SSH"]
    return Offer(service, {"CheckAgent": check, "ForwardAgent": forward})


def _feed(requests: Iterator[sshforward.BytesMessage], stream: Stream) -> None:
    try:
        for message in requests:
            stream.write(message.data)
    except (OSError, grpc.RpcError):
        pass  # the agent or the daemon has closed, which the other direction learns as well
    finally:
        stream.end()
