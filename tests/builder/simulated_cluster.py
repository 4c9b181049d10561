"""A Kubernetes API server as far as the driver needs one: deployments, scales, secrets, pods and pods/exec.

It keeps objects in memory and plays controller and scheduler: a deployment's pods appear on the cluster's
machines by architecture, and are ready at the next look but for those told to fail. Behind ``pods/exec`` is
whatever listens at ``daemons[architecture]``. Real are TLS, tokens, the WebSocket and its channels; simulated
is everything a cluster does with the objects.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from polyarch.testing.tls_front import TlsFront

CERTIFICATES = Path(__file__).parents[1] / "registry" / "certificates"
TOKEN = "a-token-of-the-tests"
_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_OBJECT = re.compile(
    r"/(?:api|apis/apps)/v1/namespaces/([a-z0-9-]+)/(deployments|secrets|pods)(?:/([a-z0-9.-]+))?(?:/(scale|exec))?"
)
_MERGES = ("application/merge-patch+json", "application/strategic-merge-patch+json")
Object = dict[str, Any]


class Cluster:
    """The state, and the server. ``log`` has every request's method and path."""

    def __init__(self, daemons: dict[str, Path], *, certificates: bool = True) -> None:
        self.daemons = daemons
        self.objects: dict[tuple[str, str, str], Object] = {}
        self.log: list[str] = []
        self.commands: list[list[str]] = []
        self.forbidden: set[str] = set()
        self.trouble = ""  # the reason why containers wait
        self.lock = threading.RLock()
        cluster = self

        class Handler(_Handler):
            state = cluster

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        plain = f"127.0.0.1:{self._server.server_address[1]}"
        clients = CERTIFICATES / "ca.crt" if certificates else None
        self._front = TlsFront(plain, CERTIFICATES / "server.pem", clients=clients)
        self.address = self._front.host

    def __enter__(self) -> Cluster:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self._front.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._front.__exit__()
        self._server.shutdown()
        self._server.server_close()

    def kubeconfig(self, path: Path, *, token: str = TOKEN, namespace: str = "builds") -> Path:
        """Write how the server is reached, with a client certificate and a token."""
        document = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [
                {
                    "name": "c",
                    "cluster": {
                        "server": f"https://{self._front.host}",
                        "certificate-authority": str(CERTIFICATES / "ca.crt"),
                    },
                }
            ],
            "users": [
                {
                    "name": "u",
                    "user": {
                        "client-certificate": str(CERTIFICATES / "client.cert"),
                        "client-key": str(CERTIFICATES / "client.key"),
                        "token": token,
                    },
                }
            ],
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u", "namespace": namespace}}],
        }
        path.write_text(yaml.safe_dump(document))
        return path

    def of(self, kind: str) -> dict[str, Object]:
        """The objects of a kind by name."""
        with self.lock:
            return {name: found for (_, what, name), found in self.objects.items() if what == kind}

    def pods(self, namespace: str) -> list[Object]:
        """The pods that deployments have, as the controller would keep them."""
        found = []
        for (space, kind, name), deployment in self.objects.items():
            if kind == "deployments" and space == namespace:
                for number in range(deployment["spec"]["replicas"]):
                    found.append(self._pod(deployment, f"{name}-5d{number}"))
        return found

    def _pod(self, deployment: Object, name: str) -> Object:
        template = deployment["spec"]["template"]
        wanted = template["spec"].get("nodeSelector", {}).get("kubernetes.io/arch")
        placed = wanted or next(iter(self.daemons))
        ready, conditions, state = not self.trouble, [], {}
        if placed not in self.daemons:
            ready, message = (
                False,
                "0/2 nodes are available: 2 node(s) didn't match Pod's selector.",
            )
            conditions = [
                {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
            ]
        elif self.trouble:
            state = {"waiting": {"reason": self.trouble, "message": "Back-off pulling image"}}
        conditions.append({"type": "Ready", "status": str(ready)})
        return {
            "metadata": {"name": name, "labels": template["metadata"]["labels"], "arch": placed},
            "spec": template["spec"],
            "status": {
                "phase": "Running" if ready else "Pending",
                "conditions": conditions,
                "containerStatuses": [{"name": "buildkitd", "state": state}],
            },
        }

    def settle(self, deployment: Object, namespace: str) -> None:
        """What the controller notes of a deployment."""
        name = deployment["metadata"]["name"]
        mine = [pod for pod in self.pods(namespace) if pod["metadata"]["name"].rpartition("-")[0] == name]
        ready = sum(pod["status"]["phase"] == "Running" for pod in mine)
        deployment["status"] = {
            "observedGeneration": deployment["metadata"]["generation"],
            "replicas": len(mine),
            "updatedReplicas": len(mine),
            "readyReplicas": ready,
        }


class _Handler(BaseHTTPRequestHandler):
    state: Cluster
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET

    def _answer(self) -> None:
        url = urlsplit(self.path)
        cluster = self.state
        cluster.log.append(f"{self.command} {url.path}")
        match = _OBJECT.fullmatch(url.path)
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else None
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if (scheme.lower(), token) != ("bearer", TOKEN):
            return self._status(401, "Unauthorized")
        if match is None:
            return self._status(404, "the server could not find the requested resource")
        namespace, kind, name, part = match.groups()
        if kind in cluster.forbidden:
            return self._status(403, f'{kind} is forbidden: User "u" cannot {self.command} in "{namespace}"')
        if part == "exec":
            return self._exec(namespace, name, parse_qs(url.query))
        with cluster.lock:
            if kind == "pods":
                return self._pods(namespace, parse_qs(url.query))
            return self._object(namespace, kind, name, part, body)

    def _pods(self, namespace: str, query: dict[str, list[str]]) -> None:
        wanted = dict(pair.split("=", 1) for pair in query.get("labelSelector", [""])[0].split(",") if pair)
        pods = self.state.pods(namespace)
        found = [pod for pod in pods if wanted.items() <= pod["metadata"]["labels"].items()]
        self._json(200, {"kind": "PodList", "apiVersion": "v1", "items": found})

    def _object(self, namespace: str, kind: str, name: str | None, part: str | None, body: Any) -> None:
        objects = self.state.objects
        if self.command == "POST":
            name = body["metadata"]["name"]
            if (namespace, kind, name) in objects:
                return self._status(409, f'{kind} "{name}" already exists')
            body["metadata"].update(namespace=namespace, generation=1)
            objects[namespace, kind, name] = body
            return self._json(201, body)
        found = objects.get((namespace, kind, name or ""))
        if found is None:
            return self._status(404, f'{kind} "{name}" not found')
        match self.command:
            case "PUT":
                body["metadata"].update(namespace=namespace, generation=found["metadata"]["generation"] + 1)
                objects[namespace, kind, name or ""] = found = body
            case "PATCH" if part == "scale" and self.headers["Content-Type"] not in _MERGES:
                return self._status(415, "the body of the request was in an unknown format")
            case "PATCH" if part == "scale":
                found["spec"]["replicas"] = body["spec"]["replicas"]
                found["metadata"]["generation"] += 1
            case "DELETE":
                del objects[namespace, kind, name or ""]
                return self._status(200, "")
        answer = json.loads(json.dumps(found))
        if kind == "deployments" and self.command == "GET":
            self.state.settle(found, namespace)  # seen only by the next look, as with a real controller
        self._json(200, answer)

    def _status(self, code: int, message: str) -> None:
        words = {200: "Success"}
        self._json(code, {"kind": "Status", "status": words.get(code, "Failure"), "message": message})

    def _json(self, code: int, document: Object) -> None:
        content = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    # --- pods/exec ------------------------------------------------------------------------------------------

    def _exec(self, namespace: str, name: str, query: dict[str, list[str]]) -> None:
        pods = {pod["metadata"]["name"]: pod for pod in self.state.pods(namespace)}
        if name not in pods:
            return self._status(404, f'pods "{name}" not found')
        protocols = [one.strip() for one in self.headers.get("Sec-WebSocket-Protocol", "").split(",")]
        if "v4.channel.k8s.io" not in protocols:
            return self._status(400, "no common protocol")
        self.state.commands.append(query["command"])
        key = self.headers["Sec-WebSocket-Key"].encode()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        accepted = base64.b64encode(hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest()).decode()
        self.send_header("Sec-WebSocket-Accept", accepted)
        self.send_header("Sec-WebSocket-Protocol", "v4.channel.k8s.io")
        self.end_headers()
        self.close_connection = True
        self.wfile.flush()
        daemon = self.state.daemons[pods[name]["metadata"]["arch"]]
        with socket.socket(socket.AF_UNIX) as program:
            try:
                program.connect(str(daemon))
            except OSError as error:
                self._frame(2, b"\x02could not connect\n")
                failure = {"status": "Failure", "message": f"command terminated with exit code 1: {error}"}
                self._frame(2, b"\x03" + json.dumps(failure).encode())
                self._frame(8, b"\x03\xe8")
                return
            self._pump(program)

    def _pump(self, program: socket.socket) -> None:
        self._frame(9, b"ping")  # a client must answer that
        self._frame(2, b"\x01")  # real servers begin with an empty message for each channel
        threading.Thread(target=self._listen, args=(program,), daemon=True).start()
        try:
            while data := program.recv(30_000):
                half = len(data) // 2
                self._frame(2, b"\x01" + data[:half], final=False)
                self._frame(0, data[half:])
            self._frame(2, b"\x03" + json.dumps({"status": "Success"}).encode())
            self._frame(8, b"\x03\xe8")
        except OSError:
            pass  # the client has gone

    def _listen(self, program: socket.socket) -> None:
        try:
            while (message := self._read())[0] != 8:
                if message[0] == 2 and message[1][:1] == b"\x00":
                    program.sendall(message[1][1:])
            program.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # one side has gone, and the other hears of it

    def _read(self) -> tuple[int, bytes]:
        head = self.rfile.read(2)
        if len(head) < 2:
            return 8, b""
        size = head[1] & 0x7F
        assert head[1] & 0x80, "clients mask what they send"
        if size > 125:
            size = int.from_bytes(self.rfile.read(2 if size == 126 else 8), "big")
        mask = self.rfile.read(4)
        data = self.rfile.read(size)
        return head[0] & 0x0F, bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))

    def _frame(self, code: int, data: bytes, *, final: bool = True) -> None:
        size = len(data)
        length = bytes([size]) if size < 126 else bytes([126]) + size.to_bytes(2, "big")
        self.wfile.write(bytes([(0x80 if final else 0) | code]) + length + data)
