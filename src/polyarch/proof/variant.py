"""Does a variant hold what its label says? Told from the layers' tables of contents; nothing is executed."""

from __future__ import annotations

from polyarch.layer.rootfs import Rootfs
from polyarch.oci.config import ImageConfig
from polyarch.oci.platform import Platform
from polyarch.proof.evidence import Evidence
from polyarch.proof.finding import Finding
from polyarch.proof.start import check_shell, check_start
from polyarch.proof.sweep import check_files


def prove(evidence: Evidence) -> tuple[Finding, ...]:
    """Everything found about one variant, errors first.

    Where the shell itself is for another machine, that is the only finding: the rest follows from it. An
    image without entrypoint and command is judged by its files alone.
    """
    mislabelled = tuple(check_shell(evidence)) if evidence.platform.os == "linux" else ()
    if mislabelled:
        return mislabelled
    found = list(dict.fromkeys(check_start(evidence)))
    files = (evidence.rootfs.content(finding.path) for finding in found if finding.path)
    found += check_files(evidence, known=frozenset(file[0].path for file in files if file is not None))
    order = {"error": 0, "warning": 1, "note": 2}
    return tuple(sorted(found, key=lambda finding: order[finding.severity]))


def faults(rootfs: Rootfs, config: ImageConfig, platform: Platform) -> tuple[Finding, ...]:
    """What keeps the image from running on ``platform``; empty when nothing is known to."""
    found = prove(Evidence(rootfs, config, platform))
    return tuple(finding for finding in found if finding.severity == "error")
