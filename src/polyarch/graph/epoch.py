"""SOURCE_DATE_EPOCH: a number of seconds, or what the number is taken from.

``context`` is the time of a remote build context; any other word is a stage that only adds one remote
source, or a named context that is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from polyarch.dockerfile import shell
from polyarch.dockerfile.instructions import Add, Stage
from polyarch.dockerfile.program import Program
from polyarch.errors import DockerfileError, PolyarchError
from polyarch.graph.arguments import global_arguments, platform_arguments
from polyarch.graph.stages import SCRATCH, Options, context_key

NAME = "SOURCE_DATE_EPOCH"
_REMOTE = ("git", "http")
# The time of what is behind a URL, None where nothing tells.
TimeOf = Callable[[str], int | None]


def with_epoch(options: Options, given: str, program: Program, context: str, time_of: TimeOf) -> Options:
    """``options`` with the time that ``given`` (the build argument, or the environment) or else the
    Dockerfile's global ARG stands for. ``context`` is the URL of the build context, "" for a local one.

    A time that was looked up is what ARG SOURCE_DATE_EPOCH gives in the stages, too. PolyarchError for a word
    that names nothing, DockerfileError for a stage that is no mere source.
    """
    values = _global_values(options, program)
    text = given or values.get(NAME, "")
    if not text:
        return options
    if text.isascii() and text.isdigit():
        return replace(options, epoch=int(text))
    if text == "context":
        found = time_of(context) if context else None
    else:
        found = time_of(_source(text, options, program, values))
    given_args = {**options.build_args, NAME: "" if found is None else str(found)}
    return replace(options, epoch=found, build_args=given_args)


def _global_values(options: Options, program: Program) -> Mapping[str, str]:
    if not any(argument.name == NAME for line in program.arguments for argument in line.arguments):
        return {}
    predefined = platform_arguments(options.build_platform, options.build_platform, options.target)
    return global_arguments(predefined, program.arguments, options.build_args, program.escape)


def _source(text: str, options: Options, program: Program, values: Mapping[str, str]) -> str:
    """The URL that the stage or named context ``text`` is."""
    named = options.contexts.get(context_key(text))
    if named is not None and named.kind in _REMOTE:
        return named.value
    stage = next((stage for stage in program.stages if stage.name and stage.name == text.lower()), None)
    if stage is None:
        raise PolyarchError(
            f"invalid {NAME}: {text[:100]}",
            hint="give seconds since 1970, 'context', or a stage that adds one remote source",
            reason="invalid-epoch",
        )
    match stage.instructions:
        case [Add(sources=[source], inline=())] if stage.base.base == SCRATCH:
            url = shell.expand(source, values, escape=program.escape)
            if url.startswith(("http://", "https://", "git://", "ssh://", "git@")):
                return url
    raise _no_source(stage)


def _no_source(stage: Stage) -> DockerfileError:
    return DockerfileError(
        f"{NAME} stage does not meet source-only requirements: {stage.name}",
        location=stage.base.location,
        hint="it must be FROM scratch with one ADD of one URL",
        reason="invalid-epoch",
    )
