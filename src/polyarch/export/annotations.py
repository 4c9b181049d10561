"""Annotations as buildx writes them: ``[TYPE[,TYPE…][[PLATFORM]]:]KEY=VALUE`` on the command line, and
``annotation[-TYPE][[PLATFORM]].KEY=VALUE`` among an output's attributes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from polyarch.errors import UsageError
from polyarch.oci.platform import Platform

Level = Literal["manifest", "index", "manifest-descriptor", "index-descriptor"]
_LEVELS = get_args(Level)
_TYPE = re.compile(r"([a-z-]+)(?:\[([A-Za-z0-9_./-]+)\])?")
_ATTRIBUTE = re.compile(r"annotation(?:-([a-z-]+))?(?:\[([A-Za-z0-9_./-]+)\])?\.(.+)", re.DOTALL)


@dataclass(frozen=True)
class Annotation:
    """One annotation, where it goes, and for which platform (None: every one)."""

    key: str
    value: str
    level: Level = "manifest"
    platform: Platform | None = None


def parse(text: str) -> tuple[Annotation, ...]:
    """The annotations of one ``--annotation`` option, one per type named; UsageError says what is wrong."""
    head, equals, value = text.partition("=")
    if not equals or not head:
        raise UsageError(
            f"invalid annotation {text!r}: expected key=value",
            hint="write it as [index:|manifest:|manifest[linux/amd64]:]KEY=VALUE",
            reason="invalid-annotation",
        )
    kinds, colon, key = head.partition(":")
    if not colon:
        return (Annotation(head, value),)
    if not key:
        raise UsageError(f"invalid annotation {text!r}: the key is missing", reason="invalid-annotation")
    return tuple(Annotation(key, value, *_kind(kind, text)) for kind in kinds.split(","))


def parse_all(texts: Iterable[str]) -> tuple[Annotation, ...]:
    """Every annotation of repeated ``--annotation`` options."""
    return tuple(annotation for text in texts for annotation in parse(text))


def parse_attribute(name: str, value: str) -> Annotation | None:
    """An output's attribute as an annotation; None where ``name`` is another attribute."""
    match = _ATTRIBUTE.fullmatch(name)
    if match is None:
        return None
    kind, platform, key = match.groups()
    level = _level(kind or "manifest", f"{name}={value}")
    return Annotation(key, value, level, Platform.parse(platform).normalized() if platform else None)


def select(found: Sequence[Annotation], level: Level, platform: Platform | None = None) -> dict[str, str]:
    """What goes onto ``level`` for ``platform``; later ones win, one platform's win over general ones."""
    chosen: dict[str, str] = {}
    for wanted in (None, platform):
        for annotation in found:
            if annotation.level == level and annotation.platform == wanted:
                chosen[annotation.key] = annotation.value
    return dict(sorted(chosen.items()))


def _kind(text: str, whole: str) -> tuple[Level, Platform | None]:
    match = _TYPE.fullmatch(text)
    if match is None:
        raise UsageError(
            f"invalid annotation {whole!r}: {text!r} is not a type, or a type with [platform]",
            hint=f"types are {', '.join(_LEVELS)}",
            reason="invalid-annotation",
        )
    return _level(match[1], whole), Platform.parse(match[2]).normalized() if match[2] else None


def _level(text: str, whole: str) -> Level:
    if text not in _LEVELS:
        import difflib

        close = difflib.get_close_matches(text, _LEVELS, n=1)
        suggestion = f"; did you mean {close[0]!r}?" if close else ""
        raise UsageError(
            f"invalid annotation {whole!r}: unknown type {text!r}{suggestion}",
            hint=f"types are {', '.join(_LEVELS)}",
            reason="invalid-annotation",
        )
    return cast(Level, text)
