"""``-o/--output`` as buildx reads it: CSV of ``key=value``, or a directory, or ``-``."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal, cast

from polyarch.errors import UsageError
from polyarch.export.annotations import Annotation, parse_attribute
from polyarch.layer.layer import Compression
from polyarch.oci.reference import Reference

OutputType = Literal["image", "oci", "docker", "local", "tar", "cacheonly"]

_TYPES = ("image", "registry", "oci", "docker", "local", "tar", "cacheonly")
_IMAGE_TYPES = frozenset({"image", "oci", "docker"})
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
# What BuildKit knows and what changes nothing here, with the reason.
_IGNORED = {
    "buildinfo": "removed from BuildKit",
    "buildinfo-attrs": "removed from BuildKit",
    "unpack": "the local store has nothing to unpack into",
    "store": "an image always stays in the local store",
    "prefer-nondist-layers": "layers that registries must not hold are never made",
    "dangling-name-prefix": "an image without a name stays in the local store under its digest",
    "attestation-prefix": "no attestations are exported to directories",
    "attestation-inline": "attestations are inline",
    "annotation": "",
    "mode": "directories are always replaced file by file",
}
_KNOWN = (
    "type", "dest", "name", "push", "push-by-digest", "name-canonical", "registry.insecure", "oci-mediatypes",
    "oci-artifact", "compression", "compression-level", "force-compression", "rewrite-timestamp", "tar",
    "platform-split", "annotation", "context", *_IGNORED,
)  # fmt: skip


@dataclass(frozen=True)
class Output:
    """One output.

    ``destination`` is a path, ``-`` for standard output or "". ``names`` replace the build's tags when there
    are any. ``type="docker"`` without a destination means: hand it to the engine (``--load``).
    """

    type: OutputType
    destination: str = ""
    names: tuple[Reference, ...] = ()
    push: bool = False
    push_by_digest: bool = False
    name_canonical: bool = False
    insecure: bool = False
    oci_media_types: bool = True
    compression: Compression = field(default_factory=Compression)
    rewrite_timestamp: bool = False
    tar: bool = True
    platform_split: bool | None = None
    context: str = ""
    annotations: tuple[Annotation, ...] = ()

    @property
    def is_image(self) -> bool:
        """Whether it needs manifests, not just files."""
        return self.type in _IMAGE_TYPES

    @property
    def loads(self) -> bool:
        """Whether the image goes into a container engine."""
        return self.type == "docker" and not self.destination


def parse(text: str) -> Output:
    """One ``--output`` value; UsageError says what is wrong with it and what was probably meant."""
    try:
        rows = list(csv.reader([text], strict=True))
    except csv.Error as error:
        raise _bad(text, f"it is not valid CSV ({error})") from None
    fields = rows[0] if rows else []
    if not fields or not text.strip():
        raise _bad(text, "it is empty")
    if len(fields) == 1 and fields[0] == text and not _is_assignment(text):
        return Output("tar", "-") if text == "-" else Output("local", text)
    pairs = []
    for part in fields:
        key, equals, value = part.partition("=")
        if not equals:
            raise _bad(text, f"{part!r} is not key=value")
        pairs.append((key.strip(), value))
    return _build(text, pairs)


def parse_all(texts: Iterable[str], *, push: bool = False, load: bool = False) -> tuple[Output, ...]:
    """Every ``--output``, with ``--push`` and ``--load`` put in as buildx does: ``--push`` makes the image
    outputs push, or adds one; ``--load`` adds ``type=docker`` unless it is there."""
    outputs = [parse(text) for text in texts]
    if push:
        if any(output.type == "image" for output in outputs):
            outputs = [replace(o, push=True) if o.type == "image" else o for o in outputs]
        else:
            outputs.append(Output("image", push=True))
    if load and not any(output.loads for output in outputs):
        outputs.append(Output("docker"))
    _check_together(outputs)
    return tuple(outputs)


def _is_assignment(text: str) -> bool:
    """``type=…`` or another attribute; a directory may have an equals sign in its name all the same."""
    key, equals, _ = text.partition("=")
    key = key.strip().lower()
    return bool(equals) and (key in _KNOWN or parse_attribute(key, "") is not None)


def _build(text: str, pairs: list[tuple[str, str]]) -> Output:
    lowered = {key.lower(): value for key, value in pairs}
    if "type" not in lowered:
        raise _bad(text, "type is missing", hint="such as type=image, type=local or type=oci")
    kind = lowered["type"]
    if kind not in _TYPES:
        raise _bad(
            text,
            f"there is no output type {kind!r}{_meant(kind, _TYPES)}",
            hint=f"types are {', '.join(_TYPES)}",
        )
    attributes = _Attributes(text, pairs)
    output = Output(
        type=cast(OutputType, "image" if kind == "registry" else kind),
        destination=attributes.text("dest"),
        names=attributes.names(),
        push=attributes.flag("push", kind == "registry"),
        push_by_digest=attributes.flag("push-by-digest", False),
        name_canonical=attributes.flag("name-canonical", False),
        insecure=attributes.flag("registry.insecure", False),
        oci_media_types=attributes.flag("oci-mediatypes", True),
        compression=attributes.compression(),
        rewrite_timestamp=attributes.flag("rewrite-timestamp", False),
        tar=attributes.flag("tar", True),
        platform_split=attributes.flag("platform-split", True) if "platform-split" in lowered else None,
        context=attributes.text("context"),
        annotations=attributes.annotations(),
    )
    attributes.flag("oci-artifact", False)
    attributes.refuse_unknown()
    return _with_destination(text, output)


def _with_destination(text: str, output: Output) -> Output:
    match output.type:
        case "local" if not output.destination:
            raise _bad(text, "dest is required for type=local", hint="add dest=DIRECTORY")
        case "local" if output.destination == "-":
            raise _bad(text, "a directory cannot be written to standard output", hint="use type=tar,dest=-")
        case "oci" if not output.tar and output.destination in ("", "-"):
            raise _bad(text, "dest is required for tar=false", hint="add dest=DIRECTORY")
        case "oci" | "tar" if not output.destination:
            return replace(output, destination="-")
        case "image" | "cacheonly" if output.destination:
            raise _bad(text, f"type={output.type} has no dest", hint="type=oci,dest=FILE writes an archive")
    return output


def _check_together(outputs: list[Output]) -> None:
    if sum(output.destination == "-" for output in outputs) > 1:
        raise UsageError("two outputs cannot both be written to standard output", reason="invalid-output")
    seen: set[str] = set()
    for output in outputs:
        if output.destination and output.destination != "-":
            if output.destination in seen:
                raise UsageError(f"two outputs write to {output.destination}", reason="invalid-output")
            seen.add(output.destination)


class _Attributes:
    """The attributes of one output; knows which were asked for, so that the rest can be refused."""

    def __init__(self, text: str, pairs: list[tuple[str, str]]) -> None:
        self._text = text
        self._pairs = pairs
        self._values = {key.lower(): value for key, value in pairs}

    def text(self, key: str) -> str:
        return self._values.get(key, "")

    def flag(self, key: str, default: bool) -> bool:  # noqa: FBT001 - reads as a table in _build
        value = self._values.get(key)
        if value is None or value == "":
            return default if value is None else True
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise _bad(self._text, f"{key}={value} is neither true nor false")

    def names(self) -> tuple[Reference, ...]:
        return tuple(Reference.parse(name.strip()) for name in self.text("name").split(",") if name.strip())

    def annotations(self) -> tuple[Annotation, ...]:
        found = (parse_attribute(key, value) for key, value in self._pairs)
        return tuple(annotation for annotation in found if annotation is not None)

    def compression(self) -> Compression:
        kind = self._values.get("compression", "gzip")
        force = self.flag("force-compression", False)
        level = self._values.get("compression-level", "")
        if level and not level.lstrip("-").isdecimal():
            raise _bad(self._text, f"compression-level={level} is not a number")
        number = int(level) if level else None
        match kind:
            case "gzip":
                # BuildKit takes anything and lets 0..9 count.
                return Compression("gzip", None if number is None else max(0, min(9, number)), force)
            case "zstd":
                return Compression("zstd", None if number is None else max(1, min(22, number)), force)
            case "uncompressed":
                return Compression("none", None, force)
            case "estargz" | "nydus":
                raise _bad(
                    self._text,
                    f"compression={kind} is not supported",
                    hint="use compression=gzip, which every engine reads, or compression=zstd",
                )
        kinds = ("gzip", "zstd", "uncompressed")
        raise _bad(
            self._text,
            f"there is no compression {kind!r}{_meant(kind, kinds)}",
            hint=f"compressions are {', '.join(kinds)}",
        )

    def refuse_unknown(self) -> None:
        for key, value in self._pairs:
            if key.lower() not in _KNOWN and parse_attribute(key, value) is None:
                raise _bad(self._text, f"there is no attribute {key!r}{_meant(key, _KNOWN)}")


def _meant(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, tuple(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _bad(text: str, why: str, *, hint: str = "") -> UsageError:
    return UsageError(f"invalid --output {text!r}: {why}", hint=hint, reason="invalid-output")
