"""How long a credential lasts, where it says so itself: JSON web tokens, passwords of Amazon's registries."""

from __future__ import annotations

import base64
import binascii
import json

from polyarch.registry.credentials import Credential

_MAX_SECRET = 64 << 10


def ends_at(credential: Credential) -> float | None:
    """When ``credential`` stops being accepted, in seconds since 1970; None where it does not tell.

    A JSON web token has ``exp`` (RFC 7519, 4.1.4); a password of Amazon's registries is JSON in base64 that
    has ``expiration``. Nothing is verified: a wrong answer costs a warning.
    """
    secrets = (credential.registry_token, credential.identity_token, credential.password)
    return next((end for secret in secrets if secret and (end := _end(secret)) is not None), None)


def _end(secret: str) -> float | None:
    if len(secret) > _MAX_SECRET:
        return None
    parts = secret.split(".")
    claims = _json(parts[1]) if len(parts) == 3 else _json(secret)
    for name in ("exp", "expiration"):
        value = claims.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1 << 40:
            return float(value)
    return None


def _json(encoded: str) -> dict[str, object]:
    try:
        padded = encoded.replace("+", "-").replace("/", "_") + "=" * (-len(encoded) % 4)
        found = json.loads(base64.urlsafe_b64decode(padded))
    except (binascii.Error, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
