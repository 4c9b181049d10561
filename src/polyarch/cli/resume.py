"""``polyarch build --resume``: a recorded build once more, without what it has done already."""

from __future__ import annotations

import os
from typing import Any

import click
from click.core import ParameterSource

from polyarch.errors import NotFoundError, PolyarchError
from polyarch.history.hiding import HIDDEN, hidden_in
from polyarch.history.reader import Record, find, load, records

_OF_THE_MOMENT = ("resume", "progress", "quiet", "dry_run", "check", "call")  # not part of what is built


def recorded(reference: str, context: click.Context) -> tuple[dict[str, Any], frozenset[str]]:
    """The options of the build ``reference`` ("": the last that did not complete), with those given now put
    over them, and the vertices it finished. Works from the directory the build was started in."""
    from polyarch.content.state import State

    record = _chosen(reference)
    if not record.began.options:
        raise PolyarchError(
            f"build {record.id} was not started from the command line",
            hint="call polyarch.build again; what succeeded is in the cache",
            reason="not-resumable",
        )
    options = _merged(record.began.options, context)
    hidden = hidden_in(options)
    if hidden:
        raise PolyarchError(
            f"build {record.id} was given values that are not kept: {'; '.join(hidden)}",
            hint="give them again beside --resume, such as --build-arg NAME=VALUE",
            reason="value-not-kept",
        )
    state = State.default()
    os.environ["POLYARCH_ROOT"] = str(state.root)  # found before the directory changes
    try:
        os.chdir(record.began.folder)
    except OSError as error:
        raise NotFoundError(
            f"build {record.id} was started in {record.began.folder}, which is gone ({error.strerror})",
            reason="folder-gone",
        ) from None
    if record.began.epoch:
        os.environ.setdefault("SOURCE_DATE_EPOCH", record.began.epoch)
    return options, load(record).done()


def _chosen(reference: str) -> Record:
    from polyarch.content.state import State

    folder = State.default().history
    if reference:
        return find(folder, reference)
    for record in records(folder):
        if record.status in ("error", "canceled", "interrupted"):
            return record
    raise NotFoundError(
        "there is no build to resume: none that is recorded has failed",
        hint="'polyarch history ls' lists them",
        reason="nothing-to-resume",
    )


def _merged(kept: dict[str, object], context: click.Context) -> dict[str, Any]:
    """The recorded options under those that were given now; what can be given several times adds up, and a
    build argument replaces the recorded one of the same name."""
    options = dict(context.params)
    for name, value in kept.items():
        if name not in options or name in _OF_THE_MOMENT:
            continue
        given = context.get_parameter_source(name) in (ParameterSource.COMMANDLINE,)
        if isinstance(options[name], tuple) and isinstance(value, list):
            options[name] = _joined(name, [str(each) for each in value], options[name])
        elif not given:
            options[name] = value
    options["no_cache"] = bool(options["no_cache"])
    return options


def _joined(name: str, kept: list[str], given: tuple[str, ...]) -> tuple[str, ...]:
    if name not in ("build_args", "labels"):
        return (*kept, *given)
    again = {text.partition("=")[0] for text in given}
    still = [text for text in kept if text.partition("=")[0] not in again]
    # A value that was not kept may come from the environment, as NAME alone does.
    still = [
        text.partition("=")[0]
        if text.endswith(f"={HIDDEN}") and text.partition("=")[0] in os.environ
        else text
        for text in still
    ]
    return (*still, *given)
