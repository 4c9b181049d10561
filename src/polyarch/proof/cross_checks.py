"""Two mistakes of stages that build for several targets: what is kept between them, and ARM's versions."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence

from polyarch.dockerfile.instructions import Run
from polyarch.oci.platform import Platform
from polyarch.proof.compilers import RUST, C, compiler_of

_MOUNT = re.compile(r"--mount=(?:\"([^\"]*)\"|(\S+))")
# Folders in which tools keep what they know by the target, or what is the same for all.
_TELL_APART = re.compile(
    r"go-build|/go(?:/pkg)?(?:/mod)?/?$|pkg/mod|\.cargo|cargo/|registry|npm|yarn|pnpm|pip|/uv|poetry|ccache|/apt|"
    r"/apk|/dnf|/yum|\.gradle|\.m2|nuget|composer|sccache|\.cache/?$|go/cache|bun|bazel-repo|hub|downloads?"
)
_TARGET = re.compile(r"TARGET(?:ARCH|PLATFORM|VARIANT)|matrix|\$\{?ARCH")
_USES = re.compile(r"\$\{?TARGET(?:ARCH|PLATFORM)|/etc/target-triplet|cross")
_TAKES = re.compile(
    r"GOARCH=[\"']?\$\{?TARGETARCH\b|https?://\S*\$\{?TARGETARCH\b|"
    r"case\s+[\"']?\$\{?TARGETARCH\b[\s\S]*\barm(?:v7|hf|7)"
)
_KNOWS = re.compile(r"TARGETVARIANT|TARGETPLATFORM|GOARM|\buname\b|print-architecture")


def shared_caches(run: Run, text: str, commands: Sequence[Sequence[str]]) -> Iterator[str]:
    """The cache mounts in which objects compiled for one target would be taken for another's."""
    compilers = {compiler_of(words) for words in commands if words}
    if not {C, RUST} & compilers or not _USES.search(text):
        return
    if C not in compilers and "--target" in text:
        return  # cargo keeps a folder for each target
    for match in _MOUNT.finditer(run.original):
        fields = dict(part.partition("=")[::2] for part in next(csv.reader([match[1] or match[2]]), []))
        place = fields.get("target") or fields.get("dst") or fields.get("destination") or ""
        named = f"{fields.get('id', '')} {place}"
        if (
            fields.get("type") == "cache"
            and place
            and not _TARGET.search(named)
            and not _TELL_APART.search(place)
        ):
            yield place


def ignores_variant(text: str, whole: str, targets: Sequence[Platform]) -> bool:
    """Whether ``text`` takes something by TARGETARCH that ARM's versions need to be told apart for, and
    nothing in the ``whole`` stage asks for them."""
    arms = {one.normalized().variant or "v7" for one in targets if one.architecture == "arm"}
    return bool(arms - {"v7"}) and bool(_TAKES.search(text)) and not _KNOWS.search(whole)
