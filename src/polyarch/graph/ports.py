"""EXPOSE's words: ``[[ip:]host:]port[-port][/protocol]``."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from polyarch.errors import DockerfileError

_PROTOCOLS = ("tcp", "udp", "sctp")


def port_specifications(words: Iterable[str]) -> tuple[str, ...]:
    """Every port as ``number/protocol``. DockerfileError names the word that is wrong."""
    return tuple(port for word in words for port in _ports(word))


def _bad(word: str, why: str) -> DockerfileError:
    return DockerfileError(
        f"EXPOSE {word}: {why}",
        hint="write a port as 80, 80/udp or 8000-8010/tcp",
        reason="invalid-port",
    )


def _ports(word: str) -> list[str]:
    head, _, container = word.rpartition(":")
    address, _, host = head.rpartition(":")
    port, _, protocol = container.partition("/")
    protocol = protocol.lower() or "tcp"
    if not port:
        raise _bad(word, "no port is given")
    if protocol not in _PROTOCOLS:
        raise _bad(word, f"invalid proto {protocol!r}; known are {', '.join(_PROTOCOLS)}")
    if address:
        try:
            ipaddress.ip_address(address.strip("[]"))
        except ValueError:
            raise _bad(word, f"invalid IP address {address!r}") from None
    start, end = _range(word, port, "containerPort")
    if host:
        first, last = _range(word, host, "hostPort")
        if last - first != end - start and end != start:
            raise _bad(word, "the ranges of host and container ports differ in length")
    return [f"{number}/{protocol}" for number in range(start, end + 1)]


def _range(word: str, text: str, what: str) -> tuple[int, int]:
    parts = text.split("-")
    if len(parts) > 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise _bad(word, f"invalid {what}: {text}")
    numbers = [int(part) for part in parts]
    if max(numbers) > 65535 or numbers[0] > numbers[-1]:
        raise _bad(word, f"invalid {what}: {text}")
    return numbers[0], numbers[-1]
