"""The objects of a node in a cluster, as the API takes them. Pure; apps/v1 and v1 of Kubernetes."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from polyarch.builder.daemon_config import CONFIG_FOLDER
from polyarch.builder.kubernetes.settings import Settings

CONTAINER = "buildkitd"
OWNER = "app.kubernetes.io/managed-by"
SETTINGS = "polyarch/settings"  # the annotation with the digest of what was asked for
_PLATFORMS = "polyarch/platforms"
_STATE = "/var/lib/buildkit"
_ROOTLESS_STATE = "/home/user/.local/share/buildkit"


def selector(settings: Settings) -> dict[str, str]:
    """What tells the node's pods from all others."""
    return {"app": settings.name, "polyarch/builder": settings.builder, "polyarch/node": settings.node}


def deployment(settings: Settings) -> dict[str, Any]:
    """The deployment of the node."""
    labels = {**settings.labels, **selector(settings), OWNER: "polyarch"}
    annotations = dict(settings.annotations)
    if settings.platforms:
        annotations[_PLATFORMS] = ",".join(map(str, settings.platforms))
    found = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": settings.name, "labels": labels, "annotations": annotations},
        "spec": {
            "replicas": settings.replicas,
            "selector": {"matchLabels": selector(settings)},
            "template": {
                "metadata": {"labels": labels, "annotations": _pod_annotations(settings, annotations)},
                "spec": _pod(settings),
            },
        },
    }
    text = json.dumps([found, secret(settings)], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return {**found, "metadata": {**found["metadata"], "annotations": {**annotations, SETTINGS: digest}}}  # type: ignore[dict-item]


def secret(settings: Settings) -> dict[str, Any] | None:
    """The daemon's configuration, which may hold keys for registries; None where there is none."""
    if not settings.files:
        return None
    data = {_key(name): base64.b64encode(content).decode() for name, content in settings.files.items()}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": config_name(settings), "labels": {**selector(settings), OWNER: "polyarch"}},
        "data": data,
    }


def config_name(settings: Settings) -> str:
    """The secret's name."""
    return f"{settings.name}-config"


def _key(name: str) -> str:
    """A file's name as a secret's key, in which only letters, digits and ._- may be."""
    if name == "buildkitd.toml":
        return name
    return hashlib.sha256(name.encode()).hexdigest()[:24]


def _pod_annotations(settings: Settings, annotations: dict[str, str]) -> dict[str, str]:
    if not settings.rootless:
        return annotations
    # before Kubernetes 1.30 only this says that AppArmor shall not keep the daemon from mounting
    return {**annotations, f"container.apparmor.security.beta.kubernetes.io/{CONTAINER}": "unconfined"}


def _pod(settings: Settings) -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [_container(settings)]}
    volumes = []
    if settings.files:
        items = [{"key": _key(name), "path": name} for name in settings.files]
        volumes.append({"name": "config", "secret": {"secretName": config_name(settings), "items": items}})
    if settings.rootless or settings.root_in_memory:
        # the runtime's overlay cannot hold a rootless daemon's own overlays
        memory = {"medium": "Memory", "sizeLimit": settings.root_in_memory} if settings.root_in_memory else {}
        volumes.append({"name": "state", "emptyDir": memory})
    if volumes:
        spec["volumes"] = volumes
    if settings.emulators:
        spec["initContainers"] = [
            {
                "name": "qemu",
                "image": settings.emulators,
                "args": ["--install", "all"],
                "securityContext": {"privileged": True},
            }
        ]
    if settings.node_selector:
        spec["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        spec["tolerations"] = [_toleration(one) for one in settings.tolerations]
    if settings.service_account:
        spec["serviceAccountName"] = settings.service_account
    if settings.scheduler:
        spec["schedulerName"] = settings.scheduler
    return spec


def _container(settings: Settings) -> dict[str, Any]:
    arguments = list(settings.flags)
    if settings.rootless:
        arguments.append("--oci-worker-no-process-sandbox")
    if "buildkitd.toml" in settings.files:
        arguments += ["--config", f"{CONFIG_FOLDER}/buildkitd.toml"]
    found: dict[str, Any] = {
        "name": CONTAINER,
        "image": settings.image,
        "args": arguments,
        "securityContext": _rights(settings),
        "readinessProbe": {"exec": {"command": ["buildctl", "debug", "workers"]}, "timeoutSeconds": 10},
        "resources": {"requests": dict(settings.requests), "limits": dict(settings.limits)},
    }
    mounts = []
    if settings.files:
        mounts.append({"name": "config", "mountPath": CONFIG_FOLDER, "readOnly": True})
    if settings.rootless or settings.root_in_memory:
        mounts.append({"name": "state", "mountPath": _ROOTLESS_STATE if settings.rootless else _STATE})
    if mounts:
        found["volumeMounts"] = mounts
    if settings.environment:
        found["env"] = [{"name": name, "value": value} for name, value in settings.environment.items()]
    return found


def _rights(settings: Settings) -> dict[str, Any]:
    if not settings.rootless:
        return {"privileged": True}
    return {
        "runAsUser": 1000,
        "runAsGroup": 1000,
        "seccompProfile": {"type": "Unconfined"},
        "appArmorProfile": {"type": "Unconfined"},
    }


def _toleration(given: Mapping[str, str]) -> dict[str, Any]:
    return {key: int(value) if key == "tolerationSeconds" else value for key, value in given.items()}
