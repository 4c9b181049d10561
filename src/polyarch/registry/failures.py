"""What goes wrong with a registry, told in the user's words: operation, object, host, the registry's own
message (made harmless), and the way out."""

from __future__ import annotations

import json
import re
import socket
import ssl
from dataclasses import dataclass

import urllib3.exceptions as transport

from polyarch.errors import NotFoundError, PolyarchError, RegistryError

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
_MISSING = frozenset({"MANIFEST_UNKNOWN", "NAME_UNKNOWN", "BLOB_UNKNOWN", "NOT_FOUND"})


@dataclass(frozen=True)
class Task:
    """What is being done, for messages: ``pushing blob sha256:… to localhost:5000/app``."""

    operation: str
    registry: str

    def __str__(self) -> str:
        return self.operation


def harmless(text: str, limit: int = 300) -> str:
    """A stranger's text without control characters and bidirectional tricks, cut to ``limit`` characters."""
    cleaned = _CONTROL.sub(" ", text).strip()
    return cleaned if len(cleaned) <= limit else cleaned[: limit - 1] + "…"


def own_words(body: bytes) -> tuple[str, str]:
    """The first error code and the messages in a registry's error body (distribution-spec, "Error Codes")."""
    try:
        document = json.loads(body)
        errors = [entry for entry in document["errors"] if isinstance(entry, dict)]
    except (ValueError, RecursionError, KeyError, TypeError):
        return "", ""
    messages = []
    for entry in errors[:5]:
        parts = [str(entry.get("code") or ""), str(entry.get("message") or "")]
        messages.append(harmless(": ".join(part for part in parts if part)))
    code = harmless(str(errors[0].get("code") or ""), 60) if errors else ""
    return code, "\n".join(messages)


def refused(task: Task, status: int, body: bytes, *, note: str = "") -> PolyarchError:
    """The error for a response that is not what was hoped for. ``note`` is put behind the hint."""
    code, words = own_words(body)
    detail = f"the registry says: {words}" if words else f"the registry answered with HTTP status {status}"
    host = task.registry

    def error(summary: str, reason: str, hint: str = "") -> RegistryError:
        return RegistryError(
            f"{task}: {summary}",
            status=status,
            detail=detail,
            hint=" ".join(part for part in (hint, note) if part),
            reason=reason,
        )

    match status:
        case 401:
            return error(f"{host} wants credentials", "unauthorized", f"log in first: polyarch login {host}")
        case 403:
            return error(
                f"{host} denies access",
                "denied",
                f"the account may lack the right, or be the wrong one: polyarch login {host}",
            )
        case 404 if code in _MISSING or code == "":
            return NotFoundError(f"{task}: not found in {host}", detail=detail, reason="not-found")
        case 413:
            return error(
                f"{host} finds it too large", "too-large", "raise the registry's or its proxy's limit"
            )
        case 429:
            return error(
                f"{host} limits the rate", "rate-limited", f"wait, or log in for more: polyarch login {host}"
            )
        case 502 | 503 | 504:
            return error(f"{host} is down (status {status})", "registry-down", "try again later")
        case _ if status >= 500:
            return error(f"{host} failed (status {status})", "registry-failed", "try again later")
    return error(f"{host} refused it (status {status})", "registry-refused")


def unreachable(task: Task, error: BaseException) -> RegistryError:
    """The error for a connection that could not be made or broke."""
    host = task.registry
    cause = root_cause(error)
    match cause:
        case ssl.SSLCertVerificationError():
            return RegistryError(
                f"{task}: the certificate of {host} is not trusted",
                detail=harmless(cause.verify_message),
                hint=f"put its authority's certificate into /etc/docker/certs.d/{host}/ca.crt or "
                f"~/.docker/certs.d/{host}/ca.crt",
                reason="tls",
            )
        case ssl.SSLError():
            return RegistryError(
                f"{task}: {host} does not speak TLS as expected",
                detail=harmless(str(cause)),
                hint=f"if it speaks plain http, say so: POLYARCH_INSECURE_REGISTRIES={host}",
                reason="tls",
            )
        case socket.gaierror() | transport.NameResolutionError():
            what = f"the name of {host} cannot be resolved"
        case ConnectionRefusedError():
            what = f"{host} refuses connections"
        case TimeoutError() | transport.TimeoutError():
            what = f"{host} does not answer in time"
        case _:
            what = f"the connection to {host} broke"
    return RegistryError(
        f"{task}: {what}",
        detail=harmless(str(cause) or type(cause).__name__),
        hint="check the address, that the registry runs, and HTTP(S)_PROXY and NO_PROXY",
        reason="registry-down",
    )


def root_cause(error: BaseException) -> BaseException:
    """The innermost error that says something: urllib3 wraps several times."""
    for _ in range(8):
        inner = error.__cause__ or getattr(error, "original_error", None) or getattr(error, "reason", None)
        if not isinstance(inner, BaseException) and error.args and isinstance(error.args[-1], BaseException):
            inner = error.args[-1]
        if not isinstance(inner, BaseException) or inner is error:
            return error
        error = inner
    return error
