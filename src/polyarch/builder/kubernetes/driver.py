"""A node in a cluster from its record: started, reached, told about, stopped and removed."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from polyarch.builder.buildkit.daemon import Daemon
from polyarch.builder.buildkit.node import BuildKitNode
from polyarch.builder.embedded import EmbeddedNode, Surroundings
from polyarch.builder.instance import NodeRecord
from polyarch.builder.kubernetes import manifest
from polyarch.builder.kubernetes.cluster import Cluster, Object
from polyarch.builder.kubernetes.settings import Settings
from polyarch.builder.node import NodeLostError
from polyarch.builder.report import NodeReport
from polyarch.errors import PolyarchError

Tell = Callable[[str], None]
_DIAL = ("buildctl", "dial-stdio")
_PAUSE = 0.5  # seconds between two looks at pods that start


def open_node(record: NodeRecord, home: EmbeddedNode, surroundings: Surroundings, tell: Tell) -> BuildKitNode:
    """The daemon in one of the node's pods, which are started if they do not run. NodeLostError where there
    is no cluster, or its pods do not start."""
    settings = Settings.of(record)
    try:
        cluster = _cluster(settings)
        _start(cluster, settings, tell)
        pod = _choose(cluster, settings, os.getcwd())
    except PolyarchError as error:
        raise NodeLostError(
            record.name, f"node {record.name}: {error.summary}", detail=error.detail, hint=error.hint
        ) from None
    daemon = Daemon(record.endpoint, dial=lambda: cluster.run(pod, manifest.CONTAINER, _DIAL))
    return BuildKitNode(record.name, daemon, home, surroundings)


def start(record: NodeRecord, tell: Tell) -> None:
    """Make the deployment, or scale it up, and wait until its pods are ready."""
    settings = Settings.of(record)
    with _open(settings) as cluster:
        _start(cluster, settings, tell)


def stop(record: NodeRecord) -> None:
    """Scale the deployment to nothing. Its pods' caches go with them."""
    settings = Settings.of(record)
    with _open(settings) as cluster:
        if _found(cluster, settings) is not None:
            cluster.scale(settings.name, 0)


def remove(record: NodeRecord) -> None:
    """Remove everything that was made for the node; harmless when nothing is there."""
    settings = Settings.of(record)
    with _open(settings) as cluster:
        if _found(cluster, settings) is not None:
            cluster.remove_deployment(settings.name)
        if settings.files:
            cluster.remove_secret(manifest.config_name(settings))


def report(record: NodeRecord) -> NodeReport:
    """Whether pods run: "inactive" where there is no deployment, "stopped" where it has no ready pod."""
    settings = Settings.of(record)
    with _open(settings) as cluster:
        found = _found(cluster, settings)
        if found is None:
            return NodeReport(status="inactive")
        ready, wanted = _ready(found), int(found.get("spec", {}).get("replicas") or 0)
        labels = {"namespace": cluster.namespace, "replicas": f"{ready} of {wanted} ready"}
        return NodeReport(status="running" if ready else "stopped", labels=labels)


def _cluster(settings: Settings) -> Cluster:
    return Cluster(namespace=settings.namespace, kubeconfig=settings.kubeconfig, context=settings.context)


@contextmanager
def _open(settings: Settings) -> Iterator[Cluster]:
    cluster = _cluster(settings)
    try:
        yield cluster
    finally:
        cluster.close()


def _found(cluster: Cluster, settings: Settings) -> Object | None:
    """The node's deployment. PolyarchError for one of that name that is somebody else's."""
    found = cluster.deployment(settings.name)
    if found is None:
        return None
    labels = found["metadata"].get("labels") or {}
    ours = {**manifest.selector(settings), manifest.OWNER: "polyarch"}
    if any(labels.get(key) != value for key, value in ours.items()):
        raise PolyarchError(
            f"the deployment {settings.name} in namespace {cluster.namespace} is not this builder's",
            hint="name the node otherwise (--node), or use another namespace (--driver-opt namespace=NAME)",
            reason="deployment-taken",
        )
    return found


def _start(cluster: Cluster, settings: Settings, tell: Tell) -> None:
    wanted = manifest.deployment(settings)
    found = _found(cluster, settings)
    if found is None or _digest(found) != _digest(wanted):
        if (secret := manifest.secret(settings)) is not None:
            cluster.put_secret(secret)
        tell(f"{'making' if found is None else 'changing'} deployment {settings.name} in {cluster.namespace}")
        found = cluster.put_deployment(wanted)
    elif int(found.get("spec", {}).get("replicas") or 0) < settings.replicas:
        tell(f"scaling deployment {settings.name} to {settings.replicas}")
        cluster.scale(settings.name, settings.replicas)
    elif _ready(found) >= settings.replicas:
        return
    _await(cluster, settings, tell)


def _await(cluster: Cluster, settings: Settings, tell: Tell) -> None:
    """Wait for the pods; PolyarchError says what keeps them."""
    limit = time.monotonic() + settings.wait
    shown = ""
    while True:
        found = cluster.deployment(settings.name)
        ready = _ready(found) if found is not None else 0
        if ready >= settings.replicas:
            return
        text = f"waiting for {settings.replicas} pods to be ready ({ready} are)"
        if text != shown:
            tell(text)
            shown = text
        if time.monotonic() > limit:
            pods = cluster.pods(manifest.selector(settings))
            raise PolyarchError(
                f"expected {settings.replicas} pods of {settings.name} to be ready within "
                f"{settings.wait:.0f} s, got {ready}",
                detail="\n".join(_troubles(pods)),
                hint="--driver-opt timeout=300s waits longer",
                reason="pods-not-ready",
            )
        time.sleep(_PAUSE)


def _ready(found: Object) -> int:
    """Ready pods of the newest settings; none while the cluster has not seen these yet."""
    status = found.get("status") or {}
    wanted = int(found["metadata"].get("generation") or 0)
    if int(status.get("observedGeneration", wanted)) < wanted:
        return 0
    ready = int(status.get("readyReplicas") or 0)
    return min(ready, int(status.get("updatedReplicas", ready)))


def _digest(found: Object) -> str:
    return str((found["metadata"].get("annotations") or {}).get(manifest.SETTINGS, ""))


def _troubles(pods: Sequence[Object]) -> Iterator[str]:
    """What the cluster says of pods that do not run."""
    if not pods:
        yield "the cluster made no pod: a quota, or a policy, may forbid it"
    for pod in pods:
        name, status = pod["metadata"]["name"], pod.get("status") or {}
        for condition in status.get("conditions") or []:
            if condition.get("status") == "False" and condition.get("message"):
                yield f"{name}: {condition.get('reason', '')}: {condition['message']}"
        containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
        for container in containers:
            state = container.get("state") or {}
            for word in ("waiting", "terminated"):
                said = state.get(word) or {}
                if reason := said.get("reason"):
                    yield f"{name}: {container['name']}: {reason}: {said.get('message', '')}".rstrip(": ")


def _runs(pod: Object) -> bool:
    """Whether the pod is there to be used: a daemon that is not ready yet, or going, is not."""
    status = pod.get("status") or {}
    conditions = {one.get("type"): one.get("status") for one in status.get("conditions") or []}
    going = pod["metadata"].get("deletionTimestamp")
    return status.get("phase") == "Running" and conditions.get("Ready", "True") == "True" and not going


def _choose(cluster: Cluster, settings: Settings, key: str) -> str:
    """A running pod: any one, or (sticky) always the same for builds of one directory, as far as it lives;
    when pods come or go, only the builds of those move."""
    pods = cluster.pods(manifest.selector(settings))
    running = [str(pod["metadata"]["name"]) for pod in pods if _runs(pod)]
    if not running:
        raise PolyarchError(f"no running pods of {settings.name} were found", reason="no-pod")
    if settings.random:
        return random.choice(running)
    return max(running, key=lambda pod: hashlib.sha256(f"{key}\0{pod}".encode()).digest())
