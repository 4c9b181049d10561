"""A daemon that speaks BuildKit's protocols and builds nothing: for faults, and where no real one can run.

Its Solve reads every directory of the definition through the session, and answers with an image whose only
layer holds the files it was given. It can be told to fail, to be slow, and to vanish.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any

import grpc

from polyarch.builder.buildkit import rpc
from polyarch.builder.buildkit.bridge import Bridge
from polyarch.builder.buildkit.protocol import content_pb2 as content
from polyarch.builder.buildkit.protocol import control_pb2 as control
from polyarch.builder.buildkit.protocol import filesync_pb2 as filesync
from polyarch.builder.buildkit.protocol import fsutil_pb2 as fsutil
from polyarch.builder.buildkit.protocol import llb_pb2 as llb
from polyarch.builder.buildkit.protocol import worker_pb2 as worker
from polyarch.builder.buildkit.session import Threads
from polyarch.oci import media_types

Packet = fsutil.Packet
KIND = fsutil.Packet.PacketType


@dataclass
class FakeDaemon:
    """``fails`` is what a Solve answers in place of a result; ``waits`` is what it waits for first. ``files``
    are those that came, by directory; ``requests`` what was asked to be solved."""

    fails: tuple[grpc.StatusCode, str] | None = None
    waits: threading.Event | None = None
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    stats: dict[str, fsutil.Stat] = field(default_factory=dict)
    requests: list[control.SolveRequest] = field(default_factory=list)
    methods: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)
    sessions: dict[str, grpc.Channel] = field(default_factory=dict)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def start(self) -> int:
        """Listen; the port."""
        self.server = grpc.server(Threads(), options=rpc.UNLIMITED)
        offered: dict[str, rpc.Handler] = {
            "Session": self._session,
            "Solve": self._solve,
            "Status": self._status,
            "ListWorkers": self._workers,
        }
        service = control.DESCRIPTOR.services_by_name["Control"]
        self.server.add_generic_rpc_handlers((rpc.handlers(service, offered),))
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        return int(port)

    def stop(self) -> None:
        """Vanish."""
        self.server.stop(0)

    # --- calls ----------------------------------------------------------------------------------------------

    def _workers(self, request: object, context: object) -> control.ListWorkersResponse:
        platforms = [llb.Platform(os="linux", architecture=name) for name in ("amd64", "386", "arm64")]
        version = worker.BuildkitVersion(version="v0.0.1-fake")
        return control.ListWorkersResponse(record=[worker.WorkerRecord(platforms=platforms, version=version)])

    def _session(
        self, requests: Iterator[control.BytesMessage], context: grpc.ServicerContext
    ) -> Iterator[control.BytesMessage]:
        metadata = [(str(key), str(value)) for key, value in context.invocation_metadata()]
        self.methods = [value for key, value in metadata if key.endswith("grpc-method")]
        tunnel = _Tunnel(requests)
        bridge = Bridge(lambda: tunnel)
        id = next(value for key, value in metadata if key.endswith("-uuid"))
        authority = ("grpc.default_authority", "localhost")
        self.sessions[id] = grpc.insecure_channel(bridge.address, options=[*rpc.UNLIMITED, authority])
        if not context.add_callback(tunnel.close):
            tunnel.close()
        while (data := tunnel.outgoing.get()) is not None:
            yield control.BytesMessage(data=data)
        bridge.close()

    def _status(
        self, request: control.StatusRequest, context: grpc.ServicerContext
    ) -> Iterator[control.StatusResponse]:
        vertex = control.Vertex(digest="sha256:" + "0" * 64, name="[internal] fake")
        vertex.started.GetCurrentTime()
        yield control.StatusResponse(vertexes=[vertex])
        vertex.completed.GetCurrentTime()
        yield control.StatusResponse(vertexes=[vertex])

    def _solve(self, request: control.SolveRequest, context: grpc.ServicerContext) -> control.SolveResponse:
        self.requests.append(request)
        context.add_callback(self.cancelled.set)
        if self.waits is not None:
            self.waits.wait(60)
        if self.fails is not None:
            context.abort(*self.fails)
        while request.session not in self.sessions and context.is_active():
            time.sleep(0.01)  # as BuildKit does: the session may come later than who names it
        channel = self.sessions[request.session]
        for data in request.definition.operations:
            op = llb.Op.FromString(data)
            if op.source.identifier.startswith("local://"):
                self._fetch(channel, op.source.identifier.removeprefix("local://"))
        root = self._export(channel)
        answer = {"containerimage.descriptor": base64.b64encode(json.dumps(root).encode()).decode()}
        return control.SolveResponse(exporter_response=answer)

    # --- the client's services ------------------------------------------------------------------------------

    def _fetch(self, channel: grpc.Channel, name: str) -> None:
        stub = rpc.Stub(channel, filesync.DESCRIPTOR.services_by_name["FileSync"])
        wanted: SimpleQueue[Packet | None] = SimpleQueue()
        answers = stub.DiffCopy(iter(wanted.get, None), metadata=[("dir-name", name)])
        paths: list[str] = []
        found: dict[str, bytes] = {}
        missing = 0
        for packet in answers:
            match packet.type:
                case KIND.PACKET_STAT if packet.stat.path:
                    self.stats[packet.stat.path] = packet.stat
                    if not packet.stat.mode >> 20 and not packet.stat.linkname:
                        wanted.put(Packet(type=KIND.PACKET_REQ, id=len(paths)))
                        missing += 1
                        found[packet.stat.path] = b""
                    paths.append(packet.stat.path)
                case KIND.PACKET_STAT if not missing:
                    wanted.put(Packet(type=KIND.PACKET_FIN))
                case KIND.PACKET_DATA:
                    found[paths[packet.id]] += packet.data
                    missing -= not packet.data
                    if not missing:
                        wanted.put(Packet(type=KIND.PACKET_FIN))
                case KIND.PACKET_FIN:
                    wanted.put(None)
                case KIND.PACKET_ERR:
                    raise ValueError(packet.data.decode())
        self.files[name] = found

    def _export(self, channel: grpc.Channel) -> dict[str, Any]:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path, data in sorted((p, d) for one in self.files.values() for p, d in one.items()):
                info = tarfile.TarInfo(path)
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
        tar = buffer.getvalue()
        layer = self._write(
            channel, gzip.compress(tar, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip"
        )
        diff_ids = ["sha256:" + hashlib.sha256(tar).hexdigest()]
        config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        named = self._write(channel, json.dumps(config).encode(), media_types.OCI_CONFIG)
        manifest = {"schemaVersion": 2, "config": named, "layers": [layer]}
        kind = media_types.OCI_MANIFEST
        return self._write(channel, json.dumps(manifest | {"mediaType": kind}).encode(), kind)

    def _write(self, channel: grpc.Channel, data: bytes, kind: str) -> dict[str, Any]:
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        stub = rpc.Stub(channel, content.DESCRIPTOR.services_by_name["Content"])
        action = content.WriteAction
        steps = [
            content.WriteContentRequest(action=action.STAT, ref=digest, total=len(data), expected=digest),
            content.WriteContentRequest(action=action.WRITE, data=data),
            content.WriteContentRequest(action=action.COMMIT, offset=len(data), expected=digest),
        ]
        metadata = [("buildkit-attachable-store-id", "export")]
        try:
            list(stub.Write(iter(steps), metadata=metadata))
            self.sent[digest] = len(data)
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
        return {"mediaType": kind, "digest": digest, "size": len(data)}


class _Tunnel:
    """The daemon's end of a session."""

    def __init__(self, requests: Iterator[control.BytesMessage]) -> None:
        self._requests = requests
        self.outgoing: SimpleQueue[bytes | None] = SimpleQueue()

    def read(self) -> bytes:
        try:
            return next((bytes(message.data) for message in self._requests if message.data), b"")
        except grpc.RpcError as error:
            raise OSError("the client has gone") from error

    def write(self, data: bytes) -> None:
        self.outgoing.put(data)

    def end(self) -> None:
        self.outgoing.put(None)

    def close(self) -> None:
        self.outgoing.put(None)
