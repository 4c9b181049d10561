"""How registries are reached: schemes, certificates, proxies, patience. Read from the environment once."""

from __future__ import annotations

import ipaddress
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from polyarch.content.state import State
from polyarch.errors import RegistryError

DOCKER_HUB = "registry-1.docker.io"  # where docker.io's API is
_BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
)


@dataclass(frozen=True)
class Config:
    """``insecure``: hosts (``host[:port]`` or a network as 10.0.0.0/8) that may be reached by plain http or
    with a certificate nobody vouches for. ``certificates``: folders like docker's certs.d. ``uploads``: the
    folder of the upload journals, None to keep none. Times in seconds."""

    insecure: frozenset[str] = frozenset()
    certificates: tuple[Path, ...] = ()
    uploads: Path | None = None
    connect_timeout: float = 10.0
    read_timeout: float = 60.0
    attempts: int = 5
    backoff: float = 0.4
    longest_wait: float = 60.0
    user_agent: str = "polyarch"

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Config:
        """What ``POLYARCH_INSECURE_REGISTRIES`` and the usual folders say."""
        listed = environ.get("POLYARCH_INSECURE_REGISTRIES", "")
        home = Path(environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
        return cls(
            insecure=frozenset(host.strip() for host in listed.split(",") if host.strip()),
            certificates=(
                home / "certs.d",
                Path.home() / ".config/containers/certs.d",
                Path("/etc/docker/certs.d"),
                Path("/etc/containers/certs.d"),
            ),
            uploads=State.default().uploads,
        )

    def schemes(self, host: str) -> tuple[str, ...]:
        """The schemes to try for ``host``, best first: only loopback and insecure hosts get plain http."""
        if is_loopback(host):
            secure = port_of(host) in (443, 8443) or any((d / host).is_dir() for d in self.certificates)
            return ("https", "http") if secure else ("http", "https")
        return ("https", "http") if self.is_insecure(host) else ("https",)

    def is_insecure(self, host: str) -> bool:
        name = name_of(host)
        if host in self.insecure or name in self.insecure:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return any(address in network for network in self._networks())

    def _networks(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        found = []
        for text in self.insecure:
            if "/" in text:
                try:
                    found.append(ipaddress.ip_network(text, strict=False))
                except ValueError:
                    continue  # a host name with a slash matches nothing
        return found

    def tls(self, host: str) -> ssl.SSLContext:
        """The TLS settings for ``host``, with the certificates of its folders in certs.d."""
        context = ssl.create_default_context()
        if not context.cert_store_stats()["x509_ca"]:
            for bundle in _BUNDLES:
                if os.path.exists(bundle):
                    context.load_verify_locations(bundle)
                    break
        if not host.startswith("."):  # hosts may come from a redirect: no way out of the folder
            for folder in self.certificates:
                _load(context, folder / host.replace("/", ""))
        if is_loopback(host) or self.is_insecure(host):
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _load(context: ssl.SSLContext, folder: Path) -> None:
    if not folder.is_dir():
        return
    try:
        for path in sorted(folder.iterdir()):
            if path.suffix == ".crt":
                context.load_verify_locations(path)
            elif path.suffix == ".cert":
                context.load_cert_chain(path, path.with_suffix(".key"))
    except OSError as error:
        raise RegistryError(
            f"the certificates in {folder} cannot be used: {error.strerror or error}",
            hint="ca.crt must be PEM; every client.cert needs its client.key",
            reason="tls",
        ) from None


def address_of(registry: str) -> str:
    """The host (and port) that serves the API of ``registry``: docker.io has it elsewhere."""
    return DOCKER_HUB if registry in ("docker.io", "index.docker.io") else registry


def name_of(host: str) -> str:
    """``host`` without its port and brackets."""
    return urlsplit(f"//{host}").hostname or host


def port_of(host: str) -> int | None:
    try:
        return urlsplit(f"//{host}").port
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Whether ``host`` (with or without port) is this machine by its own account."""
    name = name_of(host)
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def is_private_target(host: str) -> bool:
    """Whether ``host`` is an address that no registry elsewhere has any business sending us to."""
    if is_loopback(host):
        return True
    try:
        address = ipaddress.ip_address(name_of(host))
    except ValueError:
        return False
    return address.is_link_local or address.is_unspecified or address.is_multicast


def proxy_for(scheme: str, host: str) -> str | None:
    """The proxy the environment names for ``host`` (HTTP(S)_PROXY, NO_PROXY); loopback has none."""
    if is_loopback(host) or proxy_bypass(host):
        return None
    proxies = getproxies_environment()
    return proxies.get(scheme) or proxies.get("all") or None
