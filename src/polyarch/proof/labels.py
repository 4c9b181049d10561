"""What an index says of its variants against what they are: platforms, duplicates, contents (un)like."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from polyarch.oci.config import ImageConfig
from polyarch.oci.platform import KNOWN_ARCHITECTURES, KNOWN_OS, Platform
from polyarch.proof.evidence import Evidence
from polyarch.proof.finding import Finding, Severity

_FEW_FILES = 20  # fewer tell nothing
_FEW_BYTES = 1 << 20
_UNLIKE = 4  # so many times fewer files, or bytes, than the others have
_ALIKE = 0.3  # share of common names below which two variants are different images
# Every spelling of an architecture in names of files and in what programs print.
ARCHITECTURES = re.compile(
    r"x86[_-]64|amd64|aarch64|arm64|arm(?:v\d\w*|hf|el)?|i[3-6]86|riscv64|s390x|p(?:ower)?pc64(?:le|el)?|"
    r"loong(?:arch)?64|mips\w*|gnueabi(?:hf)?|musleabi(?:hf)?|\bx64\b|\b386\b"
)


@dataclass(frozen=True)
class Label:
    """One variant as its index lists it. ``layers`` are diff_ids or layer ids, lowest first."""

    platform: Platform
    config: ImageConfig
    layers: tuple[str, ...]
    digest: str = ""


@dataclass
class Contents:
    """What is counted of a variant: its files, of its own layers where the base's are known."""

    platform: str
    names: set[str] = field(default_factory=set)
    size: int = 0
    code: bool = False

    @classmethod
    def of(cls, evidence: Evidence, base_layers: int = 0) -> Contents:
        """``base_layers`` of the known layers, the lowest, are not this build's."""
        contents = cls(str(evidence.platform))
        for number, entries in evidence.layers():
            for entry in entries:
                contents.code = contents.code or entry.machine.startswith("elf:")
                if number >= base_layers and entry.type == "file":
                    contents.names.add(ARCHITECTURES.sub("@", entry.path))
                    contents.size += entry.size
        return contents


def check_labels(labels: Sequence[Label]) -> Iterator[Finding]:
    """Descriptors against configs, platforms that are there twice or unknown."""
    for label in labels:
        yield from _against_config(label)
        platform = label.platform
        if platform.os not in KNOWN_OS or platform.architecture not in KNOWN_ARCHITECTURES:
            yield _about(
                label.platform, "warning", "UnknownPlatform", f"nobody knows the platform {platform}"
            )
    counted = Counter(_identity(label.platform) for label in labels)
    for identity, count in counted.items():
        if count > 1:
            first = next(label for label in labels if _identity(label.platform) == identity)
            message = (
                f"the index has {count} variants for {first.platform.normalized()}, and only one is found"
            )
            yield _about(first.platform, "warning", "DuplicatePlatform", message)


def check_alike(labels: Sequence[Label], contents: Sequence[Contents]) -> Iterator[Finding]:
    """Variants with the same code, and those whose content is less than plausible beside the others'."""
    code = {one.platform: one.code for one in contents}
    seen: dict[tuple[str, ...], Label] = {}
    for label in labels:
        first = seen.setdefault(label.layers, label)
        if first is label or not label.layers or not code.get(str(label.platform)):
            continue
        if _identity(first.platform) != _identity(label.platform):
            message = f"the variants for {first.platform} and {label.platform} have the same programs"
            yield _about(label.platform, "warning", "IdenticalVariants", message)
    for one in contents:
        others = [other for other in contents if other is not one]
        if others:
            yield from _implausible(one, others)


def raise_missing(findings: Sequence[Finding], variants: Sequence[Platform]) -> list[Finding]:
    """What some variants start and others lack is an error of those that lack it. Variants for another
    operating system, which start other programs, say nothing."""
    alike = Counter(variant.os for variant in variants)
    lacking = Counter(
        (_system(finding), finding.message) for finding in findings if finding.rule == "MissingProgram"
    )
    return [
        msgspec.structs.replace(
            finding, severity="error", message=f"{finding.message}, but in other variants"
        )
        if finding.rule == "MissingProgram"
        and lacking[_system(finding), finding.message] < alike[_system(finding)]
        else finding
        for finding in findings
    ]


def _system(finding: Finding) -> str:
    return finding.platform.partition("/")[0]


def _against_config(label: Label) -> Iterator[Finding]:
    config, listed = label.config, label.platform.normalized()
    if not config.architecture:
        yield _about(
            listed, "warning", "PlatformMismatch", "its config does not say for which platform it is"
        )
        return
    declared = config.platform
    if (declared.os, declared.architecture) != (listed.os, listed.architecture):
        message = f"the index says {listed}, its config says {declared}"
        yield _about(listed, "error", "PlatformMismatch", message)
    elif config.variant and declared.variant != listed.variant and label.platform.variant:
        message = f"the index says {listed}, its config says {declared}"
        yield _about(listed, "warning", "PlatformMismatch", message)


def _implausible(one: Contents, others: Sequence[Contents]) -> Iterator[Finding]:
    from statistics import median

    count = median(len(other.names) for other in others)
    size = median(other.size for other in others)
    message = ""
    if count >= _FEW_FILES and len(one.names) * _UNLIKE < count:
        message = f"it has {len(one.names)} files where the others have {count:.0f}"
    elif size >= _FEW_BYTES and one.size * _UNLIKE < size:
        message = f"its files have {_megabytes(one.size)} where the others' have {_megabytes(size)}"
    elif count >= _FEW_FILES and len(one.names) >= _FEW_FILES:
        alike = max(len(one.names & o.names) / (len(one.names | o.names) or 1) for o in others)
        if alike < _ALIKE:
            message = f"only {alike:.0%} of its files have the names they have in the other variants"
    if message:
        yield Finding(
            severity="warning", rule="ImplausibleDifference", message=message, platform=one.platform
        )


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def _identity(platform: Platform) -> tuple[str, ...]:
    one = platform.normalized()
    return (one.os, one.architecture, one.variant, one.os_version, *one.os_features)


def _about(platform: Platform, severity: Severity, rule: str, message: str) -> Finding:
    return Finding(severity=severity, rule=rule, message=message, platform=str(platform))
