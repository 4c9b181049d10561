"""What a BuildKit daemon is told and asked, against one that builds nothing (``fake_buildkit``)."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from fake_buildkit import FakeDaemon

from polyarch.builder.buildkit.daemon import Daemon
from polyarch.builder.buildkit.engine import engine_at
from polyarch.builder.buildkit.llb import translate
from polyarch.builder.buildkit.llb_exec import Given
from polyarch.builder.buildkit.llb_sources import Sources
from polyarch.builder.buildkit.protocol import llb_pb2 as llb
from polyarch.builder.instance import Builder, NodeRecord
from polyarch.builder.node import NodeLostError
from polyarch.content.state import State
from polyarch.errors import (
    CancelledError,
    NotFoundError,
    PolyarchError,
    StepError,
    UnsupportedError,
    UsageError,
)
from polyarch.graph.vertex import (
    AnyOp,
    CopyAction,
    ExecMount,
    ExecOp,
    FileOp,
    GitOp,
    Graph,
    HttpOp,
    ImageOp,
    InlineOp,
    LocalOp,
    MakeDirectoryAction,
    MergeOp,
    Vertex,
    VertexMeta,
)
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.media_types import OCI_LAYER_GZIP
from polyarch.oci.platform import Platform
from polyarch.pipeline import run
from polyarch.request import BuildOutcome, BuildRequest
from polyarch.solver.events import Event

ARM = Platform.parse("linux/arm64")
LAYER = Descriptor(media_type=OCI_LAYER_GZIP, digest="sha256:" + "1" * 64, size=1)
BASE = ImageOp(
    reference="base", origin="r.example/base", manifest="sha256:" + "2" * 64, layers=(LAYER,), diff_ids=("d",)
)


def graph_of(op: AnyOp, *inputs: AnyOp) -> tuple[Graph, str]:
    """A graph of one operation on sources."""
    graph = Graph()
    sources = tuple(graph.add(Vertex(one), VertexMeta(name=f"source {n}")) for n, one in enumerate(inputs))
    return graph, graph.add(Vertex(op, sources), VertexMeta(name="the step", ignore_cache=True)).digest


def written(op: AnyOp, *inputs: AnyOp, given: Given = Given()) -> list[llb.Op]:  # noqa: B008  # a frozen value
    """The operations of the definition, the step itself next to last."""
    graph, digest = graph_of(op, *inputs)
    definition = translate(graph, [digest], Sources(), given).definitions[digest]
    return [llb.Op.FromString(data) for data in definition.operations]


def test_a_step_says_everything_a_run_can() -> None:
    mounts = (
        ExecMount(type="bind", target="/src", input=1, source="/sub"),
        ExecMount(type="bind", target="/rw", input=1, source="/", read_only=False),
        ExecMount(type="cache", target="/c", id="c", sharing="locked", read_only=False, mode=0o700, uid=5),
        ExecMount(type="cache", target="/any", id="any/c", sharing="private", read_only=False),
        ExecMount(type="tmpfs", target="/t", size=7, read_only=False),
        ExecMount(type="secret", target="/s", id="s", env="S", required=True, mode=0o440, gid=3),
        ExecMount(type="ssh", target="", id="default"),
    )
    op = ExecOp(
        arguments=("a", "b"),
        environment=("A=1",),
        directory="/w",
        platform=ARM,
        user="me",
        mounts=mounts,
        network="none",
        security="insecure",
        hosts=(("h", "1.2.3.4"),),
        hostname="box",
        shm_size=9,
        limits=(("nofile", 1, 2),),
    )
    given = Given(("http_proxy=http://p", "MINE=x"), frozenset({"default"}))
    *_, step, last = written(op, BASE, LocalOp(name="context"), given=given)
    assert last.inputs[0].index == 0 and not last.WhichOneof("op")
    run, meta = step.exec, step.exec.meta
    assert (step.platform.os, step.platform.architecture) == ("linux", "arm64")
    assert (list(meta.args), meta.cwd, meta.user, meta.hostname) == (["a", "b"], "/w", "me", "box")
    assert list(meta.env) == ["A=1", "SSH_AUTH_SOCK=/run/buildkit/ssh_agent.0"]
    assert meta.proxy_env.http_proxy == "http://p"
    assert (meta.extra_hosts[0].ip, meta.ulimit[0].hard) == ("1.2.3.4", 2)
    assert (run.network, run.security) == (llb.NetMode.NONE, llb.SecurityMode.INSECURE)
    assert (run.secret_env[0].name, run.secret_env[0].optional) == ("S", False)
    found = {mount.dest: mount for mount in run.mounts}
    assert found["/"].output == 0 and all(m.output == -1 for d, m in found.items() if d != "/")
    assert (found["/src"].selector, found["/src"].readonly, found["/rw"].selector) == ("/sub", True, "")
    assert found["/src"].input == found["/rw"].input
    assert (found["/c"].cache.id, found["/c"].cache.sharing) == ("linux/arm64/c", llb.CacheSharing.LOCKED)
    assert found["/c"].selector == "/cache" and found["/c"].input >= 0
    assert (found["/any"].cache.id, found["/any"].input) == ("any/c", -1)
    assert (found["/t"].tmpfs.size, found["/dev/shm"].tmpfs.size) == (7, 9)
    assert (found["/s"].secret.mode, found["/s"].secret.gid, found["/s"].secret.optional) == (0o440, 3, False)
    assert found["/run/buildkit/ssh_agent.0"].ssh.optional


def test_files_say_everything_a_copy_can() -> None:
    actions = (
        MakeDirectoryAction(path="/w", owner="me:us", mode=0o700),
        CopyAction(
            input=1, source="/a*", destination="/d/", chown="7", chmod="u+x", wildcards=True, exclude=("x",)
        ),
        CopyAction(
            input=1, source="/", destination="/e", chmod="0640", include=("p/**",), unpack=True, follow=True
        ),
    )
    *_, step, _ = written(FileOp(actions=actions, epoch=5), BASE, LocalOp(name="context"))
    made, first, second = step.file.actions
    assert (made.input, made.output, made.mkdir.mode, made.mkdir.timestamp) == (0, -1, 0o700, 5 * 10**9)
    assert made.mkdir.owner.user.by_name.name == "me" and made.mkdir.owner.group.by_name.input == 0
    assert (first.input, first.secondary_input, first.output) == (2, 1, -1)
    assert (first.copy.owner.user.by_id, first.copy.owner.group.by_id) == (7, 7)
    assert (first.copy.mode, first.copy.mode_symbols) == (-1, "u+x")
    assert first.copy.allow_wildcard and list(first.copy.exclude_patterns) == ["x"]
    assert (second.input, second.output, second.copy.mode) == (3, 0, 0o640)
    assert second.copy.attempt_unpack and second.copy.follow_symlink and not second.copy.allow_wildcard
    assert list(second.copy.include_patterns) == ["p/**"]


def test_sources_say_where_things_are() -> None:
    def source(op: AnyOp) -> llb.SourceOp:
        copy = FileOp(actions=(CopyAction(input=0, source="/", destination="/"),), detached=True)
        return written(copy, op)[0].source

    assert source(BASE).identifier == f"docker-image://r.example/base@{BASE.manifest}"
    import msgspec

    local = source(msgspec.structs.replace(BASE, origin="local"))
    assert local.identifier.startswith("oci-layout://") and local.attrs["oci.store"] == "polyarch"
    assert source(LocalOp(name="context")).identifier == "local://context"
    assert source(LocalOp(name="a/b:c")).identifier.startswith("local://context-")
    web = source(HttpOp(url="https://e.example/f.tgz", checksum="sha256:" + "3" * 64))
    assert (web.identifier, web.attrs["http.filename"]) == ("https://e.example/f.tgz", "f.tgz")
    assert web.attrs["http.checksum"] == "sha256:" + "3" * 64
    git = source(GitOp(url="git@h.example:a/b.git#v1:sub", keep_git_dir=True))
    assert git.identifier == "git://h.example/a/b.git#v1:sub"
    assert (git.attrs["git.fullurl"], git.attrs["git.keepgitdir"]) == ("git@h.example:a/b.git", "true")
    with pytest.raises(UnsupportedError, match="submodules"):
        source(GitOp(url="https://h.example/a.git?submodules=false"))


def test_what_is_empty_has_no_operation() -> None:
    graph = Graph()
    nothing = graph.add(Vertex(FileOp(actions=(), detached=True)), VertexMeta(name="scratch"))
    file = graph.add(Vertex(InlineOp(name="f", content="x")), VertexMeta(name="f"))
    copied = graph.add(
        Vertex(FileOp(actions=(CopyAction(input=0, source="/f", destination="/"),), detached=True), (file,)),
        VertexMeta(name="copy"),
    )
    merged = graph.add(Vertex(MergeOp(), (nothing, copied)), VertexMeta(name="merge"))
    found = translate(graph, [nothing.digest, merged.digest], Sources(), Given())
    assert found.empty == {nothing.digest}
    assert set(found.definitions) == {merged.digest}
    assert set(found.names.values()) >= {copied.digest, file.digest}
    metadata = found.definitions[merged.digest].metadata
    assert {meta.description["llb.customname"] for meta in metadata.values() if meta.description} == {
        "f",
        "copy",
    }


# --- against the fake ---------------------------------------------------------------------------------------


class Bench:
    """One context built by a fake daemon."""

    def __init__(self, folder: Path, state: State, daemon: FakeDaemon) -> None:
        self.context = folder / "context"
        self.context.mkdir()
        self.daemon = daemon
        self.state = state
        self.events: list[Event] = []
        node = NodeRecord(name="far", driver="remote", endpoint=f"tcp://127.0.0.1:{daemon.start()}")
        self.request = BuildRequest(context=str(self.context), builder=Builder(name="far", nodes=(node,)))

    def build(self, dockerfile: str, stop: threading.Event | None = None, **changes: object) -> BuildOutcome:
        (self.context / "Dockerfile").write_text(dockerfile)
        request = replace(self.request, **changes)  # type: ignore[arg-type]  # fields of a request
        return run(request, state=self.state, events=self.events.append, cancelled=stop)


@pytest.fixture
def bench(tmp_path: Path, state: State) -> Iterator[Bench]:
    bench = Bench(tmp_path, state, FakeDaemon())
    yield bench
    bench.daemon.stop()


COPY = "FROM scratch\nCOPY some /\n"


def test_only_what_is_copied_goes_there_and_only_what_lacks_comes_back(bench: Bench) -> None:
    some = bench.context / "some"
    some.mkdir()
    (some / "large").write_bytes(os.urandom(1 << 20))
    (some / "run").write_text("x")
    (some / "run").chmod(0o4755)
    (some / "link").symlink_to("run")
    (bench.context / "other").write_text("not asked for")
    first = bench.build(COPY)
    daemon = bench.daemon
    assert set(daemon.stats) == {"some", "some/large", "some/run", "some/link"}
    assert daemon.files["context"]["some/large"] == (some / "large").read_bytes()
    assert daemon.stats["some/run"].mode == 0o755 | 1 << 23
    assert daemon.stats["some/link"].linkname == "run" and daemon.stats["some"].mode >> 31
    assert "/moby.filesync.v1.FileSync/DiffCopy" in daemon.methods
    assert len(daemon.sent) == 3  # layer, config, manifest
    daemon.sent.clear()
    assert bench.build(COPY).digest == first.digest
    assert not daemon.sent


@pytest.mark.parametrize(
    ("code", "words", "kind"),
    [
        (grpc.StatusCode.UNKNOWN, 'process "sh -c x" did not complete successfully: exit code: 3', StepError),
        (grpc.StatusCode.NOT_FOUND, "nothing.example/base: not found", NotFoundError),
        (grpc.StatusCode.UNKNOWN, "network.host is not allowed", PolyarchError),
        (grpc.StatusCode.UNAVAILABLE, "transport is closing", NodeLostError),
        (grpc.StatusCode.CANCELLED, "context canceled", CancelledError),
    ],
)
def test_failures(bench: Bench, code: grpc.StatusCode, words: str, kind: type[PolyarchError]) -> None:
    (bench.context / "some").mkdir()
    bench.daemon.fails = (code, words)
    with pytest.raises(kind) as caught:
        bench.build(COPY)
    assert not isinstance(caught.value, StepError) or caught.value.process_exit_code == 3


def test_stopping_cancels_the_solve(bench: Bench) -> None:
    (bench.context / "some").mkdir()
    bench.daemon.waits = threading.Event()
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(CancelledError):
        bench.build(COPY, stop)
    assert bench.daemon.cancelled.wait(20)
    bench.daemon.waits.set()


def test_a_daemon_that_vanishes(bench: Bench) -> None:
    (bench.context / "some").mkdir()
    bench.daemon.waits = threading.Event()
    threading.Timer(0.5, bench.daemon.stop).start()
    with pytest.raises(NodeLostError, match="far"):
        bench.build(COPY)
    bench.daemon.waits.set()


def test_names_that_are_not_utf8_are_refused(bench: Bench) -> None:
    (bench.context / "some").mkdir()
    Path(os.fsdecode(bytes(bench.context / "some") + b"/\xff")).write_text("x")
    with pytest.raises(PolyarchError):
        bench.build(COPY)


def test_addresses() -> None:
    for wrong in ("", "http://x", "ftp://x", "kube-pod://-x"):
        with pytest.raises(UsageError):
            Daemon(wrong)
    with pytest.raises(UsageError):
        engine_at("ssh://-oProxyCommand=x")
    with pytest.raises(PolyarchError) as caught:
        Daemon("tcp://127.0.0.1:1")
    assert caught.value.reason == "node-unreachable"


def test_something_else_listens_there(tmp_path: Path) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def talk() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"SSH-2.0-nothing\r\n")

    threading.Thread(target=talk, daemon=True).start()
    place = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(PolyarchError):
        engine_at(f"tcp://{place}").ask("GET", "/info")
    with pytest.raises(PolyarchError):
        Daemon(f"tcp://{place}").ask("ListWorkers", None)
    listener.close()
