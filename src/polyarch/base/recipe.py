"""What a base image is to be made of, as one frozen value; Debian's names for platforms and package sets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from polyarch.errors import UsageError
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference

Source = Literal["debian", "busybox"]
Scripts = Literal["run", "skip"]

# What mmdebstrap's variants install besides what is asked for, as apt's patterns (mmdebstrap(1), VARIANTS).
VARIANTS: dict[str, tuple[str, ...]] = {
    "extract": (),
    "essential": ("?essential",),
    "apt": ("?essential", "apt"),
    "minbase": ("?essential", "apt", "?priority(required)"),
    "buildd": ("?essential", "apt", "?priority(required)", "build-essential"),
    "standard": (
        "?essential",
        "apt",
        "?priority(required)",
        "?priority(important)",
        "?priority(standard)",
    ),
}

_ARCHITECTURES = {
    ("386", ""): "i386",
    ("amd64", ""): "amd64",
    ("arm", "v5"): "armel",
    ("arm", "v6"): "armel",
    ("arm", "v7"): "armhf",
    ("arm64", ""): "arm64",
    ("loong64", ""): "loong64",
    ("mips64le", ""): "mips64el",
    ("mipsle", ""): "mipsel",
    ("ppc64le", ""): "ppc64el",
    ("riscv64", ""): "riscv64",
    ("s390x", ""): "s390x",
}
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]*(?::[a-z0-9]+)?(?:=[A-Za-z0-9.+:~-]+|/[a-z0-9.-]+)?")
_SUITE = re.compile(r"[a-z0-9][a-z0-9.-]*")


def architecture(platform: Platform) -> str:
    """Debian's name of ``platform``; UsageError where Debian has none."""
    normal = platform.normalized()
    name = _ARCHITECTURES.get((normal.architecture, normal.variant))
    if normal.os != "linux" or name is None:
        offered = ", ".join("/".join(part for part in ("linux", *key) if part) for key in _ARCHITECTURES)
        raise UsageError(
            f"Debian has no packages for {platform}",
            hint=f"it has some for {offered}",
            reason="no-such-architecture",
        )
    return name


@dataclass(frozen=True)
class Recipe:
    """A base image to be made.

    ``source`` "debian" makes a root filesystem of packages; "busybox" one of Debian's busybox-static alone,
    with a link for each of its applets. ``variant`` is mmdebstrap's name for a package set, ``include`` more
    packages, with their dependencies. ``scripts`` "skip" unpacks the packages and runs none of their
    maintainer scripts: no privilege and no emulator is needed, and what the scripts would have made is left
    to the first ``dpkg --configure -a``. ``suite``, ``mirrors`` and ``keyring`` are the host's where empty;
    a mirror is a URL or a whole line of sources.list. ``apt_options`` are lines of apt.conf for the making
    alone. ``keep_sources`` leaves the mirrors used in the image; otherwise it names Debian's own.
    ``epoch`` (seconds since 1970) clamps times; None means the newest time in the packages themselves.
    """

    name: str
    platforms: tuple[Platform, ...]
    source: Source = "debian"
    suite: str = ""
    variant: str = "minbase"
    include: tuple[str, ...] = ()
    scripts: Scripts = "run"
    components: tuple[str, ...] = ("main",)
    mirrors: tuple[str, ...] = ()
    keyring: Path | None = None
    apt_options: tuple[str, ...] = field(default=(), repr=False)
    keep_sources: bool = False
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    epoch: int | None = None

    def checked(self) -> Recipe:
        """This recipe; UsageError names what of it makes no sense."""
        if Reference.parse(self.name).digest:
            raise UsageError(
                f"{self.name!r} names what is there, not what is to be made", reason="digest-as-name"
            )
        if not self.platforms:
            raise UsageError("a base image needs at least one platform", reason="no-platform")
        for platform in self.platforms:
            architecture(platform)
        if self.variant not in VARIANTS:
            known = ", ".join(VARIANTS)
            raise UsageError(
                f"unknown variant {self.variant!r}", hint=f"one of {known}", reason="no-such-variant"
            )
        if self.suite and not _SUITE.fullmatch(self.suite):
            raise UsageError(f"{self.suite!r} is not the name of a suite", reason="invalid-suite")
        for package in self.include:
            if not _PACKAGE.fullmatch(package):
                raise UsageError(f"{package!r} is not the name of a package", reason="invalid-package")
        if not self.assembled and self.variant == "extract":
            raise UsageError(
                "variant extract runs no scripts", hint="add --scripts skip", reason="no-such-variant"
            )
        if self.variant == "extract" and self.source == "debian" and not self.include:
            raise UsageError(
                "variant extract holds what is included and nothing else; nothing is included",
                hint="--include base-files,dash,coreutils",
                reason="empty-base",
            )
        return self

    @property
    def assembled(self) -> bool:
        """Whether the packages are only unpacked, by us, and no program of theirs runs."""
        return self.source == "busybox" or self.scripts == "skip"

    @property
    def wanted(self) -> tuple[str, ...]:
        """What apt is asked for: patterns of the variant, then the packages included."""
        if self.source == "busybox":
            return ("busybox-static", *self.include)
        # Of two packages that satisfy the same dependency, the one without all of Perl.
        rather_not = () if "usrmerge" in self.include else ("?exact-name(usrmerge)-",)
        return (*VARIANTS[self.variant], *self.include, *rather_not)
