"""The client's content for the daemon, as containerd's API has it: images to read, results to write.

A daemon writes only what the client lacks: what is here already is said to be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import grpc
from google.protobuf import empty_pb2

from polyarch.builder.buildkit.protocol import content_pb2 as content
from polyarch.builder.buildkit.rpc import Handler
from polyarch.builder.buildkit.session import Offer
from polyarch.content.layout import Layout
from polyarch.content.store import Store
from polyarch.errors import NotFoundError, PolyarchError
from polyarch.oci.descriptor import Descriptor

_STORE = "buildkit-attachable-store-id"
_CHUNK = 1 << 20
EXPORT = "export"
IMAGES = "oci:"  # in front of the names of stores that base images are read from


@dataclass
class Contents:
    """Stores by the names the daemon knows them by: ``stores`` to read, ``targets`` to write as well.

    What ``has`` says is known need not come for an export. ``sizes`` are those of blobs that the stores can
    read but not describe. ``received`` is what came, in bytes by digest.
    """

    targets: Mapping[str, Layout]
    stores: Mapping[str, Store]
    has: Callable[[str], bool]
    sizes: dict[str, int] = field(default_factory=dict)
    received: dict[str, int] = field(default_factory=dict)

    def offer(self) -> Offer:
        """The service."""
        methods: dict[str, Handler] = {
            "Info": self._info,
            "Update": self._update,
            "Read": self._read,
            "Status": self._status,
            "Write": self._write,
            "Abort": lambda request, context: empty_pb2.Empty(),
        }
        return Offer(content.DESCRIPTOR.services_by_name["Content"], methods)

    def _store(self, context: grpc.ServicerContext) -> Store:
        name = _named(context)
        store = self.targets.get(name) or self.stores.get(name)
        if store is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no content store {name!r}")
            raise AssertionError  # abort raises
        return store

    def _described(self, store: Store, digest: str, context: grpc.ServicerContext) -> Descriptor:
        try:
            if digest in self.sizes:
                return Descriptor(media_type="", digest=digest, size=self.sizes[digest])
            return store.resolve(digest)
        except PolyarchError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, f"{digest}: not found: {error.summary}")
            raise

    def _info(self, request: content.InfoRequest, context: grpc.ServicerContext) -> content.InfoResponse:
        found = self._described(self._store(context), request.digest, context)
        return content.InfoResponse(info=content.Info(digest=found.digest, size=found.size))

    def _update(
        self, request: content.UpdateRequest, context: grpc.ServicerContext
    ) -> content.UpdateResponse:
        return content.UpdateResponse(info=request.info)  # labels are the daemon's own affair

    def _status(
        self, request: content.StatusRequest, context: grpc.ServicerContext
    ) -> content.StatusResponse:
        context.abort(grpc.StatusCode.NOT_FOUND, f"nothing is being written as {request.ref}")
        raise AssertionError  # abort raises

    def _read(
        self, request: content.ReadContentRequest, context: grpc.ServicerContext
    ) -> Iterator[content.ReadContentResponse]:
        store = self._store(context)
        found = self._described(store, request.digest, context)
        end = found.size if request.size <= 0 else min(found.size, request.offset + request.size)
        position = 0
        try:
            with store.open(found) as stream:
                while position < end and (data := stream.read(_CHUNK)):
                    begin = max(0, request.offset - position)
                    piece = data[begin : end - position]
                    if piece:
                        yield content.ReadContentResponse(offset=position + begin, data=piece)
                    position += len(data)
        except NotFoundError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, error.summary)
        except PolyarchError as error:
            context.abort(grpc.StatusCode.DATA_LOSS, error.summary)

    def _write(
        self, requests: Iterator[content.WriteContentRequest], context: grpc.ServicerContext
    ) -> Iterator[content.WriteContentResponse]:
        name = _named(context)
        layout = self.targets.get(name)
        if layout is None:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, f"nothing can be written to {name!r}")
            return
        first = next(requests, None)
        if first is None:
            return
        known = self.has if name == EXPORT else layout.exists
        if first.expected and known(first.expected):
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"{first.expected}: already exists")
        yield content.WriteContentResponse(action=first.action, total=first.total)
        with layout.writer() as writer:
            position = 0
            for request in requests:
                if request.data:
                    if request.offset != position:
                        context.abort(grpc.StatusCode.OUT_OF_RANGE, "content must be written in one go")
                    writer.write(request.data)
                    position += len(request.data)
                if request.action != content.WriteAction.COMMIT:
                    yield content.WriteContentResponse(action=request.action, offset=position)
                    continue
                digest, size = writer.commit()
                wanted = request.expected or first.expected
                if (wanted and digest != wanted) or (request.total and size != request.total):
                    context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"{wanted}: what came is {digest}")
                self.received[digest] = size
                yield content.WriteContentResponse(action=request.action, offset=size, digest=digest)
                return


def _named(context: grpc.ServicerContext) -> str:
    return str(dict(context.invocation_metadata()).get(_STORE, ""))
