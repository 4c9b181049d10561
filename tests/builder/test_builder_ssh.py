"""Building on a machine reached by ssh: the same image, little travels, nothing secret stays."""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import pytest
from ssh_hosts import Host, Hosts

from polyarch import pipeline
from polyarch.builder.instance import DEFAULT, Builder, NodeRecord
from polyarch.builder.ssh.connection import Connection
from polyarch.builder.ssh.lending import Lender
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.errors import StepError
from polyarch.export import cache_options, output
from polyarch.image.inspect import inspect
from polyarch.image.locate import local_store
from polyarch.layer.layer import Privilege
from polyarch.layer.store import LayerStore
from polyarch.oci.platform import Platform
from polyarch.registry.client import Client
from polyarch.request import BuildOutcome, BuildRequest, names_of
from polyarch.solver.events import VertexCompleted, VertexLog

pytestmark = pytest.mark.userns


def one(record: NodeRecord, *more: NodeRecord) -> Builder:
    return Builder(name="b", nodes=(record, *more))


def context(folder: Path, dockerfile: str, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


class Seen:
    """The events of a build."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def __call__(self, event: Any) -> None:
        self.events.append(event)

    def ran(self, word: str) -> int:
        """How many steps with ``word`` in their name did run."""
        return sum(
            isinstance(e, VertexCompleted) and not e.cached and not e.error and word in e.name
            for e in self.events
        )

    @property
    def output(self) -> str:
        return b"".join(e.data for e in self.events if isinstance(e, VertexLog)).decode()


def build(
    folder: Path, builder: Builder, state: State, tag: str = "demo", *, seen: Any = None, **more: Any
) -> BuildOutcome:
    push = more.pop("push", False)
    request = BuildRequest(
        context=str(folder),
        tags=names_of([tag]),
        outputs=output.parse_all((), push=push, load=False),
        builder=builder,
        **more,
    )
    return pipeline.run(request, state=state, events=seen or Seen(), cancelled=Event())


class _NoPrivilege:
    def call(self, function: str, *arguments: object, files: Any = ()) -> object:
        raise AssertionError("nothing needs privilege here")

    open = call  # type: ignore[assignment]


def content(state: State, name: str) -> tuple[object, list[Any]]:
    """An image's configuration but for its times, and its files but for theirs."""
    with Client() as client:
        store = local_store(state, client)
        image = inspect(store, store.resolve(name), name=name)
        variant = image.variants[0]
        privilege: Privilege = _NoPrivilege()  # type: ignore[assignment]
        layers = LayerStore(state, store.layout, privilege)
        files = []
        for descriptor, diff_id in zip(variant.layers, variant.config.rootfs.diff_ids, strict=True):
            toc = layers.image_layer(descriptor, diff_id, store).toc()
            files.append([(e.path, e.type, e.mode, e.uid, e.gid, e.size, e.link) for e in toc.entries])
        config = msgspec.to_builtins(variant.config)
        return (
            config["config"],
            config["architecture"],
            [h.get("created_by") for h in config["history"]],
        ), files


DOCKERFILE = """FROM {base}
WORKDIR /app
COPY . .
RUN cat one two > both && ln -s both link && mkdir -p deep/er && chmod 750 deep
ENV A=b
CMD ["cat", "/app/both"]
"""


def test_the_image_is_the_same_as_an_embedded_build_makes(
    state: State, busybox: str, far: Host, tmp_path: Path
) -> None:
    folder = context(tmp_path / "c", DOCKERFILE.format(base=busybox), one="1\n", two="2\n")
    outcome = build(folder, one(far.record()), state, "far")
    assert [(p.how, p.node) for p in outcome.platforms] == [("native", "far")]
    build(folder, DEFAULT, state, "near")
    assert content(state, "far") == content(state, "near")
    assert far.is_left(), "nothing is left running there"


def test_a_second_build_is_cached_and_a_changed_file_travels_alone(
    state: State, busybox: str, far: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[list[str]] = []
    send = Lender._send_files

    def watched(self: Lender, call: Any, name: str, number: int, encoding: str) -> None:
        original = call.read_all

        def read_all(limit: int) -> bytes:
            data: bytes = original(limit)
            sent.append(msgspec.msgpack.decode(data))
            return data

        call.read_all = read_all
        send(self, call, name, number, encoding)

    monkeypatch.setattr(Lender, "_send_files", watched)
    files = {f"file{number}": f"{number}\n" for number in range(40)}
    folder = context(tmp_path / "c", f"FROM {busybox}\nCOPY file* /files/\nRUN ls /files > /list\n", **files)
    build(folder, one(far.record()), state)
    assert [len(names) for names in sent] == [40]
    sent.clear()
    seen = Seen()
    build(folder, one(far.record()), state, seen=seen)
    assert sent == [] and seen.ran("RUN") == 0 == seen.ran("COPY")
    (folder / "file7").write_text("another\n")
    build(folder, one(far.record()), state, seen=seen)
    assert sent == [["file7"]] and seen.ran("RUN") == 1


def test_secrets_and_agents_reach_the_step_and_stay_nowhere(
    state: State, busybox: str, far: Host, tmp_path: Path
) -> None:
    agent = tmp_path / "agent"
    started = subprocess.Popen(["ssh-agent", "-D", "-a", str(agent)], stdout=subprocess.DEVNULL)
    try:
        folder = context(
            tmp_path / "c",
            f"FROM {busybox}\nRUN --mount=type=secret,id=word,target=/word --mount=type=ssh "
            'test -S "$SSH_AUTH_SOCK" && test "$(cat /word)" = "open sesame" && echo fits\n',
        )
        seen = Seen()
        secrets = {"word": lambda: b"open sesame"}
        build(folder, one(far.record()), state, seen=seen, secrets=secrets, agents={"default": agent})
        assert "fits" in seen.output
    finally:
        started.kill()
        started.wait()
    for path in far.root.rglob("*"):
        if path.is_file():
            assert b"open sesame" not in path.read_bytes(), path


def test_layers_go_from_the_node_to_the_registry(
    state: State, busybox: str, far: Host, registry: str, tmp_path: Path
) -> None:
    folder = context(tmp_path / "c", f"FROM {busybox}\nRUN head -c 300000 /dev/urandom > /blob\n")
    outcome = build(folder, one(far.record()), state, f"{registry}/demo:1", push=True)
    manifest = outcome.summary.platforms[0].manifest
    with Client() as client:
        repository = client.repository(f"{registry}/demo")
        assert repository.resolve("1").digest == outcome.digest
        layers = inspect(repository, manifest, name="demo").variants[0].layers
    assert layers[-1].size > 300_000
    assert not Layout(state.content).exists(layers[-1].digest), "it did not pass through the client"
    store = local_store(state, Client())
    with store.open(layers[-1]) as stream:
        assert len(stream.read()) > 0, "the local image knows where its layer is"


def test_through_the_client_where_the_node_does_not_reach_the_registry(
    state: State, busybox: str, far: Host, registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "same_host", False)  # so loopback is somebody else there
    folder = context(tmp_path / "c", f"FROM {busybox}\nCOPY a /a\nRUN cat /a > /b\n", a="x" * 5000)
    outcome = build(folder, one(far.record()), state, f"{registry}/demo:1", push=True)
    with Client() as client:
        assert client.repository(f"{registry}/demo").resolve("1").digest == outcome.digest
    second = context(tmp_path / "d", f"FROM {registry}/demo:1\nRUN cat /a /b > /c\n")
    build(second, one(far.record()), state, "two")


def test_a_failing_step_is_explained_as_here(state: State, busybox: str, far: Host, tmp_path: Path) -> None:
    folder = context(tmp_path / "c", f"FROM {busybox}\nRUN echo so far; exit 7\n")
    with pytest.raises(StepError) as caught:
        build(folder, one(far.record()), state)
    assert caught.value.process_exit_code == 7 and "so far" in caught.value.output
    assert caught.value.location is not None and caught.value.location.start == 2


def test_two_clients_at_once_share_one_run(state: State, busybox: str, far: Host, tmp_path: Path) -> None:
    folder = context(tmp_path / "c", f"FROM {busybox}\nRUN sleep 1; echo only once\n")
    other = State(tmp_path / "other")
    shutil.copytree(state.root, other.root)

    def client(state: State) -> Seen:
        seen = Seen()
        build(folder, one(far.record()), state, seen=seen)
        return seen

    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(client, (state, other)))
    assert sum(seen.ran("RUN") for seen in both) == 1


def test_a_directory_for_the_client_and_files_of_the_base(
    state: State, busybox: str, far: Host, tmp_path: Path
) -> None:
    folder = context(
        tmp_path / "c", f"FROM {busybox}\nCOPY a /a\nRUN echo b > /b; rm -rf /usr/share\n", a="a"
    )
    request = BuildRequest(
        context=str(folder),
        outputs=output.parse_all([f"type=local,dest={tmp_path / 'out'}"], push=False, load=False),
        builder=one(far.record()),
    )
    pipeline.run(request, state=state)
    assert (tmp_path / "out/a").read_text() == "a" and (tmp_path / "out/b").read_text() == "b\n"


def test_several_nodes_in_one_display(state: State, busybox: str, hosts: Hosts, tmp_path: Path) -> None:
    near, far = hosts.add("near"), hosts.add("far")
    folder = context(tmp_path / "c", f"FROM {busybox}\nRUN uname -m > /machine\nARG BUILDPLATFORM\n")
    seen = Seen()
    wanted = (Platform.parse("linux/amd64"), Platform.parse("linux/arm64"))
    builder = one(near.record("linux/amd64"), far.record("linux/arm64"))
    outcome = build(folder, builder, state, seen=seen, platforms=wanted)
    assert [(str(p.platform), p.node, p.reason) for p in outcome.platforms] == [
        ("linux/amd64", "near", "declared"),
        ("linux/arm64", "far", "declared"),
    ]
    names = {e.name for e in seen.events if isinstance(e, VertexCompleted) and "RUN" in e.name}
    assert {name.split("] ")[0] for name in names} == {"[near", "[far"}


@pytest.mark.parametrize("kind", ["registry", "local"])
def test_caches_go_by_a_node_both_ways(
    state: State, busybox: str, hosts: Hosts, registry: str, tmp_path: Path, kind: str
) -> None:
    folder = context(
        tmp_path / "c",
        f"FROM {busybox} AS made\nCOPY a /a\nRUN cat /a > /b; echo made\n"
        f"FROM {busybox}\nCOPY --from=made /b /b\nRUN cat /b > /c\n",
        a="a",
    )
    place = f"ref={registry}/cache:1" if kind == "registry" else f"dest={tmp_path}/cache"
    source = f"ref={registry}/cache:1" if kind == "registry" else f"src={tmp_path}/cache"
    written = cache_options.parse_to([f"type={kind},{place},mode=max"])
    other = State(tmp_path / "other")
    shutil.copytree(state.root, other.root)
    first = build(folder, one(hosts.add("first").record()), state, cache_to=written)
    seen = Seen()
    caches = cache_options.parse_from([f"type={kind},{source}"])
    second = build(folder, one(hosts.add("second").record()), other, seen=seen, cache_from=caches)
    assert seen.ran("RUN") == 0 == seen.ran("COPY")
    assert first.digest == second.digest


def test_files_of_a_layer_that_came_home_as_a_blob(
    state: State, busybox: str, far: Host, tmp_path: Path
) -> None:
    folder = context(tmp_path / "c", f"FROM {busybox}\nRUN echo b > /b\n")
    build(folder, one(far.record()), state)  # brings the blobs home
    request = BuildRequest(
        context=str(folder),
        outputs=output.parse_all([f"type=tar,dest={tmp_path / 'out.tar'}"], push=False, load=False),
        builder=one(far.record()),
    )
    pipeline.run(request, state=state)
    with tarfile.open(tmp_path / "out.tar") as archive:
        member = archive.extractfile("b")
        assert member is not None and member.read() == b"b\n"
