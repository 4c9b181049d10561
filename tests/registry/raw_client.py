"""A client without cleverness, for tests of the server: what is sent is what the test says."""

import json
from typing import Any

import urllib3

from polyarch.oci import digest as digests
from polyarch.oci import media_types

HTTP = urllib3.PoolManager(retries=False)
OCTETS = {"Content-Type": "application/octet-stream"}
EMPTY = digests.of(b"")


class Registry:
    """A raw client: no cleverness between the test and the wire."""

    def __init__(self, host: str) -> None:
        self.host = host

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> urllib3.BaseHTTPResponse:
        url = path if "://" in path else f"http://{self.host}{path}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return HTTP.request(method, url, body=body, headers=named, redirect=False)

    def push(self, data: bytes, name: str = "app") -> str:
        digest = digests.of(data)
        answer = self("POST", f"/v2/{name}/blobs/uploads/?digest={digest}", data, **OCTETS)
        assert answer.status == 201, answer.data
        return digest

    def begin(self, name: str = "app") -> str:
        answer = self("POST", f"/v2/{name}/blobs/uploads/")
        assert answer.status == 202
        return answer.headers["Location"]

    def manifest(self, name: str = "app", *, tag: str = "v1", seed: bytes = b"1", **more: Any) -> str:
        config, layer = b'{"seed":"%s"}' % seed, b"layer " + seed
        self.push(config, name)
        self.push(layer, name)
        document = {
            "schemaVersion": 2,
            "mediaType": media_types.OCI_MANIFEST,
            "config": entry(config, media_types.OCI_CONFIG),
            "layers": [entry(layer, media_types.OCI_LAYER)],
            **more,
        }
        return self.put(document, tag, name)

    def put(self, document: Any, reference: str, name: str = "app", kind: str = "") -> str:
        data = json.dumps(document).encode()
        answer = self("PUT", f"/v2/{name}/manifests/{reference}", data,
                      Content_Type=kind or document["mediaType"])  # fmt: skip
        assert answer.status == 201, answer.data
        assert answer.headers["Docker-Content-Digest"] == digests.of(data)
        return digests.of(data)


def entry(data: bytes, kind: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": kind, "digest": digests.of(data), "size": len(data), **more}


def code(answer: urllib3.BaseHTTPResponse) -> str:
    """The error's word; checks that the body has the form the specification wants."""
    (error,) = json.loads(answer.data)["errors"]
    assert answer.headers["Content-Type"] == "application/json" and error["message"]
    return str(error["code"])
