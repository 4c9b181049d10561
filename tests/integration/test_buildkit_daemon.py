"""Builds in a real BuildKit daemon: every way to reach one, what a build lends it, faults, caches."""

from __future__ import annotations

import json
import shlex
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from buildkit_engine import Dockerd, forwarded

from polyarch.builder.buildkit.attachables import Registries
from polyarch.builder.buildkit.daemon import Daemon
from polyarch.builder.buildkit.engine import engine_at
from polyarch.builder.buildkit.facts import Facts
from polyarch.builder.instance import Builder, NodeRecord
from polyarch.builder.node import NodeLostError
from polyarch.builder.report import Prune
from polyarch.content.state import State
from polyarch.errors import CancelledError, PolyarchError, StepError
from polyarch.export.cache_options import parse_from, parse_to
from polyarch.export.output import parse_all
from polyarch.graph.stages import NamedContext
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.pipeline import run
from polyarch.registry.client import Client
from polyarch.registry.server.running import serve_in_thread
from polyarch.request import BuildOutcome, BuildRequest
from polyarch.solver.events import Event, VertexCompleted, VertexLog, VertexStatus, Warning
from polyarch.testing.guarded_registry import Guard

pytestmark = [pytest.mark.network]
CERTIFICATES = Path(__file__).parent.parent / "registry" / "certificates"
PIPE = "import socket,sys,threading,os\ns=socket.create_connection(('127.0.0.1',%d))\n" + (
    "def up():\n"
    "    while (d:=os.read(0,65536)): s.sendall(d)\n"
    "threading.Thread(target=up,daemon=True).start()\n"
    "while (d:=s.recv(65536)): os.write(1,d)\n"
)


class Bench:
    """Builds one context with a builder of one node."""

    def __init__(self, folder: Path, state: State, endpoint: str, driver: str = "remote") -> None:
        self.context = folder / "context"
        self.context.mkdir()
        self.state = state
        self.events: list[Event] = []
        self.request = BuildRequest(context=str(self.context), network="none")
        self.at(endpoint, driver)

    def at(self, endpoint: str, driver: str = "remote", **options: str) -> None:
        """Use the daemon there."""
        node = NodeRecord(name="far", driver=driver, endpoint=endpoint, driver_opts=options)
        self.request = replace(self.request, builder=Builder(name="far", nodes=(node,)))

    def build(self, dockerfile: str, stop: threading.Event | None = None, **changes: object) -> BuildOutcome:
        """Build the text."""
        (self.context / "Dockerfile").write_text(dockerfile)
        self.events.clear()
        request = replace(self.request, **changes)  # type: ignore[arg-type]  # fields of a request
        return run(request, state=self.state, events=self.events.append, cancelled=stop)

    @property
    def output(self) -> str:
        """What the steps of the last build wrote."""
        return b"".join(e.data for e in self.events if isinstance(e, VertexLog)).decode()

    def cached(self, word: str) -> bool:
        """Whether the step whose name has ``word`` was in the cache."""
        found = [e for e in self.events if isinstance(e, VertexCompleted) and word in e.name]
        assert found, [getattr(e, "name", "") for e in self.events]
        return found[-1].cached


@pytest.fixture
def bench(tmp_path: Path, state: State, busybox: str, dockerd: Dockerd) -> Bench:
    """A bench at the session's daemon, with busybox in the local store."""
    return Bench(tmp_path, state, dockerd.endpoint)


@pytest.fixture
def mortal(tmp_path: Path, dockerd: Dockerd) -> Iterator[Dockerd]:
    """A daemon that a test may kill."""
    daemon = Dockerd(dockerd.root, tmp_path / "mortal")
    daemon.start()
    yield daemon
    daemon.stop()


STEP = "FROM base/busybox\nWORKDIR /w\nCOPY . .\nRUN cat given | tee made\n"


def test_every_route_gives_the_same_image(bench: Bench, dockerd: Dockerd, tmp_path: Path) -> None:
    (bench.context / "given").write_text("given\n")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATES / "server.pem")
    server.load_verify_locations(CERTIFICATES / "ca.crt")
    server.verify_mode = ssl.CERT_REQUIRED
    server.set_alpn_protocols(["h2"])
    mutual = {
        "cacert": str(CERTIFICATES / "ca.crt"),
        "cert": str(CERTIFICATES / "client.cert"),
        "key": str(CERTIFICATES / "client.key"),
        "servername": "localhost",
    }
    found = {}
    with ExitStack() as stack:
        plain = stack.enter_context(forwarded(dockerd.socket))
        tls = stack.enter_context(forwarded(dockerd.socket, server))
        engine = stack.enter_context(forwarded(dockerd.socket, upgrade=""))
        pod = tmp_path / "kubectl"
        port = int(plain.rpartition(":")[2])
        pod.write_text(f"#!/bin/sh\nexec {sys.executable} -c {shlex.quote(PIPE % port)}\n")
        pod.chmod(0o755)
        stack.enter_context(pytest.MonkeyPatch.context()).setenv("KUBECTL", str(pod))
        for endpoint, driver, options in (
            (dockerd.endpoint, "remote", {}),
            (dockerd.endpoint, "docker-engine", {}),
            (f"tcp://{plain}", "remote", {}),
            (f"tcp://{tls}", "remote", mutual),
            (f"tcp://{engine}", "remote", {}),
            ("kube-pod://builder-0?namespace=builds", "remote", {}),
        ):
            bench.at(endpoint, driver, **options)
            found[f"{driver} {endpoint} {options}"] = bench.build(STEP).digest
    assert len(set(found.values())) == 1, found


def test_a_certificate_that_is_not_ours_is_refused(bench: Bench, dockerd: Dockerd) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATES / "server.pem")
    server.load_verify_locations(CERTIFICATES / "ca.crt")
    server.verify_mode = ssl.CERT_REQUIRED
    server.set_alpn_protocols(["h2"])
    with forwarded(dockerd.socket, server) as place:
        bench.at(f"tcp://{place}", cacert=str(CERTIFICATES / "ca.crt"), servername="localhost")
        with pytest.raises(NodeLostError):
            bench.build(STEP)


def test_a_container_is_reached_through_its_engine(bench: Bench, dockerd: Dockerd, tmp_path: Path) -> None:
    """buildctl dial-stdio in the container is a program of the same effect here: Debian has no buildctl."""
    (bench.context / "given").write_text("given\n")
    with forwarded(dockerd.socket) as place:
        script = f"#!/bin/sh\nexec nc {place.replace(':', ' ')}\n"
        bench.build(
            f"FROM base/busybox\nCOPY --chmod=755 <<E /bin/buildctl\n{script}E\nCMD sleep 1000\n",
            tags=(Reference.parse("proxy"),),
        )
        engine = engine_at(dockerd.endpoint)
        _load(bench, engine.dial, "proxy", tmp_path)
        made = engine.ask(
            "POST",
            "/containers/create?name=buildkitd",
            {"Image": "proxy:latest", "HostConfig": {"NetworkMode": "host"}},
        )
        try:
            engine.ask("POST", f"/containers/{made['Id']}/start")
            bench.at(f"docker-container://buildkitd?host={dockerd.endpoint}")
            assert bench.build(STEP).platforms
        finally:
            engine.ask("DELETE", f"/containers/{made['Id']}?force=true")


def _load(bench: Bench, dial: object, name: str, folder: Path) -> None:
    """``docker load`` over the engine's API."""
    from polyarch.export.archives import Content, write_docker
    from polyarch.image.locate import local_store, locate
    from polyarch.registry.client import Client

    archive = folder / "image.tar"
    with Client() as client, archive.open("wb") as out:
        found = locate(name, state=bench.state, client=client)
        write_docker(
            local_store(bench.state, client), [Content(found.descriptor, [Reference.parse(name)])], out
        )
    data = archive.read_bytes()
    stream = dial()  # type: ignore[operator]  # an engine's
    lines = ["POST /images/load HTTP/1.1", "Host: docker", "Content-Type: application/x-tar"]
    lines += ["Connection: close", f"Content-Length: {len(data)}", "", ""]
    stream.write("\r\n".join(lines).encode() + data)
    answer = b""
    while more := stream.read():
        answer += more
    stream.close()
    assert b"200 OK" in answer and b"error" not in answer, answer


def test_steps_get_secrets_and_agents_and_keep_none(bench: Bench, tmp_path: Path) -> None:
    agent = tmp_path / "agent"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(agent))
    listener.listen()
    bench.build(
        "FROM base/busybox\n"
        "RUN --mount=type=secret,id=word,env=WORD --mount=type=secret,id=word,target=/run/word,mode=0444 "
        '[ "$WORD" = hush ] && [ "$(cat /run/word)" = hush ] && ls -ln /run/word\n'
        "RUN --mount=type=ssh [ -S $SSH_AUTH_SOCK ] && echo agent\n"
        "RUN [ ! -e /run/word ] && echo gone\n",
        secrets={"word": lambda: b"hush"},
        agents={"default": agent},
    )
    listener.close()
    assert "r--r--r--" in bench.output and "agent" in bench.output and "gone" in bench.output
    with pytest.raises(PolyarchError, match="secret"):
        bench.build("FROM base/busybox\nRUN --mount=type=secret,id=none,required cat /run/secrets/none\n")


def test_a_failed_step_says_where_and_how(bench: Bench) -> None:
    with pytest.raises(StepError) as caught:
        bench.build("FROM base/busybox\nRUN echo before; exit 7\n")
    assert caught.value.process_exit_code == 7
    assert caught.value.platform == "linux/amd64"
    assert caught.value.location is not None and caught.value.location.start == 2
    assert "before" in caught.value.output


def test_what_is_not_allowed_is_refused(bench: Bench) -> None:
    with pytest.raises(PolyarchError, match=r"network.host|not allowed"):
        bench.build("FROM base/busybox\nRUN --network=host true\n")
    bench.build("FROM base/busybox\nRUN --network=host true\n", allow=frozenset({"network.host"}))


def test_a_build_that_is_stopped_stops_the_daemon(bench: Bench) -> None:
    stop = threading.Event()
    threading.Timer(1.5, stop.set).start()
    began = time.monotonic()
    with pytest.raises(CancelledError):
        bench.build("FROM base/busybox\nRUN sleep 1000\n", stop)
    assert time.monotonic() - began < 60  # and not a thousand


def test_a_daemon_that_dies_is_told_of(bench: Bench, mortal: Dockerd) -> None:
    bench.at(mortal.endpoint)
    threading.Timer(1.5, mortal.stop).start()
    with pytest.raises(NodeLostError, match="far"):
        bench.build("FROM base/busybox\nRUN sleep 1000\n")
    with pytest.raises(NodeLostError):  # nobody there any more
        bench.build("FROM base/busybox\nRUN true\n")


def test_caches_go_from_daemon_to_daemon(
    bench: Bench, mortal: Dockerd, registry: str, tmp_path: Path
) -> None:
    (bench.context / "given").write_text("given\n")
    folder = tmp_path / "cache"
    places = [f"type=local,dest={folder},mode=max", f"type=registry,ref={registry}/cache,mode=max"]
    bench.build(STEP, cache_to=parse_to(places))
    assert json.loads((folder / "index.json").read_text())["manifests"]
    for place in (f"type=local,src={folder}", f"type=registry,ref={registry}/cache"):
        bench.at(mortal.endpoint)
        bench.build(STEP, cache_from=parse_from([place]))
        assert "given" not in bench.output, place
        Facts(Daemon(mortal.endpoint)).prune(Prune(everything=True))


def test_a_daemon_pushes_by_itself(bench: Bench, dockerd: Dockerd, registry: str) -> None:
    (bench.context / "given").write_text("given\n")
    name = Reference.parse(f"{registry}/pushed:1")
    outputs = parse_all([], push=True, load=False)
    bench.at(dockerd.endpoint, push="daemon")
    made = bench.build(STEP, tags=(name,), outputs=outputs)
    assert "pushing manifest for" in _did(bench)
    with Client() as client:
        assert client.repository(name).resolve("1").digest == made.digest
    bench.at(dockerd.endpoint)
    assert bench.build(STEP, tags=(name,), outputs=outputs).digest == made.digest
    assert "pushing manifest for" not in _did(bench)  # it is on this machine, which can do that as well


def test_what_a_daemon_cannot_push_the_client_does(bench: Bench, dockerd: Dockerd, registry: str) -> None:
    """The daemon knows no such host; the client has been told that it is this machine."""
    (bench.context / "given").write_text("given\n")
    bench.at(dockerd.endpoint, push="daemon")
    name = Reference.parse(f"{registry.replace('127.0.0.1', 'localhost')}/pushed:1")
    hosts = dockerd.root / "etc/hosts"
    hosts.write_text("127.0.0.2 localhost\n")
    try:
        made = bench.build(STEP, tags=(name,), outputs=parse_all([], push=True, load=False))
    finally:
        hosts.unlink()
    assert any(isinstance(event, Warning) and event.rule == "NodePush" for event in bench.events)
    with Client() as client:
        assert client.repository(name).resolve("1").digest == made.digest


def test_a_daemon_gets_tokens_and_no_passwords(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = Guard("bearer", lifetime=300)
    given: list[str] = []

    def find(self: Registries, request: object, context: object) -> object:
        given.append(str(request))
        return kept(self, request, context)

    kept = Registries._find
    monkeypatch.setattr(Registries, "_find", find)
    with serve_in_thread(tmp_path / "guarded", wrap=guard.wrap) as host:
        text = json.dumps({"auths": {host: {"username": guard.username, "password": guard.password}}})
        (tmp_path / "config.json").write_text(text)
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        name = Reference.parse(f"{host}/team/base:1")
        bench.build("FROM base/busybox\nCMD x\n", tags=(name,), outputs=parse_all([], push=True, load=False))
        bench.build(f"FROM {name}\nRUN echo made > /made\n", pull=True)
    assert guard.issued and not given


def _did(bench: Bench) -> str:
    return " ".join(event.id for event in bench.events if isinstance(event, VertexStatus))


def test_what_has_not_changed_is_not_done_again(bench: Bench) -> None:
    (bench.context / "given").write_text("one\n")
    first = bench.build(STEP)
    assert bench.build(STEP).digest == first.digest
    assert bench.cached("RUN cat")
    (bench.context / "given").write_text("two\n")
    assert bench.build(STEP).digest != first.digest
    assert not bench.cached("RUN cat")
    bench.build(STEP, no_cache=True)
    assert not bench.cached("RUN cat")


def test_only_what_is_read_is_sent(bench: Bench) -> None:
    (bench.context / "unread").mkdir()
    (bench.context / "unread/large").write_bytes(bytes(5 << 20))
    (bench.context / "real").mkdir()
    (bench.context / "real/file").write_text("x")
    (bench.context / "link").symlink_to("real")
    bench.build("FROM scratch\nCOPY link/fi* /\n")
    sent = [e.current for e in bench.events if getattr(e, "id", "").startswith("transferring context")]
    assert sent and max(sent) < 10_000


def test_the_daemons_own_frontend(bench: Bench, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "o").write_text("other\n")
    (bench.context / "given").write_text("given\n")
    text = "FROM scratch\nARG WORD\nARG TARGETARCH\nCOPY given /\nCOPY --from=named o /$TARGETARCH-$WORD\n"
    wanted = (Platform.parse("linux/arm64"), Platform.parse("linux/amd64"))
    changes = {
        "platforms": wanted,
        "build_args": {"WORD": "w"},
        "contexts": {"named": NamedContext("named", "local", str(other))},
        "labels": {"a": "b"},
    }
    handed = bench.build(text, frontend="dockerfile.v0", **changes)
    ours = bench.build(text, **changes)
    assert [one.platform for one in handed.platforms] == list(wanted)
    assert [_layers(bench, handed, n) for n in (0, 1)] == [_layers(bench, ours, n) for n in (0, 1)]


def _layers(bench: Bench, outcome: BuildOutcome, number: int) -> tuple[str, ...]:
    return tuple(id for id, _ in outcome.summary.platforms[number].layers)


def test_a_daemon_tells_what_it_is_and_what_it_keeps(bench: Bench, dockerd: Dockerd) -> None:
    (bench.context / "given").write_text("given\n")
    bench.build(STEP)
    daemon = Daemon(dockerd.endpoint)
    facts = Facts(daemon)
    report = facts.report()
    assert report.version and report.cpus > 0 and report.memory > 0 and report.cache > 0
    assert report.native[0] == Platform.parse("linux/amd64")
    assert not set(report.native) & set(report.emulated)
    kept = facts.usage()
    assert any(item.description for item in kept)
    removed = facts.prune(Prune(everything=True))
    assert removed.items and sum(item.size for item in facts.usage()) < sum(item.size for item in kept)
    daemon.close()


def test_nobody_there(bench: Bench, tmp_path: Path) -> None:
    for endpoint in (f"unix://{tmp_path}/none.sock", "tcp://127.0.0.1:1", "docker-container://none"):
        bench.at(endpoint)
        with pytest.raises(PolyarchError) as caught:
            bench.build(STEP)
        assert caught.value.reason in ("node-lost", "node-unreachable"), endpoint
        assert caught.value.hint
