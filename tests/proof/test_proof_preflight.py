"""What would stop a build is told before anything runs, all of it at once."""

from __future__ import annotations

import base64
import json
import shutil
import time
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest

import polyarch
from polyarch.cli.main import main
from polyarch.content.state import State
from polyarch.errors import PolyarchError, RegistryError, UnsupportedError
from polyarch.executor.emulator import Emulators, Strategy
from polyarch.graph.vertex import ExecOp, Graph, Vertex, VertexMeta
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.proof.preflight import Check, Problem, PushChecks, check_executors, joined
from polyarch.registry.credentials import ConfigFiles, Credential
from polyarch.registry.lifetime import ends_at
from polyarch.solver.cache import MemoryCache
from polyarch.solver.events import VertexStarted, Warning
from polyarch.testing.faulty_registry import Faults, faulty_registry


def context(folder: Path, dockerfile: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    return folder


NEEDS = """FROM {base}
RUN --mount=type=secret,id=token,required=true true
RUN --mount=type=ssh,required=true true
RUN --network=host true
"""


def test_everything_that_is_missing_is_told_at_once(busybox: str, state: State, tmp_path: Path) -> None:
    started = []
    with pytest.raises(PolyarchError) as caught:
        polyarch.build(
            context(tmp_path / "c", NEEDS.format(base=busybox)),
            tags=["127.0.0.1:9/x/y:1"],
            push=True,
            progress=lambda event: started.append(event) if isinstance(event, VertexStarted) else None,
        )
    error = caught.value
    assert error.reason == "preflight" and "4 things" in error.summary
    for text in ("secret token", "ssh agent default", "--network=host", "127.0.0.1:9 refuses connections"):
        assert text in error.detail
    assert error.location is not None and error.location.start == 2
    assert not started


def test_one_problem_is_itself(busybox: str, state: State, tmp_path: Path) -> None:
    dockerfile = f"FROM {busybox}\nRUN --mount=type=secret,id=token,required=true true\n"
    with pytest.raises(PolyarchError) as caught:
        polyarch.build(context(tmp_path / "c", dockerfile))
    assert caught.value.reason == "secret-not-found"
    assert "--secret id=token" in caught.value.hint


@pytest.mark.userns
def test_a_cached_step_needs_nothing(busybox: str, state: State, tmp_path: Path) -> None:
    dockerfile = f"FROM {busybox}\nRUN --mount=type=secret,id=token,required=true true\n"
    folder = context(tmp_path / "c", dockerfile)
    first = polyarch.build(folder, secrets={"token": b"x"})
    assert polyarch.build(folder).digest == first.digest


def step(platform: str) -> tuple[Graph, str]:
    graph = Graph()
    vertex = graph.add(
        Vertex(ExecOp(arguments=("true",), environment=(), directory="/", platform=Platform.parse(platform))),
        VertexMeta(name="RUN true"),
    )
    return graph, vertex.digest


class Counted(Emulators):
    """Emulators that answer without trying, and count."""

    asked = 0
    kind = "emulated"

    def strategy(self, platform: Platform) -> Strategy:
        type(self).asked += 1
        return Strategy(self.kind, "as told", "do something")  # type: ignore[arg-type]


def test_an_emulator_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = step("linux/sparc64")
    verdicts = MemoryCache()
    for _ in range(2):
        (row,) = check_executors(graph, verdicts, Counted(()))
        assert isinstance(row, Check) and row.detail == "emulated as told"
    assert Counted.asked == 1


def test_no_emulator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counted, "kind", "unsupported")
    graph, digest = step("linux/mips64le")
    (problem,) = check_executors(graph, MemoryCache(), Counted(()))
    assert isinstance(problem, Problem)
    assert isinstance(problem.error, UnsupportedError) and problem.error.reason == "no-emulator"
    assert problem.vertices == (digest,)


def test_no_emulator_is_told_before_the_first_step(
    busybox: str, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Emulators, "strategy", lambda self, platform: Strategy("unsupported", "there is none", "get one")
    )
    foreign = [p for p in ("linux/amd64", "linux/arm64") if Platform.parse(p) != polyarch_host()]
    with pytest.raises(UnsupportedError) as caught:
        polyarch.build(context(tmp_path / "c", f"FROM {busybox}\nRUN true\n"), platforms=foreign)
    assert caught.value.reason == "no-emulator" and caught.value.hint == "get one"


def polyarch_host() -> Platform:
    from polyarch.oci.platform import host

    return host()


def test_a_full_disk(busybox: str, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 5000))
    with pytest.raises(PolyarchError, match="disk is full") as caught:
        polyarch.build(context(tmp_path / "c", f"FROM {busybox}\nCOPY Dockerfile /\n"))
    assert caught.value.reason == "no-space"


def test_pushing_that_is_denied_is_told_first(tmp_path: Path) -> None:
    class Asked:
        def __init__(self, name: str) -> None:
            self.name = name

        def check_push(self) -> None:
            if "private" in self.name:
                raise RegistryError("no", status=403, reason="denied")

        def credential(self) -> Credential | None:
            return Credential("me", "secret")

    class Registries:
        def repository(self, reference: Reference) -> Asked:
            return Asked(reference.name)

    names = [Reference.parse(n) for n in ("r.example/a:1", "r.example/a:2", "r.example/private:1")]
    rows = list(PushChecks(Registries(), names).answers())
    assert [row.subject for row in rows] == ["push to r.example/a", "push to r.example/private"]
    assert isinstance(rows[0], Check) and isinstance(rows[1], Problem)
    assert joined([rows[1]]).reason == "denied"


def token(**claims: object) -> str:
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJub25lIn0.{body}.c2ln"


@pytest.mark.parametrize(
    ("credential", "end"),
    [
        (Credential("me", "secret"), None),
        (Credential("me", token(exp=1_900_000_000)), 1_900_000_000),
        (Credential(identity_token=token(exp=1_900_000_000.5)), 1_900_000_000.5),
        (Credential(registry_token=token(sub="x")), None),
        (Credential("AWS", base64.b64encode(b'{"payload": "x", "expiration": 1900000000}').decode()), 19e8),
        (Credential("me", "a.b.c"), None),
        (Credential("me", token(exp=True)), None),
        (Credential("me", token(exp="soon")), None),
    ],
)
def test_how_long_credentials_last(credential: Credential, end: float | None) -> None:
    assert ends_at(credential) == end


def test_a_credential_that_ends_too_soon(
    state: State, registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = context(tmp_path / "c", "FROM scratch\nCOPY Dockerfile /\n")
    name = f"{registry}/team/app:1"
    polyarch.build(folder)  # leaves a record of how long it took
    ends = time.time() + 0.0001
    monkeypatch.setattr(ConfigFiles, "find", lambda self, *names: Credential("me", token(exp=ends)))
    warnings: list[str] = []

    def progress(event: object) -> None:
        if isinstance(event, Warning):
            warnings.append(event.message)

    polyarch.build(folder, tags=[name], push=True, progress=progress)
    assert any("credential lasts 0 seconds more, and the last build took" in text for text in warnings)
    monkeypatch.setattr(ConfigFiles, "find", lambda self, *names: Credential("me", token(exp=ends + 7200)))
    warnings.clear()
    polyarch.build(folder, tags=[name], push=True, progress=progress)
    assert warnings == []


# --- base images --------------------------------------------------------------------------------------------


@pytest.fixture
def counted(busybox: str, state: State, tmp_path: Path) -> Iterator[tuple[str, Faults]]:
    """A registry that counts, with ``base/busybox`` as 1.2, and as 1.3 for amd64 alone."""
    faults = Faults()
    with faulty_registry(tmp_path / "counted", faults) as address:
        polyarch.push(busybox, to=f"{address}/base/busybox:1.2")
        only = ["imagetools", "create", "--platform", "linux/amd64", busybox]
        assert main([*only, "-t", f"{address}/base/busybox:1.3"]) == 0
        shutil.rmtree(state.root)
        faults.requests.clear()
        yield f"{address}/base/busybox", faults


def test_one_manifest_request_for_each_reference(counted: tuple[str, Faults], tmp_path: Path) -> None:
    name, faults = counted
    text = f"FROM {name}:1.2 AS a\nFROM {name}:1.3 AS b\nFROM {name}:1.2\nCOPY --from=a /bin/sh /a\n"
    folder = context(tmp_path / "c", text + f"COPY --from={name}:1.2 /bin/sh /b\n")
    words = ["preflight", str(folder), "--platform", "linux/amd64,linux/arm64"]
    assert main(words) == 0
    assert [(m, p) for m, p, _ in faults.requests if p.endswith(("/1.2", "/1.3"))] == [
        ("GET", "/v2/base/busybox/manifests/1.2")
    ]
    (folder / "Dockerfile").write_text(text + "COPY --from=b /bin/sh /b\n")
    assert main(words) == 1


def test_every_missing_pair_and_what_to_take_instead(
    counted: tuple[str, Faults], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _ = counted
    text = f"FROM {name}:1.3 AS a\nFROM {name}:9.9 AS b\nFROM scratch\nCOPY --from=a / /\nCOPY --from=b / /\n"
    with pytest.raises(PolyarchError) as caught:
        polyarch.build(context(tmp_path / "c", text), platforms=["linux/amd64", "linux/arm64"])
    error = caught.value
    for pair in (":1.3 for linux/arm64", ":9.9 for linux/amd64", ":9.9 for linux/arm64"):
        assert f"{name}{pair}" in error.detail, error.detail
    assert "platforms it has: linux/amd64)" in error.detail
    assert f"closest that has linux/arm64: {name}:1.2" in error.hint
    assert f"closest that has linux/amd64, linux/arm64: {name}:1.2" in error.hint
    assert "polyarch base create" in error.hint
    assert main(["base", "check", f"{name}:1.3", "--platform", "linux/arm64"]) == 1
    assert "closest tag that has linux/arm64: 1.2" in capsys.readouterr().err


def test_asking_leaves_nothing_behind(registry: str, tmp_path: Path) -> None:
    from polyarch.registry.client import Client

    before = sorted(path for path in (tmp_path / "registry").rglob("*") if path.is_file())
    with Client() as client:
        client.repository(f"{registry}/team/app").check_push()
    assert sorted(path for path in (tmp_path / "registry").rglob("*") if path.is_file()) == before


# --- the command --------------------------------------------------------------------------------------------


def test_the_command(
    busybox: str, state: State, tmp_path: Path, registry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = context(tmp_path / "c", f"FROM {busybox}\nCOPY Dockerfile /\n")
    words = ["preflight", str(folder), "-t", f"{registry}/team/app:1", "--push"]
    assert main([*words, "--platform", "linux/amd64,linux/arm64"]) == 0
    shown = capsys.readouterr()
    assert "allowed" in shown.out and "GB free" in shown.out and "linux/amd64, linux/arm64" in shown.out
    assert "the build can run" in shown.err
    assert main([*words, "--platform", "linux/s390x", "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)
    assert [row["state"] for row in rows] == ["error", "ok"]
    assert "no variant for linux/s390x" in rows[0]["detail"]
    with pytest.raises(polyarch.NotFoundError):
        polyarch.inspect(f"{registry}/team/app:1", remote=True)


def test_the_command_tells_what_steps_lack(
    busybox: str, state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = context(tmp_path / "c", NEEDS.format(base=busybox))
    assert main(["preflight", str(folder)]) == 1
    shown = capsys.readouterr()
    assert shown.out.count("error ") == 3 and "3 of these would stop the build" in shown.err
