"""The proof of a whole image, wherever it is: labels, then every variant, each layer read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from polyarch.content.store import Store
from polyarch.errors import ContentError, NotFoundError
from polyarch.image.inspect import Inspection, Variant
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform
from polyarch.proof.finding import Finding, Policy
from polyarch.proof.labels import Contents, Label, check_alike, check_labels, raise_missing
from polyarch.proof.scanned import Scanner
from polyarch.proof.variant import prove

Told = Callable[[Platform], None]


class VariantReport(msgspec.Struct, frozen=True, kw_only=True):
    """One variant: what was looked at, and what was found in it alone."""

    platform: str
    digest: str
    layers: int
    files: int
    programs: int
    findings: tuple[Finding, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The proof of an image. ``findings`` are about the image as a whole."""

    name: str
    digest: str
    variants: tuple[VariantReport, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def all(self) -> list[Finding]:
        """Every finding, those of the whole first."""
        return [*self.findings, *(finding for one in self.variants for finding in one.findings)]

    @property
    def sound(self) -> bool:
        """Whether there is no error."""
        return not any(finding.severity == "error" for finding in self.all)


@dataclass
class _Judged:
    variant: Variant
    platform: Platform
    found: list[Finding]
    contents: Contents
    layers: int
    programs: int


def verify(
    image: Inspection,
    store: Store,
    *,
    wanted: Sequence[Platform] = (),
    policy: Policy | None = None,
    told: Told | None = None,
) -> Report:
    """Prove ``image``, or its variants for ``wanted`` (NotFoundError when there is none for one of them).

    ``told`` is called with each platform before its layers are read. Raises what the store raises.
    """
    chosen = _chosen(image, wanted)
    if not chosen:
        raise ContentError(f"{image.name} is no image that could run", reason="no-image")
    labels = [_label(variant, platform) for variant, platform in _chosen(image, ())]
    scanner = Scanner(store)
    judged = []
    for variant, platform in chosen:
        if told is not None:
            told(platform)
        evidence = scanner.evidence(variant, platform)
        programs = sum(entry.machine != "" for _, entries in evidence.layers() for entry in entries)
        judged.append(
            _Judged(
                variant,
                platform,
                list(prove(evidence)),
                Contents.of(evidence),
                len(variant.layers),
                programs,
            )
        )
    whole = list(check_labels(labels)) if image.is_index or len(labels) > 1 else []
    if len(judged) > 1:
        whole += check_alike([_label(j.variant, j.platform) for j in judged], [j.contents for j in judged])
    found = raise_missing(
        [finding for one in judged for finding in one.found], [one.platform for one in judged]
    )
    return _report(image, judged, found, whole, policy or Policy())


def _report(
    image: Inspection, judged: Sequence[_Judged], found: list[Finding], whole: list[Finding], policy: Policy
) -> Report:
    variants = []
    for one in judged:
        mine, found = found[: len(one.found)], found[len(one.found) :]
        variants.append(
            VariantReport(
                platform=str(one.platform),
                digest=one.variant.descriptor.digest,
                layers=one.layers,
                files=len(one.contents.names),
                programs=one.programs,
                findings=policy.apply(mine),
            )
        )
    return Report(
        name=image.name, digest=image.digest, variants=tuple(variants), findings=policy.apply(whole)
    )


def _label(variant: Variant, platform: Platform) -> Label:
    layers = tuple(layer.digest for layer in variant.layers)
    return Label(platform, variant.config, layers, variant.descriptor.digest)


def _chosen(image: Inspection, wanted: Sequence[Platform]) -> list[tuple[Variant, Platform]]:
    there = [(v, v.platform) for v in image.variants if v.platform is not None and v.config_bytes]
    if not wanted:
        return there
    found = []
    for one in wanted:
        position = platforms.choose(one, [platform for _, platform in there])
        if position is None:
            names = ", ".join(str(platform) for _, platform in there) or "none at all"
            raise NotFoundError(
                f"{image.name} has no variant for {one}",
                hint=f"platforms it has: {names}",
                reason="no-platform",
            )
        found.append(there[position])
    return found
