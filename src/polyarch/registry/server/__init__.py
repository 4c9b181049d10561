"""The registry, server side: the OCI distribution API over an OCI layout."""

from polyarch.registry.server.running import DEFAULT_PLATFORM, serve, serve_in_thread

__all__ = ["DEFAULT_PLATFORM", "serve", "serve_in_thread"]
