"""Driver options: which there are, and what their values may be."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from polyarch.errors import NotFoundError, UsageError

_FILES = frozenset({"cacert", "cert", "key"})
_TRUTH = {"true": "true", "1": "true", "t": "true", "false": "false", "0": "false", "f": "false"}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

# The options of each driver, and what kind of text their values are; see _value.
KNOWN: dict[str, dict[str, str]] = {
    "embedded": {},
    "ssh": {"root": "text", "command": "text", "grace": "time"},
    "remote": {
        "cacert": "file",
        "cert": "file",
        "key": "file",
        "servername": "text",
        "default-load": "truth",
        "timeout": "time",
        "push": "text",
    },
    "docker-engine": {
        "cacert": "file",
        "cert": "file",
        "key": "file",
        "servername": "text",
        "push": "text",
    },
    "kubernetes": {
        "image": "text",
        "namespace": "name",
        "replicas": "number",
        "requests.cpu": "quantity",
        "requests.memory": "quantity",
        "requests.ephemeral-storage": "quantity",
        "limits.cpu": "quantity",
        "limits.memory": "quantity",
        "limits.ephemeral-storage": "quantity",
        "buildkit-root-volume-memory": "quantity",
        "nodeselector": "pairs",
        "annotations": "pairs",
        "labels": "pairs",
        "tolerations": "tolerations",
        "serviceaccount": "name",
        "schedulername": "name",
        "timeout": "time",
        "rootless": "truth",
        "loadbalance": "loadbalance",
        "qemu.install": "truth",
        "qemu.image": "text",
        "default-load": "truth",
        "kubeconfig": "file",
        "context": "text",
    },
}
# Options for daemons' containers, which mean nothing where there is none; scripts give them all the same.
_HARMLESS = frozenset(
    {"network", "image", "default-load", "restart-policy", "cgroup-parent", "provenance-add-gha"}
)
_TOLERATION = frozenset({"key", "operator", "value", "effect", "tolerationSeconds"})


def parse(driver: str, given: Mapping[str, str]) -> dict[str, str]:
    """The options as they are recorded: files by absolute paths, truth values as true or false. UsageError
    for what the driver does not know or a value that cannot be."""
    known = KNOWN.get(driver, {})
    found: dict[str, str] = {}
    for key, value in given.items():
        if key.startswith("env.") and driver == "kubernetes":
            found[key] = value
            continue
        if key not in known:
            if driver in ("embedded", "ssh") and key in _HARMLESS:
                continue
            raise _unknown(driver, key, known)
        found[key] = _value(driver, key, value, known[key])
    _check_tls(driver, found)
    return found


def _unknown(driver: str, key: str, known: Mapping[str, str]) -> UsageError:
    close = get_close_matches(key, known, n=1)
    listed = f"there are {', '.join(known)}" if known else f"the driver {driver} has none"
    return UsageError(
        f'invalid driver option "{key}" for the driver {driver}',
        hint=f"did you mean {close[0]!r}?" if close else listed,
        reason="invalid-driver-option",
    )


def _value(driver: str, key: str, value: str, kind: str) -> str:
    match kind:
        case "file":
            path = Path(value).expanduser().absolute()
            if not path.is_file():
                raise NotFoundError(f"--driver-opt {key}: there is no file {path}", reason="file-not-found")
            return str(path)
        case "truth" if value.lower() in _TRUTH:
            return _TRUTH[value.lower()]
        case "number" if value.isascii() and value.isdigit() and 0 < int(value) <= 1000:
            return value
        case "time" if value.isdigit() or seconds(value) is not None:
            return value
        case "quantity" if re.fullmatch(r"\d+(\.\d+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?", value):
            return value
        case "name" if re.fullmatch(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?", value):
            return value
        case "loadbalance" if value in ("sticky", "random"):
            return value
        case "pairs" if all(pair[0] for pair in pairs_of(value)):
            return value
        case "tolerations" if all(_tolerates(one) for one in tolerations_of(value)):
            return value
        case "text" if value:
            return value
    wanted = {
        "truth": "true or false",
        "number": "a number from 1 to 1000",
        "time": "a duration such as 120s or 2m",
        "quantity": "a quantity such as 500m, 2 or 4Gi",
        "name": "a name of the cluster's: lower-case letters, digits, hyphens and dots",
        "loadbalance": "sticky or random",
        "pairs": "KEY=VALUE,KEY=VALUE",
        "tolerations": "key=KEY,operator=Exists,effect=NoSchedule;…",
    }.get(kind, "not empty")
    raise UsageError(f"--driver-opt {key}={value}: it must be {wanted}", reason="invalid-driver-option")


def _tolerates(one: Mapping[str, str]) -> bool:
    return set(one) <= _TOLERATION and one.get("tolerationSeconds", "0").isdigit()


def _check_tls(driver: str, found: Mapping[str, str]) -> None:
    if ("cert" in found) != ("key" in found):
        raise UsageError(
            f"the driver {driver} needs both cert and key, or neither",
            hint="--driver-opt cert=FILE,key=FILE",
            reason="invalid-driver-option",
        )


def seconds(text: str) -> float | None:
    """A Go duration (``1m30s``), or a number of seconds, in seconds; None for what is neither."""
    if text.isascii() and text.isdigit():
        return float(text)
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[smh])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def pairs_of(text: str) -> list[tuple[str, str]]:
    """``KEY=VALUE,KEY=VALUE``."""
    parts = [part.strip().partition("=") for part in text.split(",") if part.strip()]
    return [(key, value) for key, _, value in parts]


def tolerations_of(text: str) -> list[dict[str, str]]:
    """``key=K,operator=Exists,effect=NoSchedule;key=…``: a mapping each."""
    return [dict(pairs_of(one)) for one in text.split(";") if one.strip()]
