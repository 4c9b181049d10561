"""Platforms: what a program is compiled for (OCI image-spec, image-index.md, "platform").

Parsing, normalising and matching follow containerd's rules, so that ``x86_64``, ``aarch64`` or ``armhf`` mean
what they mean to docker.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from polyarch.errors import UsageError

_PART = re.compile(r"[A-Za-z0-9_.-]+")

KNOWN_OS = frozenset(
    "aix android darwin dragonfly freebsd hurd illumos ios js linux nacl netbsd openbsd plan9 solaris "
    "wasip1 windows zos".split()
)
KNOWN_ARCHITECTURES = frozenset(
    "386 amd64 amd64p32 arm armbe arm64 arm64be ppc64 ppc64le loong64 mips mipsle mips64 mips64le mips64p32 "
    "mips64p32le ppc riscv riscv64 s390 s390x sparc sparc64 wasm".split()
)

# What a processor can run besides its own architecture, nearest first (containerd platforms/compare.go).
_ARM_VARIANTS = ("v8", "v7", "v6", "v5")


class Platform(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One platform, normalised. ``str()`` gives ``os/architecture[/variant]``."""

    architecture: str
    os: str
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """``os[(version)]/architecture[/variant]``, or an os or an architecture alone (the rest is the host's).

        ``local`` is the host's platform. UsageError names what is wrong and what would be right.
        """
        return _parse(text)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def normalized(self) -> Platform:
        """The same platform by its canonical names: ``aarch64`` is ``arm64``, ``arm`` is ``arm/v7``."""
        architecture, variant = _normalize_architecture(self.architecture, self.variant)
        return msgspec.structs.replace(
            self, os=_normalize_os(self.os), architecture=architecture, variant=variant
        )

    def to_builtins(self) -> dict[str, Any]:
        """The JSON object of the specification."""
        builtins: dict[str, Any] = msgspec.to_builtins(self)
        return builtins


def _normalize_os(name: str) -> str:
    name = name.lower()
    return {"macos": "darwin"}.get(name, name)


def _normalize_architecture(architecture: str, variant: str) -> tuple[str, str]:
    architecture, variant = architecture.lower(), variant.lower()
    match architecture:
        case "i386":
            return "386", ""
        case "386":
            return "386", variant
        case "x86_64" | "x86-64" | "amd64":
            return "amd64", "" if variant == "v1" else variant
        case "aarch64" | "arm64":
            return "arm64", "" if variant in ("8", "v8", "v8.0") else variant
        case "armhf":
            return "arm", "v7"
        case "armel":
            return "arm", "v6"
        case "arm":
            return "arm", {"": "v7", "7": "v7", "5": "v5", "6": "v6", "8": "v8"}.get(variant, variant)
    return architecture, variant


def _bad(text: str, why: str) -> UsageError:
    return UsageError(
        f"{text!r} is not a platform: {why}",
        hint="write it as os/architecture[/variant], such as linux/amd64, linux/arm64 or linux/arm/v7",
        reason="unknown-platform",
    )


def _suggest(text: str, known: Iterable[str]) -> str:
    import difflib

    close = difflib.get_close_matches(text, sorted(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _parse(text: str) -> Platform:
    if text == "local":
        return host()
    parts = text.split("/")
    os_name, os_version = parts[0], ""
    if match := re.fullmatch(r"([A-Za-z0-9_.-]+)\(([A-Za-z0-9_.-]*)\)", parts[0]):
        os_name, os_version = match.groups()
    if len(parts) > 3 or not all(_PART.fullmatch(part) for part in [os_name, *parts[1:]]):
        raise _bad(text, "it must be one to three words joined by '/'")
    if len(parts) == 1:
        return _parse_single(text, os_name, os_version)
    os_name = _normalize_os(os_name)
    variant = parts[2] if len(parts) == 3 else ""
    architecture, variant = _normalize_architecture(parts[1], variant)
    if os_name not in KNOWN_OS:
        raise _bad(text, f"unknown operating system {os_name!r}{_suggest(os_name, KNOWN_OS)}")
    if architecture not in KNOWN_ARCHITECTURES:
        raise _bad(
            text, f"unknown architecture {parts[1]!r}{_suggest(parts[1].lower(), KNOWN_ARCHITECTURES)}"
        )
    if architecture == "arm" and len(parts) == 2:
        variant = "v7"
    return Platform(os=os_name, architecture=architecture, variant=variant, os_version=os_version)


def _parse_single(text: str, word: str, os_version: str) -> Platform:
    os_name = _normalize_os(word)
    if os_name in KNOWN_OS:
        local = host()
        return Platform(
            os=os_name, architecture=local.architecture, variant=local.variant, os_version=os_version
        )
    architecture, variant = _normalize_architecture(word, "")
    if architecture in KNOWN_ARCHITECTURES:
        return Platform(os=host().os, architecture=architecture, variant=variant)
    raise _bad(
        text, f"unknown operating system or architecture{_suggest(word, KNOWN_OS | KNOWN_ARCHITECTURES)}"
    )


def parse_list(texts: Iterable[str]) -> tuple[Platform, ...]:
    """Every platform of repeated, comma-separated options, each once, in the order given."""
    seen: dict[Platform, None] = {}
    for text in texts:
        for part in text.split(","):
            if part.strip():
                seen[Platform.parse(part.strip())] = None
    return tuple(seen)


def host() -> Platform:
    """The platform of this machine."""
    import sys

    system = {"win32": "windows"}.get(sys.platform, sys.platform)
    machine = os.uname().machine
    architecture, variant = _normalize_architecture(
        {"armv7l": "arm", "armv6l": "armel", "i686": "386"}.get(machine, machine), ""
    )
    return Platform(os=_normalize_os(system), architecture=architecture, variant=variant)


def compatible(platform: Platform) -> tuple[Platform, ...]:
    """The platforms an image may have to run natively on ``platform``, best first (containerd's order)."""
    platform = platform.normalized()
    found = [platform]

    def add(architecture: str, variants: Sequence[str]) -> None:
        found.extend(Platform(os=platform.os, architecture=architecture, variant=v) for v in variants)

    match platform.architecture:
        case "amd64":
            if platform.variant[1:].isdigit():
                add("amd64", [f"v{n}" for n in range(int(platform.variant[1:]) - 1, 1, -1)] + [""])
            add("386", [""])
        case "arm":
            if platform.variant in _ARM_VARIANTS:
                add("arm", _ARM_VARIANTS[_ARM_VARIANTS.index(platform.variant) + 1 :])
        case "arm64":
            if platform.variant:
                add("arm64", _older_arm64(platform.variant))
            add("arm", _ARM_VARIANTS)
    return tuple(found)


def _older_arm64(variant: str) -> list[str]:
    match = re.fullmatch(r"v([89])(?:\.(\d))?", variant)
    if not match:
        return [""]
    major, minor = int(match[1]), int(match[2] or 0)
    older = [f"v9.{n}" if n else "v9" for n in range(minor - 1, -1, -1)] if major == 9 else []
    top = minor - 1 if major == 8 else minor + 5
    older += [f"v8.{n}" for n in range(min(top, 9), 0, -1)]
    return [*older, ""]


def choose(wanted: Platform, offered: Sequence[Platform], *, strict: bool = False) -> int | None:
    """The index in ``offered`` of the platform that serves ``wanted`` best, or None.

    With ``strict`` only the same platform (and a variant that means the same) will do.
    """
    normalized = [platform.normalized() for platform in offered]
    candidates = (wanted.normalized(),) if strict else compatible(wanted)
    for candidate in candidates:
        for position, platform in enumerate(normalized):
            if (platform.os, platform.architecture, platform.variant) == (
                candidate.os,
                candidate.architecture,
                candidate.variant,
            ) and (not candidate.os_version or platform.os_version.startswith(candidate.os_version)):
                return position
    return None
