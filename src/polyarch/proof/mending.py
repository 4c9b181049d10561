"""A Dockerfile checked for the mistakes of multi-platform builds, mended, and checked again; offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from polyarch import dockerfile
from polyarch.dockerfile.lint import Finding
from polyarch.dockerfile.program import instructions
from polyarch.errors import PolyarchError
from polyarch.graph.convert import BaseImage, convert
from polyarch.graph.stages import NamedContext, Options, StagePlan, plan_stages
from polyarch.graph.vertex import Graph
from polyarch.oci import platform as platforms
from polyarch.oci.config import ContainerConfig, ImageConfig
from polyarch.oci.platform import Platform
from polyarch.proof.fixing import Fix, Fixer, mended
from polyarch.proof.mistakes import find_mistakes

_MAX_ROUNDS = 4


@dataclass(frozen=True)
class Mended:
    """``text`` as it is now; ``fixed`` are the findings that are gone, ``left`` those that stay, each with
    why nothing was done about it ("" where only a person can tell)."""

    text: str
    fixed: tuple[Finding, ...]
    left: tuple[tuple[Finding, str], ...]


class _AnyBase:
    """Every image there may be, for every platform: what a Dockerfile says of them is all that matters."""

    def image(self, reference: str, platform: Platform) -> BaseImage:
        name, _, digest = reference.partition("@")
        config = ImageConfig(architecture=platform.architecture, os=platform.os, config=ContainerConfig())
        index = digest or "sha256:" + "0" * 64
        return BaseImage(f"{name}@{index}", "local", "sha256:" + "1" * 64, (), (), config)

    def in_layout(self, location: str, platform: Platform) -> BaseImage:
        return self.image("layout", platform)


def mend(
    text: str,
    *,
    name: str = "Dockerfile",
    wanted: Sequence[Platform] = (),
    target: str = "",
    build_args: Mapping[str, str] | None = None,
    cgo: str = "",
) -> Mended:
    """What ``polyarch fix`` makes of ``text``. Without ``wanted`` it is looked at as for a platform that this
    machine is not; ``cgo`` is what shows that Go needs a C compiler. DockerfileError where it makes no
    sense."""
    chosen = tuple(wanted) or _usual()
    options = Options(
        build_platform=platforms.host(),
        target=target,
        build_args=dict(build_args or {}),
        context=NamedContext("context", "local", "."),
        several_platforms=len(chosen) > 1,
    )
    first = before = _look(text, name, chosen, options)[0]
    left: list[tuple[Finding, str]] = []
    for _ in range(_MAX_ROUNDS):
        fixes, left = _fixes(text, name, chosen, options, cgo)
        changed = mended(text, fixes)
        if changed == text:
            break
        after = _look(changed, name, chosen, options)[0]
        if len(after) >= len(before):  # what helps nothing is not done
            left = [(finding, "") for finding in before]
            break
        text, before = changed, after
    rules = [(finding.rule, finding.message) for finding in before]
    fixed = tuple(finding for finding in first if (finding.rule, finding.message) not in rules)
    return Mended(text, fixed, tuple(left))


def mistakes_in(text: str, name: str, wanted: Sequence[Platform], options: Options) -> tuple[Finding, ...]:
    """The mistakes that ``text``, built for ``wanted``, makes whatever its bases are. DockerfileError and
    others where there is no plan."""
    return _look(text, name, wanted, options)[0]


def _usual() -> tuple[Platform, ...]:
    """This machine's platform and another."""
    host = platforms.host()
    other = "arm64" if host.architecture != "arm64" else "amd64"
    return (host, Platform(os="linux", architecture=other))


def _runs_natively(platform: Platform) -> bool:
    return platforms.choose(platforms.host(), [platform]) is not None


def _look(
    text: str, name: str, wanted: Sequence[Platform], options: Options
) -> tuple[tuple[Finding, ...], dockerfile.ast.Dockerfile, list[StagePlan]]:
    parsed = dockerfile.parse(text, file=name)
    program = instructions(parsed)
    plans = [plan_stages(program, options, platform) for platform in wanted]
    graph = Graph()
    for plan in plans:
        convert(plan, graph, _AnyBase())
    return find_mistakes(parsed, plans, _runs_natively), parsed, plans


def _fixes(
    text: str, name: str, wanted: Sequence[Platform], options: Options, cgo: str
) -> tuple[list[Fix], list[tuple[Finding, str]]]:
    findings, parsed, plans = _look(text, name, wanted, options)
    foreign = [plan for plan in plans if not _runs_natively(plan.target_platform)]
    if not foreign:
        return [], []
    fixer = Fixer(parsed, foreign[0], _runs_natively, wanted, cgo)
    fixes, left = [], []
    for finding in findings:
        fix = _fix(fixer, finding)
        if fix is not None and fix.edits:
            fixes.append(fix)
        else:
            left.append((finding, fix.refused if fix is not None else ""))
    return fixes, left


def _fix(fixer: Fixer, finding: Finding) -> Fix | None:
    if finding.rule not in ("EmulatedCompiler", "CopyOfBuildPlatformBinaries"):
        return fixer.other(finding)
    try:
        return fixer.compiling_at(finding)
    except PolyarchError as error:
        return Fix(finding.rule, finding.location.start, refused=error.summary)
