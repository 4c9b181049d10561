"""Nodes in a cluster: their objects, and their lives in a simulated one, whose TLS, WebSocket and gRPC are
real."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest

grpc = pytest.importorskip("grpc")
pytest.importorskip("kubernetes")

from polyarch.builder import fleet  # noqa: E402  # after the skips
from polyarch.builder.booting import Booting  # noqa: E402
from polyarch.builder.buildkit.protocol import control_pb2 as control  # noqa: E402
from polyarch.builder.buildkit.protocol import llb_pb2, worker_pb2  # noqa: E402
from polyarch.builder.connect import connect  # noqa: E402
from polyarch.builder.create import Wish, create  # noqa: E402
from polyarch.builder.embedded import Surroundings  # noqa: E402
from polyarch.builder.instance import NodeRecord  # noqa: E402
from polyarch.builder.kubernetes import driver, manifest  # noqa: E402
from polyarch.builder.kubernetes.settings import Settings, cluster_name  # noqa: E402
from polyarch.builder.records import Builders  # noqa: E402
from polyarch.builder.report import Prune  # noqa: E402
from polyarch.content.state import State  # noqa: E402
from polyarch.errors import PolyarchError  # noqa: E402
from polyarch.oci.platform import Platform  # noqa: E402
from tests.builder.simulated_cluster import CERTIFICATES, TOKEN, Cluster  # noqa: E402

_SERVICE = "moby.buildkit.v1.Control"


class _Daemon(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc has no types
    """What BuildKit says of itself, with a cache large enough to come in many frames."""

    def __init__(self, architecture: str) -> None:
        self._architecture = architecture

    def service(self, details: Any) -> Any:
        name = details.method.rpartition("/")[2]
        requests = {
            "ListWorkers": control.ListWorkersRequest,
            "Info": control.InfoRequest,
            "DiskUsage": control.DiskUsageRequest,
            "Prune": control.PruneRequest,
        }
        if name not in requests:
            return None
        make = (
            grpc.unary_stream_rpc_method_handler if name == "Prune" else grpc.unary_unary_rpc_method_handler
        )
        return make(
            getattr(self, name),
            request_deserializer=requests[name].FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )

    def ListWorkers(self, request: Any, context: Any) -> Any:
        platforms = [llb_pb2.Platform(architecture=self._architecture, os="linux")]
        record = worker_pb2.WorkerRecord(id="w", platforms=platforms, labels={"of": self._architecture})
        return control.ListWorkersResponse(record=[record])

    def Info(self, request: Any, context: Any) -> Any:
        return control.InfoResponse()

    def DiskUsage(self, request: Any, context: Any) -> Any:
        records = [control.UsageRecord(id=f"r{n}", size=1000, description="x" * 200) for n in range(2000)]
        return control.DiskUsageResponse(record=records)

    def Prune(self, request: Any, context: Any) -> Any:
        yield control.UsageRecord(id="r0", size=1000)


@pytest.fixture(scope="module")
def daemons(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("daemons")
    servers, found = [], {}
    for architecture in ("amd64", "arm64"):
        server = grpc.server(ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers((_Daemon(architecture),))
        found[architecture] = folder / architecture
        server.add_insecure_port(f"unix:{found[architecture]}")
        server.start()
        servers.append(server)
    yield found
    for server in servers:
        server.stop(0).wait()


@pytest.fixture
def cluster(daemons: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(driver, "_PAUSE", 0.02)
    with Cluster(dict(daemons)) as found:
        monkeypatch.setenv("KUBECONFIG", str(found.kubeconfig(tmp_path / "kubeconfig")))
        yield found


def _node(state: State, **more: Any) -> NodeRecord:
    given: dict[str, Any] = {"name": "k", "driver": "kubernetes", "platforms": ("linux/arm64",), **more}
    return create(Builders(state), Wish(**given), {}).nodes[0]


def test_a_nodes_life(cluster: Cluster, state: State) -> None:
    node = _node(state, driver_opts=("replicas=2",))
    said: list[str] = []
    assert fleet.report(node, state).status == "inactive"
    fleet.start(node, state, said.append)
    assert said[0] == "making deployment k0 in builds" and "2 pods" in said[1]
    found = fleet.report(node, state)
    assert found.status == "running" and [str(p) for p in found.native] == ["linux/arm64"]
    assert found.labels == {"of": "arm64", "namespace": "builds", "replicas": "2 of 2 ready"}
    assert cluster.commands[-1] == ["buildctl", "dial-stdio"]
    posts = [line for line in cluster.log if line.startswith("POST")]
    fleet.start(node, state, said.append)  # it is found again, and left as it is
    assert [line for line in cluster.log if line.startswith(("POST", "PUT", "PATCH"))] == posts
    fleet.stop(node)
    assert cluster.of("deployments")["k0"]["spec"]["replicas"] == 0
    assert fleet.report(node, state).status == "stopped"
    fleet.start(node, state, said.append)
    assert said[-2] == "scaling deployment k0 to 2"
    assert fleet.report(node, state).status == "running"
    fleet.remove(node)
    assert cluster.of("deployments") == {} and fleet.report(node, state).status == "inactive"
    fleet.remove(node)
    fleet.stop(node)


def test_what_it_keeps_comes_whole_through_exec(cluster: Cluster, state: State) -> None:
    node = _node(state)
    assert fleet.usage(node, state, ()) == () and fleet.prune(node, state, Prune()).size == 0
    assert cluster.objects == {}, "asking starts nothing"
    fleet.start(node, state, lambda text: None)
    kept = fleet.usage(node, state, ())
    assert len(kept) == 2000 and {len(one.description) for one in kept} == {200}
    assert fleet.prune(node, state, Prune(everything=True)).size == 1000


def test_every_platform_has_its_own_pods(cluster: Cluster, state: State) -> None:
    create(Builders(state), Wish(name="k", driver="kubernetes", platforms=("linux/amd64,linux/arm64",)), {})
    nodes = Builders(state).get("k").nodes
    for node in nodes:
        fleet.start(node, state, lambda text: None)
    pods = {
        name: one["spec"]["template"]["spec"]["nodeSelector"]
        for name, one in cluster.of("deployments").items()
    }
    assert pods == {"k0": {"kubernetes.io/arch": "amd64"}, "k1": {"kubernetes.io/arch": "arm64"}}
    reports = fleet.reports(nodes, state)
    assert [str(one.native[0]) for one in reports] == ["linux/amd64", "linux/arm64"]


def test_a_build_tells_that_it_waits_for_pods(cluster: Cluster, state: State) -> None:
    node = _node(state)
    events: list[object] = []
    home, around = cast(Any, None), Surroundings()
    with Booting("k0", events.append) as booting:
        opened = connect(node, home, around, booting.tell)
    try:
        assert [str(platform) for platform in opened.platforms] == ["linux/arm64"]
    finally:
        opened.close()
    kinds = [type(event).__name__ for event in events]
    assert kinds == ["VertexStarted", "VertexLog", "VertexLog", "VertexCompleted"]
    with Booting("k0", events.append) as booting:  # it runs now, and nothing is told
        connect(node, home, around, booting.tell).close()
    assert len(events) == 4


def test_new_settings_replace_the_deployment_and_its_configuration(
    cluster: Cluster, state: State, tmp_path: Path
) -> None:
    node = _node(state)
    fleet.start(node, state, lambda text: None)
    config = tmp_path / "buildkitd.toml"
    config.write_text("debug = true\n")
    made = create(
        Builders(state), Wish(name="k", node="k0", config=str(config), driver_opts=("replicas=3",)), {}
    )
    said: list[str] = []
    assert made.notes
    fleet.start(made.nodes[0], state, said.append)
    assert said[0].startswith("changing deployment k0")
    assert cluster.of("deployments")["k0"]["spec"]["replicas"] == 3
    assert set(cluster.of("secrets")["k0-config"]["data"]) == {"buildkitd.toml"}
    fleet.remove(made.nodes[0])
    assert cluster.objects == {}


def test_pods_that_do_not_start_say_why(cluster: Cluster, state: State) -> None:
    cluster.trouble = "ImagePullBackOff"
    node = _node(state, driver_opts=("timeout=100ms",))
    with pytest.raises(PolyarchError, match="to be ready within") as caught:
        fleet.start(node, state, lambda text: None)
    assert "buildkitd: ImagePullBackOff: Back-off pulling image" in caught.value.detail
    cluster.trouble = ""
    none = _node(state, name="z", platforms=("linux/s390x",), driver_opts=("timeout=100ms",))
    with pytest.raises(PolyarchError) as caught:
        fleet.start(none, state, lambda text: None)
    assert "Unschedulable" in caught.value.detail and "selector" in caught.value.detail


def test_a_deployment_of_somebody_else_is_left_alone(cluster: Cluster, state: State) -> None:
    node = _node(state)
    theirs = {
        "metadata": {"name": "k0", "generation": 1, "labels": {"app": "k0"}},
        "spec": {"replicas": 0},
    }
    cluster.objects["builds", "deployments", "k0"] = theirs
    for work in (fleet.stop, fleet.remove):
        with pytest.raises(PolyarchError, match="not this builder's"):
            work(node)
    assert cluster.of("deployments")["k0"] is theirs


def test_refusals(cluster: Cluster, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = _node(state)
    cluster.forbidden = {"deployments"}
    with pytest.raises(PolyarchError, match="refuses") as caught:
        fleet.start(node, state, lambda text: None)
    assert "forbidden" in caught.value.detail and caught.value.reason == "cluster-refused"
    monkeypatch.setenv("KUBECONFIG", str(cluster.kubeconfig(tmp_path / "wrong", token="secret-token")))
    assert fleet.reports([node], state)[0].status == "error"
    with pytest.raises(PolyarchError, match="refuses") as caught:
        fleet.report(node, state)
    assert "secret-token" not in f"{caught.value} {caught.value.detail} {caught.value.hint}"
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    with pytest.raises(PolyarchError, match="no usable configuration"):
        fleet.report(node, state)
    (tmp_path / "broken").write_text("{[")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "broken"))
    with pytest.raises(PolyarchError, match="no usable configuration"):
        fleet.report(node, state)


def test_the_context_and_the_namespace_may_be_named(
    cluster: Cluster, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cluster.kubeconfig(tmp_path / "other", namespace="elsewhere")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "missing"))
    named = f"kubeconfig={path},context=test"
    for options, namespace in (((named,), "elsewhere"), ((named, "namespace=own"), "own")):
        node = _node(state, name=f"in-{namespace}", driver_opts=options)
        fleet.start(node, state, lambda text: None)
        assert ("own" in namespace) == any("/namespaces/own/" in line for line in cluster.log)
    assert {space for space, _, _ in cluster.objects} == {"elsewhere", "own"}
    wrong = _node(state, name="w", driver_opts=(f"kubeconfig={path},context=nope",))
    with pytest.raises(PolyarchError, match="no usable configuration"):
        fleet.report(wrong, state)


def test_in_a_pod_of_the_cluster_itself(
    daemons: dict[str, Path], state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubernetes.config import incluster_config

    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "namespace").write_text("jobs\n")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(CERTIFICATES / "ca.crt"))
    monkeypatch.setattr("polyarch.builder.kubernetes.cluster._IN_POD", tmp_path / "namespace")
    monkeypatch.setattr(driver, "_PAUSE", 0.02)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with Cluster(dict(daemons), certificates=False) as found:
        name, _, port = found.address.partition(":")
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", name)
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
        node = _node(state)
        fleet.start(node, state, lambda text: None)
        assert fleet.report(node, state).labels["namespace"] == "jobs"


def test_without_the_library(cluster: Cluster, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    with pytest.raises(PolyarchError, match="needs the Python package") as caught:
        fleet.report(_node(state), state)
    assert "pip install" in caught.value.hint


def test_a_cluster_that_is_not_there(cluster: Cluster, state: State, tmp_path: Path) -> None:
    node = _node(state)
    cluster.__exit__()
    with pytest.raises(PolyarchError, match="cannot be reached"):
        fleet.report(node, state)


def test_a_program_that_fails_in_the_pod_says_so(cluster: Cluster, state: State, tmp_path: Path) -> None:
    cluster.daemons["arm64"] = tmp_path / "nobody"
    with pytest.raises(PolyarchError) as caught:
        fleet.start(_node(state), state, lambda text: None)
    assert "exit code 1" in f"{caught.value} {caught.value.detail}"


def test_builds_of_one_directory_use_one_pod(cluster: Cluster, state: State) -> None:
    node = _node(state, driver_opts=("replicas=8",))
    fleet.start(node, state, lambda text: None)
    settings = Settings.of(node)
    with driver._open(settings) as opened:
        chosen = {str(n): driver._choose(opened, settings, str(n)) for n in range(12)}
        again = {str(n): driver._choose(opened, settings, str(n)) for n in range(12)}
        assert chosen == again and len(set(chosen.values())) > 2
        cluster.objects["builds", "deployments", "k0"]["spec"]["replicas"] = 7
        fewer = {str(n): driver._choose(opened, settings, str(n)) for n in range(12)}
    assert all(fewer[key] == pod for key, pod in chosen.items() if pod != "k0-5d7")


# --- objects ------------------------------------------------------------------------------------------------


def _settings(options: dict[str, str], **more: Any) -> Settings:
    record = NodeRecord(
        name="n", driver="kubernetes", endpoint="kubernetes:///b?deployment=n", driver_opts=options, **more
    )
    return Settings.of(record)


def test_rootless_pods() -> None:
    spec = manifest.deployment(_settings({}))["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert container["image"].endswith("-rootless")
    assert container["args"] == ["--oci-worker-no-process-sandbox"]
    assert container["securityContext"] == {
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "seccompProfile": {"type": "Unconfined"},
        "appArmorProfile": {"type": "Unconfined"},
    }
    assert spec["volumes"] == [{"name": "state", "emptyDir": {}}]
    assert "nodeSelector" not in spec and "initContainers" not in spec


def test_privileged_pods_with_everything() -> None:
    options = {
        "rootless": "false",
        "image": "registry.example/buildkit:1",
        "replicas": "3",
        "requests.cpu": "2",
        "requests.memory": "4Gi",
        "requests.ephemeral-storage": "10Gi",
        "limits.memory": "8Gi",
        "nodeselector": "pool=builds",
        "tolerations": "key=builds,operator=Exists,effect=NoSchedule;key=a,value=b,tolerationSeconds=30",
        "annotations": "a/b=c",
        "labels": "team=x",
        "serviceaccount": "builder",
        "schedulername": "own",
        "qemu.install": "true",
        "buildkit-root-volume-memory": "1Gi",
        "env.HTTP_PROXY": "http://proxy",
        "timeout": "5m",
        "loadbalance": "random",
    }
    platforms = (Platform.parse("linux/arm64"),)
    files = {"buildkitd.toml": b"debug = true", "certs/r/ca.pem": b"x"}
    settings = _settings(options, flags=("--debug",), platforms=platforms, files=files)
    made = manifest.deployment(settings)
    spec = made["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert (settings.wait, settings.random) == (300.0, True)
    assert made["spec"]["replicas"] == 3 and made["metadata"]["labels"]["team"] == "x"
    assert made["metadata"]["annotations"]["a/b"] == "c"
    assert container["image"] == "registry.example/buildkit:1"
    assert container["args"] == ["--debug", "--config", "/etc/buildkit/buildkitd.toml"]
    assert container["securityContext"] == {"privileged": True}
    assert container["resources"] == {
        "requests": {"cpu": "2", "memory": "4Gi", "ephemeral-storage": "10Gi"},
        "limits": {"memory": "8Gi"},
    }
    assert container["env"] == [{"name": "HTTP_PROXY", "value": "http://proxy"}]
    assert spec["nodeSelector"] == {"kubernetes.io/arch": "arm64", "pool": "builds"}
    assert spec["tolerations"] == [
        {"key": "builds", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "a", "value": "b", "tolerationSeconds": 30},
    ]
    assert (spec["serviceAccountName"], spec["schedulerName"]) == ("builder", "own")
    assert spec["initContainers"][0]["args"] == ["--install", "all"]
    secret = manifest.secret(settings)
    assert secret is not None
    items = spec["volumes"][0]["secret"]["items"]
    assert {one["key"] for one in items} == set(secret["data"])
    assert [one["path"] for one in items] == ["buildkitd.toml", "certs/r/ca.pem"]
    assert spec["volumes"][1] == {"name": "state", "emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}


def test_settings_tell_deployments_apart() -> None:
    digests = [
        manifest.deployment(_settings(options))["metadata"]["annotations"][manifest.SETTINGS]
        for options in ({}, {}, {"replicas": "2"}, {"rootless": "false"})
    ]
    assert digests[0] == digests[1] and len(set(digests)) == 3


def test_the_users_own_choice_of_machines_counts() -> None:
    platforms = (Platform.parse("linux/arm/v7"),)
    options = {"nodeselector": "kubernetes.io/arch=arm64"}
    assert _settings(options, platforms=platforms).node_selector == {"kubernetes.io/arch": "arm64"}
    assert _settings({}, platforms=platforms).node_selector == {"kubernetes.io/arch": "arm"}


@pytest.mark.parametrize("name", ["loving_mendeleev0", "a.b_c", "x" * 100, "0a", "_"])
def test_names_a_cluster_takes(name: str) -> None:
    import re

    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,51}[a-z0-9])?", cluster_name(name))
    assert cluster_name("x" * 99 + "a") != cluster_name("x" * 99 + "b")
