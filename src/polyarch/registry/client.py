"""Registries as stores: ``Client().repository("ghcr.io/team/app")`` is a ``Store`` like any other."""

from __future__ import annotations

import threading
from collections.abc import Collection

from polyarch.errors import RegistryError
from polyarch.oci.reference import Reference
from polyarch.registry.config import Config
from polyarch.registry.credentials import ConfigFiles, Credential, Credentials, FixedCredentials
from polyarch.registry.failures import Task
from polyarch.registry.repository import Repository, paginate
from polyarch.registry.transport import Call, Transport


class Client:
    """Connections, log-ins and settings shared by all repositories of a command. Safe between threads.

    ``credentials`` default to docker's and podman's files, ``config`` to the environment.
    """

    def __init__(self, *, credentials: Credentials | None = None, config: Config | None = None) -> None:
        self.credentials: Credentials = credentials or ConfigFiles.from_environment()
        self.config = config or Config.from_environment()
        self._transports: dict[str, Transport] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def repository(self, reference: Reference | str) -> Repository:
        """The repository of ``reference``, whose tag and digest do not matter here. Nothing is sent yet."""
        parsed = Reference.parse(reference) if isinstance(reference, str) else reference
        return Repository(self._transport(parsed.registry), parsed, self.config)

    def open_address(self, registry: str) -> str:
        """``host:port`` of a registry that has answered plain http to anybody so far; "" for any other."""
        return self._transport(registry).open_address()

    def token(self, registry: str, scopes: Collection[str]) -> str:
        """A bearer token of ``registry`` for ``scopes``; empty where it asks for none. The registry is asked
        itself where tokens come from. RegistryError when it gives none."""
        return self._transport(registry).token(Task(f"asking {registry} for a token", registry), scopes)

    def ping(self, registry: str) -> None:
        """Ask whether ``registry`` answers, and takes the credentials there are; RegistryError when not."""
        task = Task(f"logging in to {registry}", registry)
        with self._transport(registry).call(Call(task, "GET", "/v2/"), expect=(200,)):
            return

    def catalog(self, registry: str) -> list[str]:
        """The names of the repositories of ``registry``, where it tells."""
        task = Task(f"listing the repositories of {registry}", registry)
        call = Call(task, "GET", "/v2/_catalog?n=1000", scopes=frozenset({"registry:catalog:*"}))
        return paginate(self._transport(registry), call, "repositories")

    def close(self) -> None:
        """Close all connections. The client can be used again."""
        for transport in self._transports.values():
            transport.close()

    def _transport(self, registry: str) -> Transport:
        with self._lock:
            if registry not in self._transports:
                self._transports[registry] = Transport(registry, self.credentials, self.config)
            return self._transports[registry]


def verify_login(registry: str, credential: Credential, config: Config | None = None) -> None:
    """Raise RegistryError unless ``registry`` accepts ``credential``."""
    with Client(credentials=FixedCredentials(registry, credential), config=config) as client:
        try:
            client.ping(registry)
        except RegistryError as error:
            if error.status != 401:
                raise
            raise RegistryError(
                f"{registry} does not accept this name and password",
                status=401,
                detail=error.detail,
                hint="many registries want an access token in place of the password",
                reason="unauthorized",
            ) from None


__all__ = ["Client", "Repository", "verify_login"]
