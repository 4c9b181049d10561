"""Whether a planned build can run: what its steps need, how they run here, and where it is pushed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from polyarch.content.state import State
from polyarch.graph.vertex import Graph, ImageOp
from polyarch.plan import BuildPlan
from polyarch.proof.preflight import (
    Check,
    Given,
    Problem,
    PushChecks,
    Verdicts,
    check_executors,
    check_space,
    check_steps,
    joined,
)
from polyarch.request import BuildRequest
from polyarch.solver.events import EventSink, Warning

# A registry that does not answer now may do so when there is something to push.
_PASSING = frozenset({"registry-down", "registry-failed", "rate-limited"})


def look_ahead(plan: BuildPlan, given: Given, state: State, verdicts: Verdicts) -> list[Problem | Check]:
    """What steps need, whether they can run, and whether there is room. The executors and disks of nodes
    elsewhere are theirs to look at."""
    here = [digest for work in plan.works() if work.share.here for digest in work.wanted]
    own = Graph(plan.graph.reach(here), plan.graph.meta)
    return [
        *check_steps(plan.graph, given),
        *check_executors(own, verdicts, taken=state.emulators / "taken"),
        check_space(own, state, plan.local.layout),
    ]


def refuse_early(
    found: Sequence[Problem | Check],
    preview: Callable[[], Sequence[tuple[object, str, str]]],
    pushes: PushChecks,
    events: EventSink,
    lasted: Callable[[], float] = lambda: 0.0,
) -> None:
    """Raise what would stop the build later, all of it in one error. ``preview`` gives each vertex's verdict:
    a step that is cached needs nothing, so it cannot lack it. ``lasted`` tells how many seconds the build
    took the last time."""
    for one in found:
        if isinstance(one, Check) and one.state == "warning":
            events(Warning("Preflight", f"{one.subject}: {one.detail}"))
    problems = [one for one in found if isinstance(one, Problem)]
    if any(problem.vertices for problem in problems):
        running = {digest for _, digest, verdict in preview() if verdict not in ("cached", "source")}
        problems = [p for p in problems if not p.vertices or running.intersection(p.vertices)]
    answers = list(pushes.answers(lasted() if pushes.expire() else 0.0))
    for one in answers:
        if isinstance(one, Check) and one.state == "warning":
            events(Warning("Preflight", f"{one.subject}: {one.detail}"))
    refused = [one for one in answers if isinstance(one, Problem)]
    lasting = [one for one in refused if one.error.reason not in _PASSING]
    if problems or lasting:
        raise joined([*problems, *refused])
    for one in refused:
        events(Warning("Preflight", one.error.summary))


def plan_rows(plan: BuildPlan) -> list[Check]:
    """The images that will be used, for which platforms, and what the checks say of the Dockerfile."""
    used: dict[str, list[str]] = {}
    for digest, vertex in plan.graph.vertices.items():
        if isinstance(vertex.op, ImageOp):
            used.setdefault(vertex.op.reference, []).append(str(plan.graph.meta[digest].platform))
    rows = []
    for name, which in used.items():
        image, _, digest = name.partition("@")
        rows.append(Check(subject=image, state="ok", detail=f"{', '.join(which)} of {digest}"))
    for finding in plan.findings:
        detail = f"{finding.rule}: {finding.message}"
        rows.append(Check(subject=f"line {finding.location.start}", state="warning", detail=detail))
    return rows


def as_rows(found: Sequence[Problem | Check]) -> list[Check]:
    """Problems as rows too, each once."""
    rows = []
    for one in found:
        if isinstance(one, Problem):
            detail = "\n".join(part for part in (one.error.summary, one.error.detail) if part)
            one = Check(subject=one.subject, state="error", detail=detail, hint=one.error.hint)
        rows.append(one)
    return list(dict.fromkeys(rows))


def last_duration(request: BuildRequest, state: State) -> float:
    """How many seconds the last whole build of the same context took; 0 where there is no record of one."""
    from polyarch.history.hiding import without_credentials
    from polyarch.history.reader import records

    context = without_credentials(str(Path(request.context).absolute()))
    wanted = {context, without_credentials(request.context)}
    for record in records(state.history):
        same = record.began.context in wanted and record.began.target == request.target
        if same and record.finished is not None and record.status == "completed":
            return max(0.0, record.finished.at - record.began.at)
    return 0.0
