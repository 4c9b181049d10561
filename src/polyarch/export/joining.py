"""Parts of several machines joined in one index: only if all are there, and made from the same things."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec

from polyarch.content.chain import Chain
from polyarch.content.layout import Layout
from polyarch.content.store import Store
from polyarch.content.verify import read, read_manifest
from polyarch.content.walk import is_foreign, walk
from polyarch.errors import ContentError, NotFoundError, PolyarchError, UsageError
from polyarch.export.parts import SUFFIX, VERSION, Part
from polyarch.image import assemble
from polyarch.image.combine import Combined
from polyarch.oci import platform as platforms
from polyarch.oci.config import ImageConfig
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.proof.finding import Finding, Policy, refuse
from polyarch.proof.labels import Contents, Label, check_alike, check_labels

DIFFERENCES = ("revision", "context", "dockerfile", "target", "arguments", "bases", "contexts")
_MAX_RECORD = 16 << 20
_MAX_RECORDS = 1000
_DEPTH = 3  # folders below the one named in which records are looked for
_SHOWN = 5


@dataclass(frozen=True)
class Found:
    """A part where it lies: its record, and the store that has its content."""

    path: Path
    part: Part
    store: Store

    def __str__(self) -> str:
        return self.path.name.removesuffix(SUFFIX)


class Repositories(Protocol):
    """What opens repositories: ``registry.client.Client``."""

    def repository(self, reference: Reference, /) -> Store: ...


def find_parts(folders: Sequence[Path], client: Repositories) -> list[Found]:
    """Every part in ``folders`` or not far below them, by name. NotFoundError where there is none."""
    paths: dict[Path, None] = {}
    for folder in folders:
        if not folder.is_dir():
            raise NotFoundError(f"there is no folder {folder}", reason="no-parts")
        for depth in range(_DEPTH + 1):
            paths.update((path, None) for path in sorted(folder.glob("*/" * depth + f"*{SUFFIX}")))
    if not paths or len(paths) > _MAX_RECORDS:
        names = ", ".join(str(folder) for folder in folders)
        raise NotFoundError(
            f"there are no parts in {names}" if not paths else f"there are too many parts in {names}",
            hint="polyarch build --platform P --part DIR leaves one there",
            reason="no-parts",
        )
    found = []
    for path in paths:
        part = _read(path)
        stores: list[Store] = [Layout(path.parent)]
        if part.repository:
            stores.append(client.repository(Reference.parse(part.repository)))
        found.append(Found(path, part, Chain(stores)))
    return sorted(found, key=str)


def _read(path: Path) -> Part:
    try:
        with path.open("rb") as stream:
            data = stream.read(_MAX_RECORD + 1)
        part = msgspec.json.decode(data, type=Part)
    except (OSError, msgspec.DecodeError, RecursionError) as error:
        raise ContentError(f"{path} is no record of a part: {error}", reason="invalid-part") from None
    if part.version != VERSION or not part.platforms or len(part.platforms) != len(part.manifests):
        raise ContentError(
            f"{path} is a record that this version of polyarch cannot read",
            hint="build the part again with the version that joins them",
            reason="invalid-part",
        )
    return part


# --- are they of one image? ---------------------------------------------------------------------------------


def check_source(found: Sequence[Found], accepted: Sequence[str] = ()) -> None:
    """Raise PolyarchError (``parts-differ``) naming everything in which the parts' sources differ, but for
    what is ``accepted``."""
    lines: list[str] = []
    first = found[0]
    for other in found[1:]:
        lines += [f"  {kind}: {text}" for kind, text in _differences(first, other) if kind not in accepted]
    if lines:
        raise PolyarchError(
            f"the parts {', '.join(str(one) for one in found)} are not from the same source",
            detail="\n".join(dict.fromkeys(lines)),
            hint="build them all from one commit with the same options; "
            "--accept KIND joins them in spite of a difference that is meant",
            reason="parts-differ",
        )


def _differences(one: Found, other: Found) -> Iterator[tuple[str, str]]:
    mine, its = one.part.source, other.part.source
    if mine.revision != its.revision:
        yield "revision", f"{one} is of {_commit(mine.revision)}, {other} of {_commit(its.revision)}"
    if mine.context != its.context:
        files = _changed_files(one, other)
        yield "context", f"{one} and {other} have other files{f': {files}' if files else ''}"
    if mine.dockerfile != its.dockerfile:
        yield "dockerfile", f"{one} and {other} have different Dockerfiles"
    if mine.target != its.target:
        yield (
            "target",
            f"{one} is of the stage {mine.target or '(last)'}, {other} of {its.target or '(last)'}",
        )
    for name in _unlike(mine.arguments, its.arguments, both=False):
        yield "arguments", f"{name} is not the same for {one} and {other}"
    for name in _unlike(mine.bases, its.bases, both=True):
        yield "bases", f"{name} was {mine.bases[name]} for {one}, {its.bases[name]} for {other}"
    for name in _unlike(mine.contexts, its.contexts, both=False):
        yield "contexts", f"the context {name} is not the same for {one} and {other}"


def _unlike(mine: Mapping[str, str], its: Mapping[str, str], *, both: bool) -> list[str]:
    """The names that differ; with ``both`` only those that both have (a platform may need other bases)."""
    names = mine.keys() & its.keys() if both else mine.keys() | its.keys()
    return sorted(name for name in names if mine.get(name) != its.get(name))


def _commit(revision: str) -> str:
    return f"commit {revision[:12]}" if revision else "no commit"


def _changed_files(one: Found, other: Found) -> str:
    """The names of files that differ, as far as the listings are there."""
    try:
        mine, its = (
            set(read(f.store, f.part.source.listing, limit=256 << 20).decode("utf-8", "replace").splitlines())
            for f in (one, other)
        )
    except PolyarchError:
        return ""
    names = sorted({line.rpartition(" ")[2] for line in mine ^ its})
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


# --- are all there? -----------------------------------------------------------------------------------------


def check_complete(
    found: Sequence[Found], wanted: Sequence[Platform], named: Sequence[tuple[str, Sequence[Platform]]] = ()
) -> list[Platform]:
    """The platforms of the whole in their order. PolyarchError (``parts-missing``) where one has no part,
    UsageError where one has two.

    They are ``wanted``, or what the builds were told the whole is. Where nobody said, all that is there is
    the whole, unless that is a single part, or less than the tags (``named``: each with its platforms) have.
    """
    there: dict[Platform, tuple[Found, Descriptor]] = {}
    for one in found:
        for manifest, platform in zip(one.part.manifests, one.part.platforms, strict=True):
            key = platform.normalized()
            before = there.setdefault(key, (one, manifest))
            if before[1].digest != manifest.digest:
                raise UsageError(
                    f"two parts are for {platform}: {before[0].path} and {one.path}",
                    hint="remove the one that is not meant",
                    reason="duplicate-part",
                )
    whole = list(wanted) or _told(found)
    missing = [str(one) for one in whole if one.normalized() not in there]
    if missing:
        raise _incomplete(missing, list(there), "they were asked for")
    if whole:
        extra = [str(one) for one in there if one not in {w.normalized() for w in whole}]
        if extra and not wanted:
            raise UsageError(
                f"there are parts for {', '.join(extra)}, which the whole was not to have",
                hint="--platform P,P… says what the whole is",
                reason="part-of",
            )
        return [one.normalized() for one in whole]
    for name, names in named:
        lost = [str(one) for one in names if platforms.choose(one, list(there)) is None]
        if lost:
            raise _incomplete(lost, list(there), f"{name} has them now")
    if len(there) == 1:
        raise PolyarchError(
            f"only one part is there, {found[0]}: are others missing?",
            hint=f"--platform {','.join(str(one) for one in there)} says that this is all",
            reason="parts-missing",
        )
    return sorted(there, key=str)


def _told(found: Sequence[Found]) -> list[Platform]:
    told = {one.part.whole for one in found if one.part.whole}
    if len({frozenset(names) for names in told}) > 1:
        lines = [f"  {one}: {', '.join(one.part.whole) or 'not said'}" for one in found]
        raise PolyarchError(
            "the parts were built with different --part-of",
            detail="\n".join(lines),
            hint="--platform P,P… says what the whole is",
            reason="parts-differ",
        )
    return [Platform.parse(name) for name in next(iter(told), ())]


def _incomplete(missing: Sequence[str], there: Sequence[Platform], why: str) -> PolyarchError:
    return PolyarchError(
        f"the parts are not complete: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing, "
        f"and {why}",
        detail=f"  there are {', '.join(str(one) for one in there)}",
        hint="nothing was tagged; build what is missing, or say with --platform what the whole is",
        reason="parts-missing",
    )


# --- the whole ----------------------------------------------------------------------------------------------


def join(
    found: Sequence[Found],
    whole: Sequence[Platform],
    *,
    annotations: Mapping[str, str] | None = None,
    descriptor_annotations: Mapping[str, str] | None = None,
) -> Combined:
    """The index of the parts' variants in the order of ``whole``. ContentError where a part lacks content."""
    chosen: dict[Platform, tuple[Store, Descriptor]] = {}
    for one in found:
        for manifest, platform in zip(one.part.manifests, one.part.platforms, strict=True):
            chosen.setdefault(platform.normalized(), (one.store, manifest))
    parts = [chosen[platform] for platform in whole]
    for store, manifest in parts:
        _check_content(store, manifest)
    entries = [
        msgspec.structs.replace(entry, annotations={**entry.annotations, **(descriptor_annotations or {})})
        for _, entry in parts
    ]
    raw = assemble.index(entries, annotations=annotations, media_types=_media_types(entries))
    return Combined(raw, tuple(parts))


def _media_types(entries: Sequence[Descriptor]) -> assemble.MediaTypes:
    docker = all("vnd.docker" in entry.media_type and not entry.annotations for entry in entries)
    return "docker" if docker else "oci"


def _check_content(store: Store, manifest: Descriptor) -> None:
    try:
        missing = [
            blob.digest
            for blob in walk(store, manifest)
            if not is_foreign(blob) and not store.exists(blob.digest)
        ]
    except NotFoundError:
        missing = [manifest.digest]
    if missing:
        raise ContentError(
            f"the part for {manifest.platform} is not whole: it lacks {missing[0]}"
            + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            hint="copy the folder of the part again, all of it",
            reason="part-damaged",
        )


def origins_of(found: Sequence[Found]) -> dict[str, tuple[str, ...]]:
    """Where the parts' layers can be had besides, for a registry to take them over from there."""
    origins: dict[str, tuple[str, ...]] = {}
    for one in found:
        for digest, places in one.part.origins.items():
            origins[digest] = (*origins.get(digest, ()), *places)
        if one.part.repository:
            for manifest in one.part.manifests:
                for blob in walk(one.store, manifest):
                    origins[blob.digest] = (one.part.repository, *origins.get(blob.digest, ()))
    return origins


def prove(found: Sequence[Found], combined: Combined, policy: Policy) -> tuple[Finding, ...]:
    """What is wrong with the variants as a whole; each for itself was proved when it was built. Raises what
    ``refuse`` does, and returns the rest."""
    labels, contents = [], []
    code = {manifest.digest: one.part.code for one in found for manifest in one.part.manifests}
    for store, entry in combined.parts:
        assert entry.platform is not None
        raw = read_manifest(store, entry)
        config = ImageConfig.parse(read(store, raw.manifest.config, limit=8 << 20))
        layers = tuple(layer.digest for layer in raw.manifest.layers)
        labels.append(Label(entry.platform, config, layers, entry.digest))
        contents.append(Contents(str(entry.platform), code=code.get(entry.digest, True)))
    findings = policy.apply([*check_labels(labels), *check_alike(labels, contents)])
    refuse(findings)
    return findings
