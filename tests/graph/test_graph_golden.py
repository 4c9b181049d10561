"""The plans of the corpus of Dockerfiles for two platforms: graph, configurations, strategies."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, cast

import pytest

from polyarch.builder.crew import Share
from polyarch.dockerfile import parse
from polyarch.dockerfile.program import instructions
from polyarch.errors import PolyarchError
from polyarch.graph.convert import BaseImage, convert
from polyarch.graph.stages import Options, plan_stages
from polyarch.graph.vertex import Graph
from polyarch.oci.config import ContainerConfig, ImageConfig
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.plan import BuildPlan
from polyarch.plan_dump import dump_plan

FOLDER = Path(__file__).parent.parent / "dockerfile/corpus"
CORPUS = sorted(FOLDER.glob("*.Dockerfile"))
AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


class Images:
    """Every base there could be: one layer, named by reference and platform, and a variable."""

    def image(self, reference: str, platform: Platform) -> BaseImage:
        name = str(Reference.parse(reference))
        digest = "sha256:" + hashlib.sha256(f"{name} {platform}".encode()).hexdigest()
        layer = Descriptor(media_type="application/vnd.oci.image.layer.v1.tar", digest=digest, size=1)
        config = ImageConfig(
            architecture=platform.architecture,
            os=platform.os,
            config=ContainerConfig(env=("PATH=/bin", "FROM_BASE=yes")),
        )
        return BaseImage(name, "registry.test/base", digest, (layer,), (digest,), config)

    def in_layout(self, location: str, platform: Platform) -> BaseImage:
        return self.image(location, platform)


def plan(path: Path) -> dict[str, Any]:
    """The plan, or why there is none."""
    options = Options(build_platform=AMD64, several_platforms=True)
    graph = Graph()
    try:
        program = instructions(parse(path.read_bytes(), file=path.name))
        plans = [plan_stages(program, options, target) for target in (AMD64, ARM64)]
        targets = tuple(convert(one, graph, Images()) for one in plans)
    except PolyarchError as error:
        line = error.location.start if error.location is not None else None
        return {"refused": error.reason, "line": line}
    share = Share("here", (AMD64, ARM64), (AMD64,))
    found = dump_plan(BuildPlan(program, options, graph, targets, cast(Any, None), (share,)))
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_plan(path: Path, update: bool) -> None:
    found = plan(path)
    golden = FOLDER / f"{path.stem}.plan.json"
    if update:
        golden.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
    assert found == json.loads(golden.read_text())


def test_every_plan_is_kept() -> None:
    assert len(list(FOLDER.glob("*.plan.json"))) == len(CORPUS) >= 60
