"""The caches that ``type=gha`` means: one for each platform, so that jobs never overwrite each other's."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polyarch.oci.platform import Platform
    from polyarch.registry.actions_access import Access
    from polyarch.registry.actions_store import ActionsCache


@dataclass(frozen=True)
class ServiceOptions:
    """What ``type=gha`` was given; the job's environment says the rest. ``timeout`` in seconds, 0 for the
    usual."""

    scope: str = "default"
    url: str = ""
    url_v2: str = ""
    token: str = field(default="", repr=False)
    timeout: float = 0.0

    def access(self, environ: Mapping[str, str] = os.environ) -> Access:
        """Where the service is and who we are; UnsupportedError where that is not known."""
        from polyarch.registry.actions_access import find_access

        return find_access(environ, url=self.url, url_v2=self.url_v2, token=self.token, timeout=self.timeout)

    def name(self, platform: Platform) -> str:
        """The name of a platform's cache."""
        return f"{self.scope}-{str(platform).replace('/', '-')}"


def cache_to_write(options: ServiceOptions) -> ActionsCache:
    """The caches of the job's own ref; UnsupportedError where there is no service."""
    from polyarch.registry.actions_service import CacheService
    from polyarch.registry.actions_store import ActionsCache
    from polyarch.registry.config import Config

    access = options.access()
    return ActionsCache(CacheService(access, Config.from_environment()), access.writable)


def caches_to_read(
    options: ServiceOptions, platforms: Sequence[Platform]
) -> Iterator[tuple[ActionsCache, str]]:
    """The caches of all refs that may be read, each with the name of a platform's: the job's own ref first,
    then its bases'. UnsupportedError where there is no service."""
    from polyarch.registry.actions_service import CacheService
    from polyarch.registry.actions_store import ActionsCache
    from polyarch.registry.config import Config

    access = options.access()
    service = CacheService(access, Config.from_environment())
    for ref in access.readable:
        for platform in platforms:
            yield ActionsCache(service, ref), options.name(platform)
