"""Keeps what a build answered, for ``cli.unchanged`` to answer the next one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from polyarch.cli.progress import warned
from polyarch.content.state import State
from polyarch.history.keeping import SUFFIX
from polyarch.request import BuildOutcome, BuildRequest
from polyarch.solver.events import Event, EventSink, Warning
from polyarch.unchanged import record
from polyarch.unchanged.witness import Witness


class Keeper:
    """For one build with the command line ``words``. What others read while it happens (rawjson) is always
    done in full."""

    def __init__(self, words: Sequence[str], request: BuildRequest, options: Mapping[str, Any]) -> None:
        self._words = words
        self._warnings: list[str] = []
        kept = words[:1] == ("build",) and options["progress"] != "rawjson"
        self.witness = Witness(request, State.default()) if kept else None

    def watching(self, events: EventSink) -> EventSink:
        """``events``, with the warnings remembered."""

        def send(event: Event) -> None:
            if isinstance(event, Warning):
                self._warnings.append(warned(event))
            events(event)

        return send

    def keep(
        self, outcome: BuildOutcome, mode: str, lines: Sequence[str], written: Mapping[str, str]
    ) -> None:
        """The build is done. ``lines`` are its summary, of which the last says how long it took; ``written``
        is the content of the files it was asked to write."""
        if self.witness is None:
            return
        if self.witness.record is None:
            record.discard(self._words)
            return
        identity = outcome.summary.image_id or outcome.digest
        said: dict[str, Any] = {"mode": mode, "id": identity, "warnings": self._warnings, "lines": lines[:-1]}
        said |= {"build": outcome.id, "written": dict(written)}
        told = _record_of(outcome.id)
        record.save(self._words, {**self.witness.record, **said, **({"history": told} if told else {})})


def _record_of(id: str) -> dict[str, Any]:
    """The record of the build, as ``history.keeping.again`` wants it; empty where there is none."""
    folder = State.default().history
    path = next(iter(folder.glob(f"*-{id}{SUFFIX}")), None)
    if path is None:
        return {}
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    plan = next((line for line in rest if line.startswith('{"line":"plan"')), "")
    if not plan or not rest[-1].startswith('{"line":"finished"'):
        return {}
    digests = [vertex["digest"] for vertex in json.loads(plan)["vertices"]]
    began, finished = json.loads(first), json.loads(rest[-1])
    return {"began": began, "plan": plan, "vertices": digests, "finished": finished}
