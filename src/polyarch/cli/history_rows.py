"""Records of builds as rows, texts and replays."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, TextIO

from polyarch.cli.govalues import Struct
from polyarch.cli.tables import age, size, table
from polyarch.errors import NotFoundError, UsageError
from polyarch.history.path import critical_path
from polyarch.history.reader import BuildRecord, Record, VertexRecord
from polyarch.solver import events


def name_of(record: Record) -> str:
    """What a build is called: its first tag, or context and stage."""
    began = record.began
    if began.tags:
        return began.tags[0]
    context = began.context.rstrip("/").rpartition("/")[2] or began.context
    return f"{context} ({began.target})" if began.target else context


def row(record: Record) -> Struct:
    """One line of ``ls``: Go's names for templates, buildx's keys for JSON."""
    began, finished = record.began, record.finished
    created = rfc3339(began.at)
    seconds = finished.at - began.at if finished is not None else None
    values = {
        "ref": record.id,
        "name": name_of(record),
        "status": shown_status(record),
        "created": age(created),
        "duration": duration(seconds) if seconds is not None else "",
    }
    data: dict[str, Any] = {
        "ref": record.id,
        "name": values["name"],
        "status": values["status"],
        "created_at": created,
        "platforms": list(began.platforms),
        "target": began.target,
        "context": began.context,
    }
    if finished is not None:
        data |= {"completed_at": rfc3339(finished.at), "total_steps": finished.steps}
        data |= {"cached_steps": finished.cached, "digest": finished.digest}
    go = {
        "Ref": record.id,
        "Name": values["name"],
        "Status": values["status"],
        "CreatedAt": values["created"],
        "Duration": values["duration"],
        "Platforms": list(began.platforms),
        "Digest": finished.digest if finished is not None else "",
    }
    return Struct("history.Record", go, data)


def cells(record: Record) -> tuple[str, str, str, str, str]:
    """The columns of ``ls``."""
    go = row(record).fields
    return go["Ref"], go["Name"], go["Status"], go["CreatedAt"], go["Duration"]


def shown_status(record: Record) -> str:
    """buildx's words, and ours for what it has none for."""
    return {"completed": "Completed", "error": "Error", "canceled": "Canceled", "running": "Running"}.get(
        record.status, "Interrupted"
    )


def matching(record: Record, filters: Sequence[str]) -> bool:
    """Whether all filters hold."""
    for text in filters:
        key, _, wanted = text.partition("=")
        negated = key.endswith("!")
        match key.rstrip("!"):
            case "status":
                holds = record.status == wanted.lower()
            case "ref":
                holds = record.id.startswith(wanted)
            case "repository" | "name":
                holds = wanted in name_of(record) or any(wanted in tag for tag in record.began.tags)
            case "platform":
                holds = wanted in record.began.platforms
            case _:
                raise UsageError(
                    f"--filter {text!r}: there is no such filter",
                    hint="status=…, ref=…, name=…, platform=…",
                    reason="filter",
                )
        if holds == negated:
            return False
    return True


def details(build: BuildRecord) -> dict[str, Any]:
    """Everything of a build, for JSON and templates."""
    record = build.record
    critical = set(critical_path(build.vertices))
    found: dict[str, Any] = dict(row(record).json)
    found |= {"ref": record.id, "duration_seconds": round(build.seconds, 3), "dockerfile": build.file}
    found |= {"tags": list(record.began.tags), "version": record.began.version}
    if record.finished is not None:
        finished = record.finished
        found["images"] = [
            {"platform": one.platform, "how": one.how, "digest": one.manifest, "size": one.size}
            for one in finished.variants
        ]
        if finished.error:
            found["error"] = {
                "message": finished.error,
                "detail": finished.detail,
                "hint": finished.hint,
                "reason": finished.reason,
            }
    found["warnings"] = [
        {"rule": each.rule, "message": each.message, "line": each.at_line} for each in build.warnings
    ]
    found["steps"] = [_step(each, critical) for each in build.vertices.values()]
    return found


def _step(vertex: VertexRecord, critical: set[str]) -> dict[str, Any]:
    outcome = vertex.outcome
    found: dict[str, Any] = {
        "number": vertex.number,
        "digest": vertex.plan.digest,
        "name": vertex.plan.name,
        "state": vertex.state,
        "platforms": list(vertex.plan.platforms),
        "inputs": list(vertex.plan.inputs),
        "lines": [vertex.plan.start, vertex.plan.end] if vertex.plan.start else [],
        "critical": vertex.plan.digest in critical,
    }
    if vertex.started:
        found["started_at"] = rfc3339(vertex.started)
    if outcome is not None:
        found |= {"seconds": round(max(0.0, outcome.at - vertex.started), 3), "cached": outcome.cached}
        found |= {"reason": outcome.reason, "how": outcome.how, "error": outcome.error}
        found |= {} if outcome.emulation is None else {"emulation": round(outcome.emulation, 3)}
    return found | {"size": vertex.size, "transferred": vertex.transferred}


def pretty(build: BuildRecord) -> str:
    """A page of text, with buildx's headings."""
    record, finished = build.record, build.record.finished
    began = record.began
    cached = sum(each.state == "cached" for each in build.vertices.values())
    ran = sum(each.state != "waiting" for each in build.vertices.values())
    heads = [("Name:", name_of(record)), ("Context:", began.context), ("Dockerfile:", build.file)]
    heads += [("Target:", began.target)] if began.target else []
    heads += [("Platforms:", ", ".join(began.platforms)), ("Status:", shown_status(record))]
    heads += [("Created:", rfc3339(began.at)), ("Duration:", duration(build.seconds))]
    heads += [("Build Steps:", f"{ran}/{len(build.vertices)} ({cached} cached)"), ("Build ID:", record.id)]
    if finished is not None and finished.digest:
        heads.append(("Digest:", finished.digest))
    width = max(len(key) for key, _ in heads) + 1
    text = [key.ljust(width) + value for key, value in heads]
    if finished is not None and finished.variants:
        rows = [
            (one.platform, one.how, size(one.size) if one.size else "", one.manifest)
            for one in finished.variants
        ]
        text += ["", table(("PLATFORM", "MADE", "SIZE", "MANIFEST"), rows)]
    steps = [
        (f"#{each.number}", each.plan.name.splitlines()[0][:70], _note(each))
        for each in sorted(build.vertices.values(), key=lambda each: each.number)
    ]
    text += ["", table(("STEP", "NAME", "RESULT"), steps)]
    if finished is not None and finished.error:
        text += ["", f"error: {finished.error}", *filter(None, (finished.detail,))]
    return "\n".join(text)


def _note(vertex: VertexRecord) -> str:
    outcome = vertex.outcome
    if outcome is None or vertex.state in ("cached", "canceled"):
        return vertex.state
    words = [
        f"{outcome.at - vertex.started:.1f}s",
        events.made(outcome.how, outcome.emulation),
        outcome.error,
        outcome.reason,
    ]
    return "; ".join(word for word in words if word)


def chosen_steps(build: BuildRecord, step: str) -> list[VertexRecord]:
    """The vertices with output, or those that ``step`` (a number, or a part of a name) means."""
    everyone = sorted(build.vertices.values(), key=lambda each: each.number)
    if not step:
        return [each for each in everyone if each.logs or each.state == "error"]
    wanted = step.removeprefix("#")
    found = [each for each in everyone if wanted.isdigit() and each.number == int(wanted)]
    found = found or [each for each in everyone if step.lower() in each.plan.name.lower()]
    if not found:
        raise NotFoundError(
            f"build {build.record.id} has no step {step!r}",
            hint=f"'polyarch history inspect {build.record.id[:12]}' lists its steps",
            reason="no-such-step",
        )
    return found


def replay(build: BuildRecord, mode: str, stream: TextIO) -> None:
    """Print the progress as the build did."""
    from polyarch.cli.progress import sink

    show = sink(mode, stream)
    for event in _events(build):
        show(event)


def _events(build: BuildRecord) -> Iterator[events.Event]:
    found: list[tuple[float, int, events.Event]] = []
    for vertex in build.vertices.values():
        digest, name = vertex.plan.digest, vertex.plan.name
        if vertex.started:
            found.append((vertex.started, 0, events.VertexStarted(digest, name, vertex.started)))
        for log in vertex.logs:
            data = log.text.encode("utf-8", "replace")
            found.append((log.at, 1, events.VertexLog(digest, log.stream, data, log.at)))
        for each in vertex.transfers.values():
            status = events.VertexStatus(digest, each.id, each.current, each.total, each.at, done=each.done)
            found.append((each.at, 1, status))
        if vertex.outcome is not None:
            end = vertex.outcome
            completed = events.VertexCompleted(
                digest,
                name,
                end.at,
                cached=end.cached,
                error=end.error,
                cancelled=end.cancelled,
                reason=end.reason,
                how=end.how,
                emulation=end.emulation,
            )
            found.append((end.at, 2, completed))
    for _, _, event in sorted(found, key=lambda each: each[:2]):
        yield event


def trace_events(build: BuildRecord) -> str:
    """The trace viewers' format: one complete event a vertex, a row a platform; microseconds."""
    rows: dict[str, int] = {}
    found: list[dict[str, Any]] = []
    for vertex in build.vertices.values():
        if not vertex.started or not vertex.ended:
            continue
        group = ", ".join(vertex.plan.platforms) or "export"
        number = rows.setdefault(group, len(rows) + 1)
        arguments = {"state": vertex.state, "bytes": vertex.size, "transferred": vertex.transferred}
        outcome = vertex.outcome
        if outcome is not None:
            arguments |= {"reason": outcome.reason, "how": outcome.how, "error": outcome.error}
        found.append(
            {
                "name": vertex.plan.name,
                "cat": vertex.state,
                "ph": "X",
                "ts": int((vertex.started - build.record.began.at) * 1e6),
                "dur": int((vertex.ended - vertex.started) * 1e6),
                "pid": 1,
                "tid": number,
                "args": arguments,
            }
        )
    names = [
        {"name": "thread_name", "ph": "M", "pid": 1, "tid": number, "args": {"name": group}}
        for group, number in rows.items()
    ]
    return json.dumps({"traceEvents": names + found, "displayTimeUnit": "ms"})


def duration(seconds: float) -> str:
    """``0.4s``, ``12.3s``, ``3m 4s``."""
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m {rest}s" if hours else f"{minutes}m {rest}s"


def rfc3339(seconds: float) -> str:
    """A time for machines."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
