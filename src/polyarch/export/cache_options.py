"""``--cache-to`` and ``--cache-from`` as buildx reads them: CSV of ``key=value``, or just a reference."""

from __future__ import annotations

import csv
import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from polyarch.errors import UsageError
from polyarch.export.cache_service import ServiceOptions
from polyarch.layer.layer import Compression
from polyarch.oci import digest as digests
from polyarch.oci.reference import Reference

Mode = Literal["min", "max"]

_TRUE = frozenset({"1", "t", "true"})
_FALSE = frozenset({"0", "f", "false"})
_TO = frozenset({
    "type", "ref", "dest", "tag", "mode", "compression", "compression-level", "force-compression",
    "oci-mediatypes", "image-manifest", "ignore-error", "registry.insecure", "scope",
})  # fmt: skip
_FROM = frozenset({"type", "ref", "src", "tag", "digest", "registry.insecure", "scope"})
_SERVICE = frozenset({"url", "url_v2", "token", "timeout", "repository", "ghtoken", "version"})  # type=gha's
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_FOREIGN = {
    "s3": "S3 is not supported yet; use type=registry, or type=local and copy the directory",
    "azblob": "Azure's blob storage is not supported yet; use type=registry, or type=local and copy the "
    "directory",
}


@dataclass(frozen=True)
class CacheTo:
    """Where a build's cache goes. ``reference`` is set for a registry, ``path`` and ``tag`` for a local
    directory, ``service`` for ``gha``, none for ``inline``. With ``strict`` a cache that cannot be written is
    an error."""

    type: Literal["registry", "local", "inline", "gha"]
    reference: Reference | None = None
    path: Path | None = None
    tag: str = "latest"
    mode: Mode = "min"
    compression: Compression | None = None  # the image's
    insecure: bool = False
    strict: bool = False
    service: ServiceOptions | None = None

    def __str__(self) -> str:
        return str(self.reference or self.path or _told(self.type, self.service))


@dataclass(frozen=True)
class CacheFrom:
    """Where results of other machines may be found; ``tag`` may also be a digest of a local directory's."""

    type: Literal["registry", "local", "gha"]
    reference: Reference | None = None
    path: Path | None = None
    tag: str = "latest"
    insecure: bool = False
    service: ServiceOptions | None = None

    def __str__(self) -> str:
        return str(self.reference or self.path or _told(self.type, self.service))


def _told(kind: str, service: ServiceOptions | None) -> str:
    return f"{kind} (scope {service.scope})" if service is not None else kind


def parse_to(texts: Iterable[str]) -> tuple[CacheTo, ...]:
    """Every ``--cache-to``; UsageError says what is wrong and what was probably meant."""
    return tuple(_to(text, pairs) for text in texts for pairs in _entries("--cache-to", text, _TO))


def parse_from(texts: Iterable[str]) -> tuple[CacheFrom, ...]:
    """Every ``--cache-from``."""
    return tuple(_from(text, pairs) for text in texts for pairs in _entries("--cache-from", text, _FROM))


def _entries(option: str, text: str, known: frozenset[str]) -> list[dict[str, str]]:
    """The entries of one value: one, or one for each of several bare references."""
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise _bad(option, text, f"it is not valid CSV ({error})") from None
    fields = [part for part in (rows[0] if rows else []) if part]
    if not fields:
        raise _bad(option, text, "it is empty")
    if not any("=" in part for part in fields):
        return [{"type": "registry", "ref": part} for part in fields]
    pairs: dict[str, str] = {}
    for part in fields:
        key, equals, value = part.partition("=")
        key = key.strip().lower()
        if not equals:
            raise _bad(option, text, f"{part!r} is not key=value")
        pairs[key] = value.strip()
    if not pairs.get("type"):
        raise _bad(
            option, text, "type is missing", hint="type=registry,ref=NAME, type=gha, type=local or inline"
        )
    _refuse(option, text, pairs, known)
    return [pairs]


def _refuse(option: str, text: str, pairs: dict[str, str], known: frozenset[str]) -> None:
    kind = pairs["type"]
    if kind in _FOREIGN:
        raise _bad(option, text, f"type={kind} cannot be used", hint=_FOREIGN[kind], reason="cache-type")
    if kind not in ("registry", "local", "inline", "gha"):
        raise _bad(option, text, f"there is no type={kind}", hint="registry, gha, local or inline")
    if kind == "gha":
        known = known - {"ref", "dest", "src", "tag", "digest", "registry.insecure"} | _SERVICE
        if option == "--cache-from":
            known = known | {"ignore-error", "mode"}  # workflows often say the same in both
    if "scope" in pairs and kind == "inline":
        raise _bad(option, text, "type=inline has no scope", hint="an image is its own")
    if not re.fullmatch(r"[A-Za-z0-9_.-]{0,64}", pairs.get("scope", "")):
        raise _bad(option, text, f"scope={pairs['scope']}", hint="letters, digits, '.', '_' and '-'")
    for key in pairs:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
            raise _bad(option, text, f"{key} is not known", hint=hint)


def _to(text: str, pairs: dict[str, str]) -> CacheTo:
    option = "--cache-to"
    kind = pairs["type"]
    mode = pairs.get("mode", "min")
    if mode not in ("min", "max"):
        raise _bad(option, text, f"mode={mode}", hint="mode=min or mode=max")
    if kind == "inline" and mode == "max":
        hint = "an image holds its own layers only; use type=registry,mode=max beside it"
        raise _bad(option, text, "type=inline has no mode=max", hint=hint)
    if not _flag(option, text, pairs, "oci-mediatypes", default=True):
        raise _bad(option, text, "oci-mediatypes=false", hint="a cache always has OCI media types")
    _flag(option, text, pairs, "image-manifest", default=True)  # each platform's part is one
    return CacheTo(
        cast(Literal["registry", "local", "inline", "gha"], kind),
        reference=_reference(option, text, pairs) if kind == "registry" else None,
        path=_path(option, text, pairs, "dest") if kind == "local" else None,
        service=_service(option, text, pairs) if kind == "gha" else None,
        tag=_scoped(pairs.get("tag", "latest"), pairs),
        mode=cast(Mode, mode),
        compression=_compression(option, text, pairs),
        insecure=_flag(option, text, pairs, "registry.insecure", default=False),
        strict=not _flag(option, text, pairs, "ignore-error", default=True),
    )


def _from(text: str, pairs: dict[str, str]) -> CacheFrom:
    option = "--cache-from"
    kind = pairs["type"]
    if kind == "inline":
        raise _bad(
            option, text, "type=inline", hint="an image's inline cache is read by type=registry,ref=IMAGE"
        )
    digest = pairs.get("digest", "")
    if digest and not digests.is_valid(digest):
        raise _bad(option, text, f"{digest!r} is no digest")
    return CacheFrom(
        cast(Literal["registry", "local", "gha"], kind),
        reference=_reference(option, text, pairs) if kind == "registry" else None,
        path=_path(option, text, pairs, "src") if kind == "local" else None,
        service=_service(option, text, pairs) if kind == "gha" else None,
        tag=digest or _scoped(pairs.get("tag", "latest"), pairs),
        insecure=_flag(option, text, pairs, "registry.insecure", default=False),
    )


def _service(option: str, text: str, pairs: dict[str, str]) -> ServiceOptions:
    """``repository`` and ``ghtoken``, with which BuildKit asks for a list of entries, are not needed."""
    parts = _DURATION.findall(pairs.get("timeout", ""))
    if "".join(number + unit for number, unit in parts) != pairs.get("timeout", ""):
        raise _bad(option, text, f"timeout={pairs['timeout']} is no duration", hint="such as 10m or 90s")
    return ServiceOptions(
        scope=pairs.get("scope") or "default",
        url=pairs.get("url", ""),
        url_v2=pairs.get("url_v2", ""),
        token=pairs.get("token", ""),
        timeout=sum(float(number) * _SECONDS[unit] for number, unit in parts),
    )


def _reference(option: str, text: str, pairs: dict[str, str]) -> Reference:
    if not pairs.get("ref"):
        raise _bad(option, text, "ref is missing", hint="type=registry,ref=NAME:TAG")
    found = Reference.parse(pairs["ref"])
    if option == "--cache-to" and found.digest:
        raise _bad(option, text, "a cache is written to a tag, not to a digest")
    if found.digest or not pairs.get("scope"):
        return found
    tag = _scoped(found.tag or "latest", pairs)
    if len(tag) > 128:
        raise _bad(option, text, "tag and scope together are longer than a tag may be (128)")
    return found.with_tag(tag)


def _scoped(tag: str, pairs: dict[str, str]) -> str:
    """The tag of a cache; every scope has one of its own."""
    scope = pairs.get("scope", "")
    return f"{tag}-{scope}" if scope else tag


def _path(option: str, text: str, pairs: dict[str, str], key: str) -> Path:
    if not pairs.get(key):
        raise _bad(option, text, f"{key} is missing", hint=f"type=local,{key}=DIRECTORY")
    return Path(pairs[key]).absolute()


def _compression(option: str, text: str, pairs: dict[str, str]) -> Compression | None:
    kinds: dict[str, Literal["gzip", "zstd", "none"]] = {
        "gzip": "gzip", "zstd": "zstd", "uncompressed": "none",
    }  # fmt: skip
    if not pairs.keys() & {"compression", "compression-level", "force-compression"}:
        return None
    kind = pairs.get("compression", "gzip")
    if kind not in kinds:
        raise _bad(option, text, f"compression={kind}", hint="gzip, zstd or uncompressed")
    level = pairs.get("compression-level", "")
    if level and not level.lstrip("-").isdecimal():
        raise _bad(option, text, f"compression-level={level} is no number")
    force = _flag(option, text, pairs, "force-compression", default=False)
    return Compression(kinds[kind], int(level) if level else None, force)


def _flag(option: str, text: str, pairs: dict[str, str], key: str, *, default: bool) -> bool:
    value = pairs.get(key, "").lower()
    if not value:
        return default
    if value not in _TRUE | _FALSE:
        raise _bad(option, text, f"{key}={value} is neither true nor false")
    return value in _TRUE


def _bad(
    option: str, text: str, why: str, *, hint: str = "", reason: str = "invalid-cache-option"
) -> UsageError:
    shown = re.sub(r"((?:gh)?token)=[^,\"]*", r"\1=…", text, flags=re.IGNORECASE)
    return UsageError(f"{option} {shown}: {why}", hint=hint, reason=reason)


def insecure_caches(options: Iterable[CacheTo | CacheFrom]) -> frozenset[str]:
    """The registries that ``registry.insecure=true`` lets be reached by plain http."""
    return frozenset(o.reference.registry for o in options if o.reference is not None and o.insecure)
