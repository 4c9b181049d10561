"""Small things a build may ask its client for: log-ins at registries, secrets, ssh agents."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import grpc

from polyarch.builder.buildkit.protocol import filesync_pb2 as filesync
from polyarch.builder.buildkit.protocol import secrets_pb2 as secret
from polyarch.builder.buildkit.protocol import sshforward_pb2 as sshforward
from polyarch.builder.buildkit.session import Offer
from polyarch.builder.buildkit.streams import Stream, connect_unix
from polyarch.errors import PolyarchError
from polyarch.registry.credentials import Credentials

_AGENT = "buildkit.ssh.id"
_MAX_SECRET = 500 << 10  # bytes, as the daemon has it


def registries(credentials: Credentials) -> Offer:
    """Names and passwords, or tokens, for registries the build reads from or pushes to."""

    def find(
        request: filesync.CredentialsRequest, context: grpc.ServicerContext
    ) -> filesync.CredentialsResponse:
        found = credentials.find(request.host)
        if found is None:
            return filesync.CredentialsResponse()
        if found.identity_token:
            return filesync.CredentialsResponse(secret=found.identity_token)
        return filesync.CredentialsResponse(username=found.username, secret=found.password)

    return Offer(filesync.DESCRIPTOR.services_by_name["Auth"], {"Credentials": find})


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
        context.add_callback(stream.close)
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
    except OSError:
        pass  # the agent has closed, which the daemon learns from the other direction
    finally:
        stream.end()
