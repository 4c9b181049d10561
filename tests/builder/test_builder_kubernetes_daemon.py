"""A build by a real BuildKit daemon at the end of a simulated cluster's exec."""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("kubernetes")

from polyarch.builder.buildkit.bridge import join
from polyarch.builder.buildkit.engine import Engine, engine_at
from polyarch.builder.buildkit.streams import SocketStream
from polyarch.cli.main import main
from polyarch.content.state import State
from polyarch.image.inspect import inspect
from polyarch.oci.platform import host
from polyarch.registry.client import Client
from tests.builder.simulated_cluster import Cluster

pytestmark = pytest.mark.peers


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    """A socket at which the BuildKit of the peers' Docker engine answers as a daemon of its own would."""
    command = [os.environ["POLYARCH_PEERS"], "run", "printenv", "DOCKER_HOST"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    place = said.stdout.strip()
    if not place.startswith("unix://") or not Path(place.removeprefix("unix://")).is_socket():
        pytest.skip("the peers' Docker engine has no socket here")
    path, engine = tmp_path / "daemon", engine_at(place)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        threading.Thread(target=_serve, args=(listener, engine), daemon=True).start()
        yield path


def _serve(listener: socket.socket, engine: Engine) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        far = engine.upgrade("/grpc", "h2c")
        threading.Thread(target=join, args=(SocketStream(connection), far), daemon=True).start()


def test_a_build_in_a_pod(
    daemon: Path,
    state: State,
    busybox: str,
    registry: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    context = tmp_path / "context"
    context.mkdir()
    (context / "large").write_bytes(os.urandom(3_000_000))
    (context / "Dockerfile").write_text(
        f"FROM {busybox}\nCOPY large /large\nRUN --network=none cat /large /large > /twice\n"
    )
    with Cluster({host().architecture: daemon}) as cluster:
        monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "kubeconfig")))
        assert main(["create", "--use", "--driver", "kubernetes", "--platform", str(host())]) == 0
        tag = f"{registry}/app:1"
        assert main(["build", "-t", tag, "--push", "--platform", str(host()), str(context)]) == 0
        assert "booting node" in capsys.readouterr().err
        assert len(cluster.of("deployments")) == 1
        assert main(["rm"]) == 0
        assert cluster.objects == {}
    with Client() as client:
        repository = client.repository(tag)
        image = inspect(repository, repository.resolve("1"), name=tag)
    assert [str(platform) for platform in image.platforms] == [str(host())]
    assert image.variants[0].layers[-1].size > 5_000_000
