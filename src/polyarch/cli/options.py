"""Values of ``polyarch build``'s options, from text to what the build wants."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

from polyarch.errors import NotFoundError, UsageError

_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
MAX_SECRET = 500 << 10  # bytes; as BuildKit has it


def pairs(option: str, texts: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE`` options; a key alone takes the environment's value, or is left out."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key:
            raise UsageError(f"{option} {text!r}: the name is missing", reason="invalid-option")
        if equals:
            found[key] = value
        elif key in os.environ:
            found[key] = os.environ[key]
    return found


def labels(texts: Iterable[str]) -> dict[str, str]:
    """``KEY=VALUE``; a key alone has the empty value."""
    return {key: value for key, _, value in (text.partition("=") for text in texts)}


def _fields(option: str, text: str) -> dict[str, str]:
    try:
        row = next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise UsageError(f"{option} {text!r} is not valid CSV: {error}", reason="invalid-option") from None
    return {key.strip().lower(): value for key, _, value in (part.partition("=") for part in row)}


def secrets(texts: Iterable[str]) -> Mapping[str, Callable[[], bytes]]:
    """``id=NAME[,src=FILE|,env=VARIABLE]``: how to read each secret when a step asks for it."""
    found: dict[str, Callable[[], bytes]] = {}
    for text in texts:
        values = _fields("--secret", text)
        unknown = set(values) - {"id", "type", "src", "source", "env"}
        if unknown:
            raise UsageError(
                f"--secret {text!r}: unknown field {sorted(unknown)[0]!r}",
                hint="fields are id, src, env and type",
                reason="invalid-secret",
            )
        name = values.get("id", "")
        if not name:
            raise UsageError(f"--secret {text!r}: the id is missing", reason="invalid-secret")
        source, variable = values.get("src") or values.get("source", ""), values.get("env", "")
        kind = values.get("type", "env" if variable and not source else "file")
        if kind not in ("file", "env"):
            raise UsageError(f"--secret {text!r}: unsupported type {kind!r}", reason="invalid-secret")
        if kind == "env" or (not source and name in os.environ and not variable):
            found[name] = _from_environment(name, variable or source or name)
        else:
            found[name] = _from_file(name, Path(source or name).expanduser())
    return found


def _from_environment(name: str, variable: str) -> Callable[[], bytes]:
    value = os.environ.get(variable)
    if value is None:
        raise NotFoundError(
            f"--secret id={name}: there is no environment variable {variable}", reason="secret-not-found"
        )
    return lambda: value.encode("utf-8", "surrogateescape")


def _from_file(name: str, path: Path) -> Callable[[], bytes]:
    if not path.is_file():
        raise NotFoundError(f"--secret id={name}: there is no file {path}", reason="secret-not-found")
    if path.stat().st_size > MAX_SECRET:
        raise UsageError(
            f"--secret id={name}: {path} is larger than {MAX_SECRET >> 10} KiB", reason="secret-too-large"
        )
    return path.read_bytes


def ssh_agents(texts: Iterable[str], stack: ExitStack) -> Mapping[str, Path]:
    """``default|ID[=SOCKET|KEY[,KEY…]]``: the agents' sockets. An agent for key files ends with ``stack``."""
    from polyarch.cli.agent import serving

    found: dict[str, Path] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not value:
            value = os.environ.get("SSH_AUTH_SOCK", "")
            if not value:
                raise UsageError(
                    f"--ssh {name}: SSH_AUTH_SOCK is not set",
                    hint="start ssh-agent, or name its socket or a key: --ssh default=PATH",
                    reason="no-ssh-agent",
                )
        paths = [Path(part).expanduser().absolute() for part in value.split(",")]
        if not paths[0].exists():
            raise NotFoundError(f"--ssh {name}: {paths[0]} is not there", reason="ssh-not-found")
        socket = paths[0] if paths[0].is_socket() else stack.enter_context(serving(paths))
        found[name or "default"] = socket
    return found


def hosts(texts: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """``NAME:ADDRESS`` or ``NAME=ADDRESS``; ``host-gateway`` is the loopback, as steps share the network."""
    import ipaddress

    found = []
    for text in texts:
        name, separator, address = text.partition("=") if "=" in text else text.partition(":")
        address = address.strip("[]")
        if address == "host-gateway":
            address = "127.0.0.1"
        try:
            if not separator or not name:
                raise ValueError
            ipaddress.ip_address(address)
        except ValueError:
            raise UsageError(
                f"bad format for add-host: {text!r}", hint="write NAME:ADDRESS", reason="invalid-host"
            ) from None
        found.append((name, address))
    return tuple(found)


def size(option: str, text: str) -> int:
    """Bytes, with b, k, m or g behind the number."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([bkmg]?)b?", text.strip().lower())
    if not match:
        raise UsageError(f"{option}: {text!r} is not a size", hint="such as 64m", reason="invalid-size")
    return int(float(match[1]) * _UNITS.get(match[2] or "b", 1))


def duration(option: str, text: str) -> float:
    """Seconds of a duration as Go writes it, such as ``1h30m`` or ``90s``; 0 for ""."""
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if "".join(number + unit for number, unit in parts) != text:
        raise UsageError(
            f"{option}: {text!r} is no duration", hint="such as 90s or 10m", reason="invalid-duration"
        )
    return sum(float(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit] for number, unit in parts)


def limits(texts: Iterable[str]) -> tuple[tuple[str, int, int], ...]:
    """``NAME=SOFT[:HARD]`` as docker's ``--ulimit``; -1 is no limit."""
    import resource

    known = {name.removeprefix("RLIMIT_").lower() for name in dir(resource) if name.startswith("RLIMIT_")}
    found = []
    for text in texts:
        name, equals, rest = text.partition("=")
        soft, colon, hard = rest.partition(":")
        if not equals or name not in known:
            raise UsageError(
                f"--ulimit {text!r}: there is no limit {name!r}",
                hint=", ".join(sorted(known)),
                reason="ulimit",
            )
        try:
            low = int(soft)
            high = int(hard) if colon else low
        except ValueError:
            raise UsageError(
                f"--ulimit {text!r} is not NAME=SOFT[:HARD]", hint="such as nofile=1024:2048", reason="ulimit"
            ) from None
        if high != -1 and (low > high or low == -1):
            raise UsageError(f"--ulimit {text!r}: the soft limit is above the hard one", reason="ulimit")
        found.append((name, low, high))
    return tuple(found)
