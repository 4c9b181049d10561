"""What never gets into a record: secrets' values, credentials in URLs, values that are called secret."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

HIDDEN = "xxxxx"
_SHORTEST = 4  # a secret of three characters would black out half of every log
_USERINFO = re.compile(r"(?<=://)[^/@\s\"']+@")
_SECRET_NAME = re.compile(
    r"(?i)(^|[_.-])(api_?key|auth|credentials?|key|p(ass)?(word|wd)|passwd|secret|token)s?($|[_.-])"
)
_SECRET_FIELD = re.compile(r"(?i)\b(token|password|secret[a-z_]*|session_token|access_key[a-z_]*)=[^,\s]*")


class Veil:
    """Hides values it was told of, and the credentials of URLs. Told from any thread."""

    def __init__(self) -> None:
        self._values: tuple[str, ...] = ()

    def hide(self, value: bytes) -> None:
        """Hide ``value``, and each line of it, from now on."""
        text = value.decode("utf-8", "replace")
        found = {part.strip("\r") for part in (text, text.strip(), *text.splitlines())}
        kept = {part for part in found if len(part.strip()) >= _SHORTEST}
        self._values = tuple(sorted(kept | set(self._values), key=len, reverse=True))

    def __call__(self, text: str) -> str:
        """``text`` without what is hidden."""
        for value in self._values:
            if value in text:
                text = text.replace(value, HIDDEN)
        return without_credentials(text)


def without_credentials(text: str) -> str:
    """``text`` with the user and password of every URL hidden."""
    return _USERINFO.sub(f"{HIDDEN}@", text) if "@" in text and "://" in text else text


def options_to_keep(options: Mapping[str, object]) -> dict[str, object]:
    """The options of a build as they may be written down. A build argument that is called secret keeps its
    name alone."""
    kept: dict[str, object] = {}
    for name, value in options.items():
        if isinstance(value, str):
            kept[name] = _clean(name, value)
        elif isinstance(value, list | tuple):
            kept[name] = [_clean(name, str(each)) for each in value]
        elif isinstance(value, bool | int):
            kept[name] = value
    return kept


def _clean(name: str, value: str) -> str:
    if name in ("build_args", "labels"):
        key, equals, content = value.partition("=")
        if equals and (_SECRET_NAME.search(key) or without_credentials(content) != content):
            return f"{key}={HIDDEN}"
        return value
    if name == "secrets":
        return value  # where the secret is, not what it is
    return _SECRET_FIELD.sub(rf"\1={HIDDEN}", without_credentials(value))


def hidden_in(options: Mapping[str, object]) -> list[str]:
    """The options whose values were not kept, as ``name value``."""
    found = []
    for name, value in options.items():
        texts: Iterable[object] = value if isinstance(value, list | tuple) else [value]
        found += [f"{name} {text}" for text in texts if isinstance(text, str) and HIDDEN in text]
    return found
