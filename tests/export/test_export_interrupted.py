"""A push that fails or is killed, against a real registry: the tag names the old image until the very end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from export_workshop import Workshop

from polyarch.errors import PolyarchError
from polyarch.export.output import parse
from polyarch.registry.server.exchange import App, Receive, Scope, Send
from polyarch.registry.server.running import serve_in_thread
from polyarch.testing.faulty_registry import Fault, Faults


@pytest.mark.parametrize(
    "fault",
    [
        Fault(method="POST", path="/blobs/uploads", times=99, status=500),
        Fault(method="PUT|PATCH", path="/blobs/uploads", times=99, status=507),
        Fault(method="PUT", path="/manifests/sha256", times=99, status=500),
        Fault(method="PUT", path="/manifests/1$", times=99, status=403),
        Fault(method="PUT", path="/manifests/sha256", times=99, status=429),
    ],
    ids=lambda fault: f"{fault.method}-{fault.path}-{fault.status}",
)
def test_a_registry_that_refuses_half_way(workshop: Workshop, tmp_path: Path, fault: Fault) -> None:
    faults = Faults()
    with serve_in_thread(tmp_path / "registry", wrap=faults.wrap) as address:
        name = f"{address}/app:1"
        old = workshop.export(workshop.one(), parse("type=registry"), tags=(name,))
        faults.planned.append(Fault(fault.method, fault.path, fault.times, fault.status))
        with pytest.raises(PolyarchError):
            workshop.export(workshop.two(), parse("type=registry"), tags=(name,))
        faults.planned.clear()
        repository = workshop.client.repository(name)
        assert repository.resolve("1").digest == old.digest
        new = workshop.layout.resolve(name)  # nothing is lost
        assert new.digest != old.digest
        workshop.export(workshop.two(), parse("type=registry"), tags=(name,))
        assert repository.resolve("1").digest == new.digest


class Stalling:
    """Lets the first manifest that is pushed wait until the test has seen enough."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()

    def wrap(self, app: App) -> App:
        async def stalling(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] == "http" and scope["method"] == "PUT" and "/manifests/" in scope["path"]:
                self.reached.set()
                while not self.released.is_set():
                    await asyncio.sleep(0.02)
            await app(scope, receive, send)

        return stalling


def test_a_killed_push_leaves_the_old_image_and_can_be_repeated(workshop: Workshop, tmp_path: Path) -> None:
    with serve_in_thread(tmp_path / "registry") as address:
        port = int(address.rpartition(":")[2])
        name = f"{address}/app:1"
        old = workshop.export(workshop.one(), parse("type=registry"), tags=(name,))
    new = workshop.export(workshop.two(), tags=(name,))
    stalling = Stalling()
    start = "from polyarch.cli.entry import run; run()"
    command = [sys.executable, "-c", start, "push", "-q", name]
    environment = {**os.environ, "POLYARCH_ROOT": str(workshop.state.root)}
    with serve_in_thread(tmp_path / "registry", port=port, wrap=stalling.wrap):
        process = subprocess.Popen(command, env=environment, start_new_session=True)
        try:
            assert stalling.reached.wait(60)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        stalling.released.set()
        assert workshop.client.repository(name).resolve("1").digest == old.digest
        subprocess.run(command, env=environment, check=True, capture_output=True)
        assert workshop.client.repository(name).resolve("1").digest == new.digest
