"""The registry as an ASGI application: paths to endpoints, errors to answers."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping

from polyarch.errors import PolyarchError
from polyarch.oci.platform import Platform
from polyarch.registry.server.blobs import BlobEndpoints
from polyarch.registry.server.exchange import App, Disconnected, Receive, Request, Response, Scope, Send
from polyarch.registry.server.manifests import ManifestEndpoints, page
from polyarch.registry.server.refusal import Refusal
from polyarch.registry.server.storage import Shelf, Storage
from polyarch.registry.server.uploads import Uploads

_LOG = logging.getLogger(__name__)
Endpoint = Callable[..., Awaitable[Response]]


def create_app(storage: Storage, *, default_platform: Platform) -> App:
    """The application that serves ``storage``; ``default_platform`` is for clients that take no index."""
    return _Registry(storage, default_platform)


class _Registry:
    def __init__(self, storage: Storage, default_platform: Platform) -> None:
        self._storage = storage
        blobs = BlobEndpoints(storage, Uploads())
        manifests = ManifestEndpoints(default_platform)
        # Greedy names, so that a repository may be called a/blobs/uploads; the last match in a path counts.
        self._routes: list[tuple[re.Pattern[str], Mapping[str, Endpoint]]] = [
            (re.compile(r"(.+)/blobs/uploads/?"), {"POST": blobs.begin}),
            (
                re.compile(r"(.+)/blobs/uploads/([^/]+)"),
                {"GET": blobs.status, "PATCH": blobs.append, "PUT": blobs.finish, "DELETE": blobs.cancel},
            ),
            (
                re.compile(r"(.+)/blobs/([^/]+)"),
                {"GET": blobs.get, "HEAD": blobs.get, "DELETE": blobs.delete},
            ),
            (
                re.compile(r"(.+)/manifests/([^/]+)"),
                {
                    "GET": manifests.get,
                    "HEAD": manifests.get,
                    "PUT": manifests.put,
                    "DELETE": manifests.delete,
                },
            ),
            (re.compile(r"(.+)/tags/list"), {"GET": manifests.tags}),
            (re.compile(r"(.+)/referrers/([^/]+)"), {"GET": manifests.referrers}),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        try:
            response = await self._answer(Request.of(scope, receive))
        except Refusal as refusal:
            response = Response.refusing(refusal)
        except Disconnected:
            return
        except PolyarchError as error:
            status = 507 if error.reason == "no-space" else 500
            response = Response.refusing(Refusal(status, "UNKNOWN", error.summary))
        except Exception:
            _LOG.exception("%s %s", scope["method"], scope["path"])
            response = Response.refusing(Refusal(500, "UNKNOWN", "the registry failed"))
        await response.send(send, head=scope["method"] == "HEAD")

    async def _answer(self, request: Request) -> Response:
        if not request.path.startswith("/v2"):
            raise Refusal(404, "UNSUPPORTED", "this is a container registry: its API is below /v2/")
        path = request.path[len("/v2/") :]
        if path == "":
            return Response(200, {"Content-Type": "application/json"}, b"{}")
        if path == "_catalog":
            return self._catalog(request)
        for pattern, methods in self._routes:
            if match := pattern.fullmatch(path):
                endpoint = methods.get(request.method)
                if endpoint is None:
                    raise Refusal(405, "UNSUPPORTED", "this method is not for this place", None, {
                        "Allow": ", ".join(methods)})  # fmt: skip
                shelf: Shelf = self._storage.shelf(match[1])
                return await endpoint(request, shelf, *match.groups()[1:])
        raise Refusal(404, "NAME_UNKNOWN", "there is nothing here", request.path[:300])

    def _catalog(self, request: Request) -> Response:
        names, headers = page(request, self._storage.names())
        return Response(200, headers, json.dumps({"repositories": names}).encode())
