"""The cluster as the user's kubeconfig names it: the few calls needed, and what their failures mean."""

from __future__ import annotations

import json
import os
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from polyarch.builder.buildkit.streams import SocketStream, Stream, TlsStream
from polyarch.builder.kubernetes.channel import Exec
from polyarch.errors import PolyarchError, UnsupportedError

_TIMEOUT = 20.0  # seconds a call may take
_IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
Object = dict[str, Any]


class Cluster:
    """A namespace of a cluster. Calls raise PolyarchError where the cluster refuses or does not answer."""

    def __init__(self, *, namespace: str = "", kubeconfig: str = "", context: str = "") -> None:
        self._library = _library()
        self._config = self._library.client.Configuration()
        known = self._load(kubeconfig, context)
        self.namespace = namespace or known
        self._config.retries = False
        self._client = self._library.client.ApiClient(self._config)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _load(self, kubeconfig: str, context: str) -> str:
        """Read the user's configuration, or that of the pod this runs in; the namespace it names."""
        loader = self._library.config
        path = kubeconfig or os.environ.get("KUBECONFIG") or None  # the library looks only when imported
        try:
            if not path and not context and _in_pod():
                loader.load_incluster_config(client_configuration=self._config)
                return _IN_POD.read_text().strip() or "default"
            loader.load_kube_config(
                config_file=path, context=context or None, client_configuration=self._config
            )
            contexts, active = loader.list_kube_config_contexts(config_file=path)
        except Exception as error:  # the library raises whatever a file, YAML or a plugin makes it raise
            raise UnsupportedError(
                "there is no usable configuration of a Kubernetes cluster",
                detail=str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__,
                hint="does 'kubectl get pods' work? KUBECONFIG names it, or --driver-opt kubeconfig=FILE",
                reason="no-kubeconfig",
            ) from None
        chosen = next((one for one in contexts if one["name"] == context), active) if context else active
        return str((chosen.get("context") or {}).get("namespace") or "default")

    # --- objects --------------------------------------------------------------------------------------------

    def deployment(self, name: str) -> Object | None:
        """A deployment, None where there is none."""
        return self._object("AppsV1Api", "read_namespaced_deployment", name)

    def put_deployment(self, wanted: Object) -> Object:
        """Make a deployment, or replace the one of that name."""
        return self._put("AppsV1Api", "deployment", wanted)

    def put_secret(self, wanted: Object) -> None:
        """Make a secret, or replace the one of that name."""
        self._put("CoreV1Api", "secret", wanted)

    def scale(self, name: str, replicas: int) -> None:
        """Let a deployment have that many pods."""
        body = {"spec": {"replicas": replicas}}
        self._call("AppsV1Api", "patch_namespaced_deployment_scale", name, self.namespace, body)

    def remove_deployment(self, name: str) -> None:
        """Remove a deployment and its pods; harmless when there is none."""
        self._remove("AppsV1Api", "delete_namespaced_deployment", name)

    def remove_secret(self, name: str) -> None:
        """Remove a secret; harmless when there is none."""
        self._remove("CoreV1Api", "delete_namespaced_secret", name)

    def pods(self, labels: dict[str, str]) -> list[Object]:
        """The pods with these labels, by name."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        found = self._call("CoreV1Api", "list_namespaced_pod", self.namespace, label_selector=selector)
        items = found.get("items") or []
        return sorted(items, key=lambda pod: str(pod["metadata"]["name"]))

    def _put(self, api: str, kind: str, wanted: Object) -> Object:
        name = wanted["metadata"]["name"]
        try:
            return self._call(api, f"create_namespaced_{kind}", self.namespace, wanted)
        except PolyarchError as error:
            if error.reason != "cluster-conflict":
                raise
        return self._call(api, f"replace_namespaced_{kind}", name, self.namespace, wanted)

    def _object(self, api: str, verb: str, name: str) -> Object | None:
        try:
            return self._call(api, verb, name, self.namespace)
        except PolyarchError as error:
            if error.reason == "cluster-not-found":
                return None
            raise

    def _remove(self, api: str, verb: str, name: str) -> None:
        self._object(api, verb, name)

    def _call(self, api: str, verb: str, *arguments: object, **more: object) -> Object:
        call: Callable[..., Any] = getattr(getattr(self._library.client, api)(self._client), verb)
        try:
            answer = call(*arguments, **more, _preload_content=False, _request_timeout=_TIMEOUT)
            found = json.loads(answer.data)
        except Exception as error:
            raise self._failure(verb, error) from None
        return found if isinstance(found, dict) else {}

    # --- programs in pods -----------------------------------------------------------------------------------

    def run(self, pod: str, container: str, command: Sequence[str]) -> Stream:
        """Standard input and output of a program started in a pod."""
        # a client of its own: the library bends the client's own methods while it opens a stream
        client = self._library.client.ApiClient(self._config)
        try:
            opened = self._library.stream.stream(
                self._library.client.CoreV1Api(client).connect_get_namespaced_pod_exec,
                pod,
                self.namespace,
                container=container,
                command=list(command),
                stdin=True,
                stdout=True,
                stderr=True,
                tty=False,
                _preload_content=False,
                _request_timeout=_TIMEOUT,
            )
        except Exception as error:
            raise self._failure(f"exec in pod {pod}", error) from None
        finally:
            client.close()
        connection = opened.sock.sock
        connection.settimeout(None)
        under = TlsStream(connection) if isinstance(connection, ssl.SSLSocket) else SocketStream(connection)
        return Exec(under, f"{' '.join(command)} in pod {pod}")

    def _failure(self, what: str, error: Exception) -> PolyarchError:
        """What the API's refusal means."""
        status = getattr(error, "status", None) or getattr(error, "status_code", None) or 0
        message = _message(error)
        where = f"namespace {self.namespace} of {self._config.host}"
        match status:
            case 404:
                return PolyarchError(f"{where}: {message}", reason="cluster-not-found")
            case 409:
                return PolyarchError(f"{where}: {message}", reason="cluster-conflict")
            case 401 | 403:
                return PolyarchError(
                    f"the cluster refuses {what.replace('_', ' ')} in {where}",
                    detail=message,
                    hint="you need deployments, secrets, pods and pods/exec there ('kubectl auth whoami')",
                    reason="cluster-refused",
                )
            case 0:
                return PolyarchError(
                    f"the cluster at {self._config.host} cannot be reached: {message}",
                    hint="see whether 'kubectl get pods' works",
                    reason="node-unreachable",
                )
        return PolyarchError(
            f"the cluster failed at {what.replace('_', ' ')} in {where}: {message}", reason="cluster-failed"
        )


def _in_pod() -> bool:
    """Whether this runs in a pod, and its user has no configuration of their own."""
    own = Path(os.path.expanduser("~"), ".kube", "config")
    return "KUBERNETES_SERVICE_HOST" in os.environ and _IN_POD.is_file() and not own.exists()


def _message(error: Exception) -> str:
    """One line of what the cluster or the network said."""
    body = getattr(error, "body", None)
    if isinstance(body, (str, bytes)):
        try:
            document = json.loads(body)
            if isinstance(document, dict) and document.get("message"):
                return str(document["message"])[:500]
        except (ValueError, RecursionError):
            pass  # proxies answer in any format
    text = str(getattr(error, "reason", "") or error).strip()
    return text.splitlines()[0][:500] if text else type(error).__name__


def _library() -> ModuleType:
    try:
        import kubernetes
        import kubernetes.client
        import kubernetes.config
        import kubernetes.stream
    except ImportError:
        raise UnsupportedError(
            "the driver kubernetes needs the Python package kubernetes",
            hint="pip install 'polyarch[kubernetes]'",
            reason="package-missing",
        ) from None
    return kubernetes
