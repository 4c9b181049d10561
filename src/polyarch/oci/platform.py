"""Platforms: what a program is compiled for (OCI image-spec, image-index.md, "platform").

Parsing, normalising and matching follow containerd's rules, so that ``x86_64``, ``aarch64`` or ``armhf`` mean
what they mean to docker.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from polyarch.errors import UsageError

_PART = re.compile(r"[A-Za-z0-9_.-]+")
# os, then in brackets a version and features, each percent-encoded where it holds one of "%+()/"
_OS = re.compile(r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?")
_ENCODED = str.maketrans({"%": "%25", "+": "%2B", "(": "%28", ")": "%29", "/": "%2F"})

KNOWN_OS = frozenset(
    [
        "aix",
        "android",
        "darwin",
        "dragonfly",
        "freebsd",
        "hurd",
        "illumos",
        "ios",
        "js",
        "linux",
        "nacl",
        "netbsd",
        "openbsd",
        "plan9",
        "solaris",
        "wasip1",
        "windows",
        "zos",
    ]
)
KNOWN_ARCHITECTURES = frozenset(
    [
        "386",
        "amd64",
        "amd64p32",
        "arm",
        "armbe",
        "arm64",
        "arm64be",
        "ppc64",
        "ppc64le",
        "loong64",
        "mips",
        "mipsle",
        "mips64",
        "mips64le",
        "mips64p32",
        "mips64p32le",
        "ppc",
        "riscv",
        "riscv64",
        "s390",
        "s390x",
        "sparc",
        "sparc64",
        "wasm",
    ]
)


class Platform(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One platform, normalised. ``str()`` gives ``os/architecture[/variant]``."""

    architecture: str
    os: str
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """``os[(version+feature)]/architecture[/variant]``, or an os or an architecture alone (the rest is
        the host's), read as containerd does: by canonical names, but with a variant only where one is given
        (``normalized()`` adds it). Beside an architecture any os is taken, and the other way round.

        ``local`` is the host's platform. UsageError names what is wrong and what would be right.
        """
        return _parse(text)

    def full(self) -> str:
        """As ``str()``, with the version and the features of the os: ``windows(10.0.17763)/amd64``."""
        options = self.os_version.translate(_ENCODED)
        options += "".join(
            "+" + feature.translate(_ENCODED) for feature in sorted(self.os_features) if feature
        )
        system = f"{self.os}({options})" if options else self.os
        return "/".join(part for part in (system, self.architecture, self.variant) if part)

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def normalized(self) -> Platform:
        """The same platform by its canonical names: ``aarch64`` is ``arm64``, ``arm`` is ``arm/v7``."""
        architecture, variant = _normalize_architecture(self.architecture, self.variant)
        return msgspec.structs.replace(
            self,
            os=_normalize_os(self.os),
            architecture=architecture,
            variant=variant,
            os_features=tuple(sorted(set(self.os_features))),
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
            return "arm64", {"8": "", "v8": "", "v8.0": "", "9": "v9", "v9.0": "v9"}.get(variant, variant)
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
    system, *parts = text.split("/")
    match = _OS.fullmatch(system)
    if match is None or len(parts) > 2 or not all(_PART.fullmatch(part) for part in parts):
        raise _bad(text, "it must be one to three words joined by '/'")
    os_name = _normalize_os(match[1])
    version, *features = (_decoded(text, part) for part in ((match[2] or "") + (match[3] or "")).split("+"))
    local = host()
    if not parts:
        architecture, variant = _normalize_architecture(system, "")
        if os_name in KNOWN_OS:
            architecture, variant = local.architecture, local.variant
        elif architecture in KNOWN_ARCHITECTURES:
            os_name = local.os
        else:
            near = _suggest(text, KNOWN_OS | KNOWN_ARCHITECTURES)
            raise _bad(text, f"unknown operating system or architecture{near}")
    else:
        architecture, variant = _normalize_architecture(parts[0], parts[1] if len(parts) == 2 else "")
    if len(parts) == 2:
        variant = variant or ("v8" if architecture == "arm64" else "")
    elif (architecture, variant) == ("arm", "v7"):
        variant = ""
    return Platform(
        os=os_name,
        architecture=architecture,
        variant=variant,
        os_version=version,
        os_features=tuple(sorted(set(features))),
    )


def _decoded(text: str, part: str) -> str:
    if "%" not in part:
        return part
    if re.search(r"%(?![0-9A-Fa-f]{2})", part):
        raise _bad(text, "'%' must be followed by two hexadecimal digits")
    from urllib.parse import unquote

    return unquote(part)


def check_known(platform: Platform, text: str) -> None:
    """UsageError, with what was probably meant, where ``platform`` (written as ``text``) has an operating
    system or, on Linux, an architecture that nobody knows. What others have is theirs to say."""
    if platform.os not in KNOWN_OS:
        raise _bad(text, f"unknown operating system {platform.os!r}{_suggest(platform.os, KNOWN_OS)}")
    if platform.os == "linux" and platform.architecture not in KNOWN_ARCHITECTURES:
        near = _suggest(platform.architecture, KNOWN_ARCHITECTURES)
        raise _bad(text, f"unknown architecture {platform.architecture!r}{near}")


def parse_known(text: str) -> Platform:
    """One platform, normalised; UsageError for one that nobody knows."""
    platform = Platform.parse(text)
    check_known(platform, text)
    return platform.normalized()


def parse_list(texts: Iterable[str]) -> tuple[Platform, ...]:
    """Every platform of repeated, comma-separated options, normalised, each once, in the order given;
    UsageError for one that nobody knows."""
    seen: dict[Platform, None] = {}
    for text in texts:
        for part in text.split(","):
            if part.strip():
                seen[parse_known(part.strip())] = None
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
    """The platforms an image may have to run natively on ``platform``, best first (containerd's order).

    amd64 also runs older microarchitecture levels and 386, arm older versions down to v5, arm64 older
    versions (v9.x descends from v8.(x+5)) and 32-bit arm.
    """
    platform = platform.normalized()
    found: dict[Platform, None] = {}
    for architecture, variant in _descending(platform.architecture, platform.variant):
        candidate = msgspec.structs.replace(platform, architecture=architecture, variant=variant)
        found[candidate.normalized()] = None
    return tuple(found)


def _descending(architecture: str, variant: str) -> Iterator[tuple[str, str]]:
    yield architecture, variant
    match architecture:
        case "amd64":
            yield from (("amd64", f"v{level}") for level in range(_number(variant) - 1, 0, -1))
            yield "386", ""
        case "arm":
            yield from (("arm", f"v{version}") for version in range(_number(variant) - 1, 4, -1))
        case "arm64":
            yield from (("arm64", older) for older in _older_arm64(variant or "v8"))
            short = variant if variant and not variant.startswith(("v8.", "v9.")) else "v8"
            yield from _descending("arm", short)


def _number(variant: str) -> int:
    """``v7`` as 7; 0 for what is no version (and so is older than anything)."""
    digits = variant.removeprefix("v")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 3 else 0


def _older_arm64(variant: str) -> list[str]:
    major, _, minor = variant.partition(".")
    if _number(major) not in (8, 9):
        return []
    level = int(minor) if len(minor) == 1 and minor.isdigit() else 0
    older: list[str] = []
    if _number(major) == 9:
        older = [f"v9.{n}" for n in range(level - 1, -1, -1)]
        level = min(level + 5, 9) + 1
    return older + [f"v8.{n}" for n in range(level - 1, -1, -1)]


def choose(wanted: Platform, offered: Sequence[Platform], *, strict: bool = False) -> int | None:
    """The index in ``offered`` of the platform that serves ``wanted`` best, or None.

    With ``strict`` only the same platform (and a variant that means the same) will do. Among equals the one
    with most of the wanted os features comes first, then the one offered first.
    """
    normalized = [platform.normalized() for platform in offered]
    candidates = (wanted.normalized(),) if strict else compatible(wanted)
    for candidate in candidates:
        fitting = [position for position, platform in enumerate(normalized) if _serves(platform, candidate)]
        if fitting:
            return max(fitting, key=lambda position: (len(normalized[position].os_features), -position))
    return None


def _serves(offered: Platform, wanted: Platform) -> bool:
    same = (offered.os, offered.architecture, offered.variant) == (
        wanted.os,
        wanted.architecture,
        wanted.variant,
    )
    if not same or not set(offered.os_features) <= set(wanted.os_features):
        return False
    return wanted.os != "windows" or _windows_serves(offered.os_version, wanted.os_version)


# From this build on a Windows host runs containers of older builds, down to this one.
_STABLE_WINDOWS_BUILD = 20348


def _windows_serves(offered: str, wanted: str) -> bool:
    """Whether an image for the Windows version ``offered`` runs on a host of version ``wanted``."""
    if not offered or not wanted:
        return True
    image, machine = (_windows_version(version) for version in (offered, wanted))
    if image[:2] != machine[:2]:
        return False
    if image[2] == machine[2]:
        return True
    return _STABLE_WINDOWS_BUILD <= image[2] <= machine[2]


def _windows_version(text: str) -> tuple[int, int, int]:
    numbers = [int(part) if part.isascii() and part.isdigit() else 0 for part in text[:60].split(".")[:3]]
    major, minor, build = [*numbers, 0, 0, 0][:3]
    return major, minor, build
