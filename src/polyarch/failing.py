"""What a failed build says: where in the Dockerfile, which step, with ``--keep-going`` of which platforms."""

from __future__ import annotations

from collections.abc import Mapping

from polyarch.errors import CancelledError, DockerfileError, PolyarchError, StepError
from polyarch.layer.stored import ImportedLayerError
from polyarch.plan import BuildPlan, behind

_SHOWN_LINES = 20


def explained(error: PolyarchError, failed: str, plan: BuildPlan) -> PolyarchError:
    """The error with the place in the Dockerfile and the name of the step ``failed`` (a vertex)."""
    meta = plan.graph.meta.get(failed)
    if meta is None:
        return error
    if error.location is None:
        error.location = meta.location
    if isinstance(error, StepError):
        lines = error.output.rstrip().splitlines()[-_SHOWN_LINES:]
        shown = "\n".join(f"  | {line}" for line in lines)
        error.detail = f"step: {meta.name}\nplatform: {error.platform}" + (f"\n{shown}" if shown else "")
    elif not isinstance(error, (DockerfileError, CancelledError)) and meta.name not in error.detail:
        error.detail = "\n".join(part for part in (f"step: {meta.name}", error.detail) if part)
    return error


def several(error: PolyarchError, failures: Mapping[str, BaseException], plan: BuildPlan) -> PolyarchError:
    """What to say after a solve that kept going: each platform that failed, with its steps, and the others.

    ``failures`` are by vertex, ``error`` what the solve raised.
    """
    blamed = next((each for each in failures.values() if isinstance(each, ImportedLayerError)), None)
    if blamed is not None or isinstance(error, CancelledError) or not failures:
        return blamed or error
    failed: list[tuple[str, list[str]]] = []
    finished: list[tuple[str, list[str]]] = []
    for target in plan.targets:
        steps = [digest for digest in behind(target.vertex) if digest in failures]
        (failed if steps else finished).append((str(target.platform), steps))
    lines = []
    for platform, steps in failed:
        lines.append(f"{platform}: failed")
        for digest in steps:
            lines += _lines(digest, failures[digest], plan)
    lines += [f"{platform}: finished, and in the cache" for platform, _ in finished]
    first = next((digest for _, steps in failed for digest in steps), next(iter(failures)))
    meta = plan.graph.meta.get(first)
    return PolyarchError(
        f"{len(failed)} of {len(plan.targets)} platforms failed: {', '.join(name for name, _ in failed)};"
        " nothing was exported or tagged",
        detail="\n".join(lines),
        hint="when it is mended, 'polyarch build --resume' redoes only what failed",
        location=meta.location if meta is not None else None,
        reason="platforms-failed",
    )


def _lines(digest: str, error: BaseException, plan: BuildPlan) -> list[str]:
    meta = plan.graph.meta.get(digest)
    summary = error.summary if isinstance(error, PolyarchError) else str(error)
    lines = [f"  {meta.name if meta is not None else digest}", f"  error: {summary}"]
    if isinstance(error, StepError):
        lines += [f"    | {line}" for line in error.output.rstrip().splitlines()[-_SHOWN_LINES:]]
    if isinstance(error, PolyarchError) and error.hint:
        lines.append(f"  hint: {error.hint}")
    return lines
