"""What a node's driver and endpoint are, from what a user wrote.

Nobody has to name a driver: this machine has no endpoint, ``ssh://`` is polyarch on the other side, a
``tcp://`` or ``unix://`` address a BuildKit daemon or a Docker engine, a word one of docker's contexts.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import msgspec

from polyarch.builder.instance import EMBEDDED
from polyarch.errors import UsageError

DRIVERS = {
    EMBEDDED: "this machine",
    "ssh": "polyarch on another machine, reached by ssh://",
    "remote": "a BuildKit daemon: tcp://, unix://, ssh://, docker-container:// or kube-pod://",
    "docker-engine": "the BuildKit of a Docker engine: its socket, tcp:// or ssh://",
    "kubernetes": "BuildKit in pods of a cluster, which this makes",
}
_ALIASES = {"docker": "docker-engine", "engine": "docker-engine", "k8s": "kubernetes", "local": EMBEDDED}
_ELSEWHERE = {
    "docker-container": "leave --driver out: this machine builds for many platforms without a container; a "
    "BuildKit container that is there is --driver remote docker-container://NAME",
    "podman": "leave --driver out: this machine builds without podman",
    "nerdctl": "leave --driver out, or reach its BuildKit with --driver remote unix://SOCKET",
    "cloud": "polyarch has no cloud of its own: name your machines with ssh://, or a cluster with --driver "
    "kubernetes",
}
HERE = ("", EMBEDDED, "local", "default")
DOCKER_SOCKET = "unix:///var/run/docker.sock"
_SCHEMES = {
    "ssh": ("ssh",),
    "remote": ("tcp", "unix", "ssh", "docker-container", "kube-pod"),
    "docker-engine": ("unix", "tcp", "ssh"),
}
_ENGINE_PORTS = (2375, 2376)
_CONTEXT = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.+-]+")
_MAX_CONTEXT = 1 << 20  # bytes of a context's description


def resolve(driver: str, endpoint: str, environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """The driver and the endpoint that are meant. UsageError says what is wrong, and what is right."""
    driver = _driver(driver)
    endpoint = endpoint.strip()
    match driver:
        case "":
            return _guessed(endpoint, environment)
        case "embedded" if endpoint in HERE:
            return driver, ""
        case "embedded" | "kubernetes" if endpoint:
            raise UsageError(
                f"the driver {driver} takes no endpoint, but {endpoint!r} is given",
                hint="leave the endpoint out"
                if driver == "kubernetes"
                else "leave --driver out: the endpoint says what it is",
                reason="invalid-endpoint",
            )
        case "kubernetes":
            return driver, ""
        case "docker-engine":
            return driver, _checked(driver, _engine(endpoint, environment))
        case "remote" if not endpoint:
            endpoint = environment.get("BUILDKIT_HOST", "")
    if not endpoint:
        raise UsageError(
            f"no {driver} endpoint provided",
            hint=f"name one, such as {_example(driver)}",
            reason="endpoint-missing",
        )
    return driver, _checked(driver, endpoint)


def _driver(name: str) -> str:
    name = _ALIASES.get(name, name)
    if not name or name in DRIVERS:
        return name
    close = get_close_matches(name, DRIVERS, n=1)
    known = "; ".join(f"{driver}: {text}" for driver, text in DRIVERS.items())
    raise UsageError(
        f'failed to find driver "{name}"',
        detail=f"did you mean {close[0]!r}?" if close and name not in _ELSEWHERE else "",
        hint=_ELSEWHERE.get(name, f"there are {known}"),
        reason="unknown-driver",
    )


def _guessed(endpoint: str, environment: Mapping[str, str]) -> tuple[str, str]:
    if endpoint in HERE:
        return EMBEDDED, ""
    scheme, separator, _ = endpoint.partition("://")
    if not separator:
        if host := context_host(endpoint, environment):
            return "docker-engine", _checked("docker-engine", host)
        raise UsageError(
            f"{endpoint!r} is neither an endpoint nor one of docker's contexts",
            hint=f"another machine is ssh://{endpoint}; a daemon tcp://HOST:PORT or unix:///SOCKET",
            reason="invalid-endpoint",
        )
    if scheme == "kubernetes":
        raise UsageError(
            f"{endpoint}: a cluster is found by your kubeconfig",
            hint="--driver kubernetes, and no endpoint",
            reason="invalid-endpoint",
        )
    driver = {"ssh": "ssh", "tcp": "remote", "unix": "remote"}.get(scheme, "remote")
    checked = _checked(driver, endpoint)
    if driver == "remote" and _is_engine(urlsplit(checked)):
        driver = "docker-engine"
    return driver, checked


def _is_engine(url: SplitResult) -> bool:
    if url.scheme == "unix":
        return Path(url.path).name in ("docker.sock", "podman.sock")
    return url.scheme == "tcp" and url.port in _ENGINE_PORTS


def _engine(endpoint: str, environment: Mapping[str, str]) -> str:
    if endpoint in HERE:
        return environment.get("DOCKER_HOST") or DOCKER_SOCKET
    if "://" not in endpoint and (host := context_host(endpoint, environment)):
        return host
    return endpoint


def _checked(driver: str, endpoint: str) -> str:
    """The endpoint, if the driver can reach such a one. What it holds ends in command lines: a host never
    starts with a hyphen, and no endpoint holds a password, as endpoints are shown and stored."""
    try:
        url = urlsplit(endpoint)
        port = url.port
    except ValueError as error:
        raise _wrong(driver, endpoint, str(error)) from None
    if url.scheme not in _SCHEMES[driver]:
        what = f"the driver {driver} reaches {', '.join(f'{one}://' for one in _SCHEMES[driver])}"
        raise _wrong(driver, endpoint, what)
    if any(ord(character) <= 32 or ord(character) == 127 for character in endpoint):
        raise _wrong(driver, endpoint, "it holds white space or control characters")
    if url.password is not None:
        shown = endpoint.replace(f":{url.password}@", ":…@", 1)
        raise UsageError(
            f"{shown}: an endpoint holds no password",
            hint="OpenSSH uses your keys and your agent",
            reason="password-in-endpoint",
        )
    if url.scheme == "unix":
        if not url.path.startswith("/") or url.netloc:
            raise _wrong(driver, endpoint, "a socket is named by its absolute path, unix:///PATH")
        return endpoint
    if not url.hostname:
        raise _wrong(driver, endpoint, "the host is missing")
    if url.hostname.startswith("-") or (url.username or "").startswith("-"):
        raise _wrong(driver, endpoint, "names do not start with a hyphen")
    if url.scheme in ("ssh", "tcp") and (url.path not in ("", "/") or url.query or url.fragment):
        raise _wrong(driver, endpoint, "nothing comes behind the host and port")
    if url.scheme == "tcp" and port is None:
        raise _wrong(driver, endpoint, "the port is missing")
    return endpoint


def _wrong(driver: str, endpoint: str, why: str) -> UsageError:
    return UsageError(
        f"{endpoint!r} cannot be reached: {why}",
        hint=f"such as {_example(driver)}",
        reason="invalid-endpoint",
    )


def _example(driver: str) -> str:
    return {
        "ssh": "ssh://user@host or ssh://user@host:2222",
        "docker-engine": "unix:///var/run/docker.sock or ssh://user@host",
    }.get(driver, "tcp://buildkitd:1234 or unix:///run/buildkit/buildkitd.sock")


def context_host(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """The engine's address in the docker context ``name``, "" where there is none."""
    if _CONTEXT.fullmatch(name) is None:
        return ""
    home = environment.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
    digest = hashlib.sha256(name.encode()).hexdigest()
    path = Path(home, "contexts", "meta", digest, "meta.json")
    try:
        with path.open("rb") as file:
            document = msgspec.json.decode(file.read(_MAX_CONTEXT))
        host = document["Endpoints"]["docker"]["Host"]
    except (OSError, msgspec.DecodeError, RecursionError, KeyError, TypeError):
        return ""
    return host if isinstance(host, str) else ""
