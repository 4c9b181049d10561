"""One request to solve: sent, followed, stopped when told to, and its failure explained."""

from __future__ import annotations

import re
import threading
import time
import uuid
from threading import Event

import grpc

from polyarch.builder.buildkit.daemon import Daemon
from polyarch.builder.buildkit.progress import Progress
from polyarch.builder.buildkit.protocol import control_pb2 as control
from polyarch.builder.buildkit.session import Session
from polyarch.builder.node import NodeLostError
from polyarch.errors import CancelledError, NotFoundError, PolyarchError, StepError, UnsupportedError
from polyarch.graph.vertex import ExecOp, Graph

_POLL_SECONDS = 0.05
_SILENCE = 25.0  # seconds; the daemon asks every five whether the client lives
_GRACE = 5.0  # seconds for the last news of a solve that has ended
_NO_BRIDGE = "network bridge not found"  # what a Docker engine with "bridge": "none" says of every RUN
_EXIT = re.compile(
    r"process \"(?P<command>.*)\" did not complete successfully: exit code: (?P<code>\d+)", re.S
)


def solve(
    daemon: Daemon,
    session: Session,
    request: control.SolveRequest,
    progress: Progress,
    cancelled: Event,
    *,
    graph: Graph,
    node: str,
) -> dict[str, str]:
    """What the exporter answered. StepError for a step that failed, CancelledError when told to stop,
    NodeLostError when the daemon is gone."""
    request.ref = uuid.uuid4().hex
    request.session = session.id
    call = daemon.control.Solve.future(request)
    status = daemon.control.Status(control.StatusRequest(ref=request.ref))
    follower = threading.Thread(target=progress.follow, args=(status,), daemon=True)
    follower.start()
    started = time.monotonic()
    try:
        while not call.done():
            if cancelled.wait(_POLL_SECONDS):
                call.cancel()
                raise CancelledError("the build was stopped", reason="cancelled")
            quiet = min(session.silence, time.monotonic() - started)
            if quiet > _SILENCE or (session.ended.is_set() and quiet > _GRACE):
                call.cancel()
                raise _lost(node, daemon, "it does not answer any more")
        response = call.result()
    except grpc.RpcError as error:
        follower.join(_GRACE)
        raise _explained(error, daemon, progress, graph, node) from None
    finally:
        if not call.done() or call.code() is not grpc.StatusCode.OK:
            status.cancel()
        follower.join(_GRACE)
    return dict(response.exporter_response)


def _explained(
    error: grpc.RpcError, daemon: Daemon, progress: Progress, graph: Graph, node: str
) -> PolyarchError:
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE and not progress.failed:
        return _lost(node, daemon, details)
    if code is grpc.StatusCode.CANCELLED:
        return CancelledError("the build was stopped", reason="cancelled")
    vertex = graph.vertices.get(progress.failed)
    found = _EXIT.search(details)
    if found is not None:
        platform = str(vertex.op.platform) if vertex is not None and isinstance(vertex.op, ExecOp) else ""
        return StepError(
            found[0].replace(f'"{found["command"]}"', repr(found["command"])),
            process_exit_code=int(found["code"]),
            platform=platform,
            output=progress.output,
        )
    if _NO_BRIDGE in details:
        return UnsupportedError(
            f"the engine at {daemon.place} has no network for steps",
            detail=details,
            hint="its bridge network is turned off: give --network host, or --network none",
            reason="no-network",
        )
    if code is grpc.StatusCode.NOT_FOUND or details.endswith("not found"):
        return NotFoundError(_last(details), detail=details, reason="not-found")
    return PolyarchError(
        _last(details), detail=f"node: {node} ({daemon.place})\n{details}", reason="builder-failed"
    )


def _lost(node: str, daemon: Daemon, why: str) -> NodeLostError:
    return NodeLostError(
        node,
        f"node {node} is lost: the builder at {daemon.place} does not answer",
        detail=why,
        hint="check that the daemon still runs, and build again: what it has done is in its cache",
    )


def _last(details: str) -> str:
    return (details.strip().splitlines() or ["the builder failed"])[0][:1000]
