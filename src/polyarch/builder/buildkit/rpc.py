"""Calls and their handlers, made from the services that the protocol files describe."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grpc
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

UNLIMITED: tuple[tuple[str, str | int], ...] = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)
HEALTH_CHECK = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}

Handler = Callable[[Any, grpc.ServicerContext], Any]


class Stub:
    """What a service offers, as attributes: ``stub.Solve(request)``, ``stub.Status(request)``."""

    def __init__(self, channel: grpc.Channel, service: ServiceDescriptor) -> None:
        for method in service.methods:
            request, response = _classes(method)
            make = getattr(channel, _kind(method))
            call = make(
                path(method),
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            setattr(self, method.name, call)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


def handlers(service: ServiceDescriptor, offered: Mapping[str, Handler]) -> grpc.GenericRpcHandler:
    """A handler for those methods of ``service`` that are in ``offered``, by name."""
    found = {}
    for method in service.methods:
        if method.name in offered:
            request, response = _classes(method)
            make = getattr(grpc, f"{_kind(method)}_rpc_method_handler")
            found[method.name] = make(
                offered[method.name],
                request_deserializer=request.FromString,
                response_serializer=response.SerializeToString,
            )
    return grpc.method_handlers_generic_handler(service.full_name, found)


class HealthHandler(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpcio brings no types
    """Answers the daemon's question whether the client still lives; ``asked`` is called each time."""

    def __init__(self, asked: Callable[[], None]) -> None:
        self._asked = asked

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != HEALTH_CHECK:
            return None
        return grpc.unary_unary_rpc_method_handler(self._check)

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._asked()
        return _SERVING


def path(method: MethodDescriptor) -> str:
    """What a call of ``method`` is addressed to."""
    return f"/{method.containing_service.full_name}/{method.name}"


def paths(service: ServiceDescriptor, offered: Mapping[str, Handler]) -> Iterator[str]:
    """The addresses of what is offered of a service."""
    return (path(method) for method in service.methods if method.name in offered)


def _classes(method: MethodDescriptor) -> tuple[Any, Any]:
    find = message_factory.GetMessageClass
    return find(method.input_type), find(method.output_type)


def _kind(method: MethodDescriptor) -> str:
    words = {False: "unary", True: "stream"}
    return f"{words[method.client_streaming]}_{words[method.server_streaming]}"
