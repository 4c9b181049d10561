"""EXPOSE's words: ports, ranges and protocols."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

from polyarch.errors import DockerfileError

PROTOCOLS = ("tcp", "udp", "sctp")
_NUMBER = re.compile(r"\+?[0-9]{1,10}")


@dataclass(frozen=True)
class PortSpec:
    """One word of EXPOSE: ``first`` to ``last``, both included; the protocol as it is spelled.

    ``host`` is what stood before the container's port: an address, a host port, or both. It has no meaning
    in an image, and a check warns of it.
    """

    text: str
    first: int
    last: int
    protocol: str
    host: str = ""

    @property
    def ports(self) -> tuple[str, ...]:
        """``80/tcp`` and so on, as the image's configuration has them."""
        return tuple(f"{port}/{self.protocol.lower()}" for port in range(self.first, self.last + 1))


def parse_port(text: str) -> PortSpec:
    """A word such as ``80`` or ``8000-8010/udp``. DockerfileError (without a location) otherwise."""
    host, _, container = text.rpartition(":")
    port, _, protocol = container.partition("/")
    if protocol and protocol.lower() not in PROTOCOLS:
        raise _bad(text, f"{protocol[:50]!r} is not a protocol; it is one of " + ", ".join(PROTOCOLS))
    span = _span(text, port)
    if host:
        _check_host(text, host, span)
    return PortSpec(text, *span, protocol or "tcp", host)


def port_specifications(words: Iterable[str]) -> tuple[str, ...]:
    """Every port of EXPOSE's words as ``number/protocol``. DockerfileError names the word that is wrong."""
    return tuple(port for word in words for port in parse_port(word).ports)


def _check_host(text: str, host: str, container: tuple[int, int]) -> None:
    address, _, port = host.rpartition(":")
    if address:
        try:
            ipaddress.ip_address(address.removeprefix("[").removesuffix("]"))
        except ValueError:
            raise _bad(text, f"{address[:100]!r} is not an IP address") from None
    if port:
        first, last = _span(text, port)
        if last - first != container[1] - container[0] and container[1] != container[0]:
            raise _bad(text, "the ranges of container and host differ in length")


def _span(text: str, port: str) -> tuple[int, int]:
    first, dash, last = port.partition("-")
    start = _port(text, first)
    end = _port(text, last) if dash else start
    if end < start:
        raise _bad(text, "the range ends before it starts")
    return start, end


def _port(text: str, number: str) -> int:
    if not _NUMBER.fullmatch(number) or int(number) > 65535:
        raise _bad(text, f"{number[:50]!r} is not a port (0 to 65535)" if number else "a port is missing")
    return int(number)


def _bad(text: str, why: str) -> DockerfileError:
    return DockerfileError(
        f"EXPOSE {text[:200]}: {why}",
        hint="write a port, or ports, such as 80, 53/udp or 8000-8010",
        reason="invalid-port",
    )
