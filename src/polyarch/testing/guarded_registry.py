"""Our registry behind a lock: basic authentication, or bearer tokens with a token endpoint of its own, as the
token specification describes them."""

from __future__ import annotations

import base64
import json
import secrets
from dataclasses import dataclass, field
from urllib.parse import parse_qs

from polyarch.registry.server.exchange import App, Receive, Request, Scope, Send


@dataclass
class Guard:
    """Who is let in. ``kind`` is ``basic`` or ``bearer``; ``realm`` replaces the address of the token
    endpoint, to send clients elsewhere; ``lifetime`` in seconds is what tokens say of themselves.

    ``issued`` counts tokens; ``identity_token`` is taken by the OAuth2 form of the endpoint.
    """

    kind: str = "bearer"
    username: str = "user"
    password: str = "secret"
    identity_token: str = "identity"
    realm: str = ""
    lifetime: int = 300
    anonymous_pull: bool = False
    tokens: dict[str, set[str]] = field(default_factory=dict)
    issued: int = 0
    asked: list[str] = field(default_factory=list)

    def wrap(self, app: App) -> App:
        """``app`` behind this guard."""

        async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
            request = Request.of(scope, receive)
            if request.path == "/token":
                await self._token(scope, request, send)
            elif self._allowed(request):
                await app(scope, receive, send)
            else:
                await _reply(send, 401, {"errors": [{"code": "UNAUTHORIZED", "message": "no"}]},
                             {"WWW-Authenticate": self._challenge(request)})  # fmt: skip

        return guarded

    def revoke(self) -> None:
        """All tokens are worth nothing any more."""
        self.tokens.clear()

    def _needed(self, request: Request) -> set[str]:
        if request.path == "/v2/":
            return set()
        name = request.path.removeprefix("/v2/")
        for mark in ("/blobs/", "/manifests/", "/tags/", "/referrers/"):
            name = name.partition(mark)[0]
        action = "pull" if request.method in ("GET", "HEAD") else "push"
        needed = {f"{name}:{action}"}
        if "from" in request.query:
            needed.add(f"{request.query['from']}:pull")
        return needed

    def _challenge(self, request: Request) -> str:
        if self.kind == "basic":
            return 'Basic realm="registry"'
        realm = self.realm or f"http://{request.headers['host']}/token"
        return f'Bearer realm="{realm}",service="test registry"'

    def _allowed(self, request: Request) -> bool:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if self.kind == "basic":
            return scheme == "Basic" and self._knows(value)
        granted = self.tokens.get(value) if scheme == "Bearer" else None
        return granted is not None and self._needed(request) <= granted

    def _knows(self, encoded: str) -> bool:
        return base64.b64decode(encoded).decode() == f"{self.username}:{self.password}"

    async def _token(self, scope: Scope, request: Request, send: Send) -> None:
        if request.method == "POST":
            form = parse_qs((await request.whole(1 << 16)).decode())
            right = form.get("refresh_token") == [self.identity_token]
            scopes = form.get("scope", [""])[0].split()
            anonymous = False
        else:
            scopes = parse_qs(scope["query_string"].decode()).get("scope", [])
            given = request.headers.get("authorization", "")
            anonymous = not given
            right = given.startswith("Basic ") and self._knows(given[6:])
        self.asked.extend(scopes)
        if not right and not (anonymous and self.anonymous_pull):
            await _reply(send, 401, {"errors": [{"code": "UNAUTHORIZED", "message": "wrong password"}]}, {})
            return
        granted = set()
        for text in scopes:
            _, name, actions = text.split(":")
            granted |= {f"{name}:{a}" for a in actions.split(",") if right or a == "pull"}
        token = secrets.token_urlsafe(12)
        self.tokens[token] = granted
        self.issued += 1
        key = "access_token" if request.method == "POST" else "token"
        await _reply(send, 200, {key: token, "expires_in": self.lifetime}, {})


async def _reply(send: Send, status: int, document: object, headers: dict[str, str]) -> None:
    body = json.dumps(document).encode()
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
