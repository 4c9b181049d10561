"""What a node in a cluster is to be, from its record: names, image, sizes, where its pods may run."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from polyarch.builder.instance import NodeRecord
from polyarch.builder.options import pairs_of, seconds, tolerations_of
from polyarch.oci.platform import Platform

IMAGE = "moby/buildkit:buildx-stable-1"
ROOTLESS_IMAGE = "moby/buildkit:buildx-stable-1-rootless"
QEMU_IMAGE = "tonistiigi/binfmt:latest"
ARCHITECTURE = "kubernetes.io/arch"  # the label of the cluster's nodes
_LONGEST = 52  # characters of a name; a pod's name has some more behind it
_WAIT = 120.0  # seconds, as with buildx


@dataclass(frozen=True)
class Settings:
    """One deployment. ``namespace``, ``context`` and ``kubeconfig`` are empty where the user's own count;
    ``key`` is what tells the node from others of that name: a deployment of another key is not ours."""

    name: str
    builder: str
    node: str
    namespace: str = ""
    kubeconfig: str = ""
    context: str = ""
    image: str = ROOTLESS_IMAGE
    replicas: int = 1
    rootless: bool = True
    requests: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, str]] = ()
    annotations: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    service_account: str = ""
    scheduler: str = ""
    root_in_memory: str = ""
    emulators: str = ""
    random: bool = False
    wait: float = _WAIT
    flags: Sequence[str] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    platforms: Sequence[Platform] = ()

    @classmethod
    def of(cls, record: NodeRecord) -> Settings:
        """The settings of a record, whose options were checked when it was made."""
        given = record.driver_opts
        rootless = given.get("rootless", "true") == "true"
        url = urlsplit(record.endpoint)
        deployment = parse_qs(url.query).get("deployment", [record.name])[0]
        return cls(
            name=cluster_name(deployment),
            builder=cluster_name(url.path.strip("/") or record.name),
            node=cluster_name(record.name),
            namespace=given.get("namespace", ""),
            kubeconfig=given.get("kubeconfig", ""),
            context=given.get("context", ""),
            image=given.get("image") or (ROOTLESS_IMAGE if rootless else IMAGE),
            replicas=int(given.get("replicas", "1")),
            rootless=rootless,
            requests=_resources(given, "requests."),
            limits=_resources(given, "limits."),
            node_selector=_selector(record),
            tolerations=tolerations_of(given.get("tolerations", "")),
            annotations=dict(pairs_of(given.get("annotations", ""))),
            labels=dict(pairs_of(given.get("labels", ""))),
            environment={key[4:]: value for key, value in given.items() if key.startswith("env.")},
            service_account=given.get("serviceaccount", ""),
            scheduler=given.get("schedulername", ""),
            root_in_memory=given.get("buildkit-root-volume-memory", ""),
            emulators=(given.get("qemu.image") or QEMU_IMAGE) if given.get("qemu.install") == "true" else "",
            random=given.get("loadbalance") == "random",
            wait=seconds(given.get("timeout", "")) or _WAIT,
            flags=record.flags,
            files=record.files,
            platforms=record.platforms,
        )


def _resources(given: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): value for key, value in given.items() if key.startswith(prefix)}


def _selector(record: NodeRecord) -> dict[str, str]:
    """Pods run where their platform is native, unless the user says where."""
    wanted = dict(pairs_of(record.driver_opts.get("nodeselector", "")))
    found = {architecture(platform, record.platforms) for platform in record.platforms}
    if len(found) == 1 and ARCHITECTURE not in wanted:
        return {ARCHITECTURE: found.pop(), **wanted}
    return wanted


def architecture(platform: Platform, beside: Sequence[Platform] = ()) -> str:
    """The architecture of the machine that ``platform`` is to run on: 32-bit programs run beside 64-bit ones
    that are wanted too, and no cluster has i386 machines."""
    others = {other.architecture for other in beside}
    match platform.architecture:
        case "386":
            return "amd64"
        case "arm" if "arm64" in others:
            return "arm64"
    return platform.architecture


def grouped(platforms: Sequence[Platform]) -> list[tuple[str, tuple[Platform, ...]]]:
    """Platforms by the architecture of the machines they run on, in order."""
    groups: dict[str, list[Platform]] = {}
    for platform in platforms:
        groups.setdefault(architecture(platform, platforms), []).append(platform)
    return [(name, tuple(group)) for name, group in groups.items()]


def cluster_name(text: str) -> str:
    """A name the cluster takes (RFC 1123): what has to be changed or shortened is told apart by a digest."""
    name = re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")
    if len(name) <= _LONGEST and name and not name[0].isdigit():
        return name
    return f"n{hashlib.sha256(text.encode()).hexdigest()[:8]}-{name[: _LONGEST - 10]}".rstrip("-")
