"""What checks and outlines are told of the images that stages start from, as far as they can be reached."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from polyarch.dockerfile.characters import did_you_mean
from polyarch.dockerfile.scope import BaseImage
from polyarch.errors import DockerfileError, NotFoundError, PolyarchError
from polyarch.graph.stages import SCRATCH, StagePlan, StageState
from polyarch.oci.config import ContainerConfig, ImageConfig
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.proof.bases import BaseResolver


@dataclass
class Known:
    """``bases`` by the index of the stage, ``unreached`` the names of those nobody could be asked for, and
    ``refused``, the first error that no other moment or place would mend."""

    bases: dict[int, BaseImage] = field(default_factory=dict)
    unreached: list[str] = field(default_factory=list)
    refused: DockerfileError | None = None


def of_config(config: ImageConfig) -> BaseImage:
    """What matters of an image's configuration."""
    inner = config.config or ContainerConfig()
    environment = {name: value for name, _, value in (entry.partition("=") for entry in inner.env or ())}
    return BaseImage(environment, config.platform, inner.shell or (), inner.on_build or ())


def known_bases(
    plan: StagePlan, states: Iterable[StageState], resolver: BaseResolver, *, workers: int = 8
) -> Known:
    """Look up the bases of ``states``, all at once. A registry that cannot be reached is no error."""
    known = Known()
    wanted = [state for state in states if state.parent is None]

    def attempt(state: StageState) -> BaseImage | PolyarchError | None:
        try:
            return _look_up(plan, state, resolver)
        except PolyarchError as error:
            return error

    with ThreadPoolExecutor(workers) as pool:
        for state, found in zip(wanted, pool.map(attempt, wanted), strict=True):
            match found:
                case BaseImage() if state in plan.states[: len(plan.program.stages)]:
                    known.bases[plan.states.index(state)] = found
                case PolyarchError() if found.reason in _CERTAIN:
                    known.refused = known.refused or _located(found, state)
                case PolyarchError():
                    guess = did_you_mean(state.base_name, [s.name for s in plan.states if s.name])
                    known.unreached.append(state.base_name + (f" ({guess})" if guess else ""))
    return known


_CERTAIN = frozenset({"invalid-reference", "no-platform", "not-found"})


def _look_up(plan: StagePlan, state: StageState, resolver: BaseResolver) -> BaseImage | None:
    platform = state.platform or plan.target_platform
    context = state.named or plan.named_context(state.base_name, platform)
    if context is None:
        if state.base_name == SCRATCH:
            return BaseImage()
        Reference.parse(state.base_name)
        return of_config(_config(state.base_name, platform, resolver))
    match context.kind:
        case "image":
            return of_config(_config(context.value, platform, resolver))
        case "layout":
            return of_config(resolver.in_layout(context.value, platform).config)
        case "target":
            return None
    return BaseImage()


def _config(reference: str, platform: Platform, resolver: BaseResolver) -> ImageConfig:
    """The configuration for ``platform``; of an image for another platform alone its own."""
    try:
        return resolver.image(reference, platform).config
    except NotFoundError as error:
        other = resolver.sole_platform(reference) if error.reason == "no-platform" else None
        if other is None:
            raise
        return resolver.image(reference, other).config


def _located(error: PolyarchError, state: StageState) -> DockerfileError:
    location = error.location or state.location
    return DockerfileError(error.summary, hint=error.hint, location=location, reason=error.reason)
