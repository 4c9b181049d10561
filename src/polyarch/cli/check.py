"""``build --check`` and ``--call check|outline|targets``: what a Dockerfile says, without building it."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Sequence
from typing import Any

from polyarch import dockerfile
from polyarch.cli import options as values
from polyarch.cli.refusal import refusal
from polyarch.content.state import State
from polyarch.context.ignore import Matcher
from polyarch.context.main import MainContext, open_context
from polyarch.dockerfile.ast import Dockerfile
from polyarch.dockerfile.lint import (
    Finding,
    chosen_options,
    lint_before,
    lint_until_error,
    lint_violation,
)
from polyarch.dockerfile.outline import outline, targets
from polyarch.dockerfile.program import Program, instructions
from polyarch.dockerfile.scope import Inputs
from polyarch.errors import DockerfileError, Location, PolyarchError, UsageError
from polyarch.graph.named import build_contexts
from polyarch.graph.stages import SCRATCH, Options, plan_stages
from polyarch.image.locate import local_store
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform
from polyarch.proof.bases import BaseResolver
from polyarch.proof.known import Known, known_bases
from polyarch.registry.client import Client
from polyarch.registry.config import Config

CALLS = ("check", "outline", "targets")
Json = dict[str, Any]


def answer(call: str, options: dict[str, Any]) -> int:
    """Print the answer as text or JSON; 1 where a check found something."""
    name, _, extra = call.partition(",")
    form = _format(extra)
    name = name.removeprefix("subrequest=")
    if name == "lint":
        name = "check"
    if name not in CALLS:
        raise UsageError(
            f"--call {name}: there is no such call",
            hint=f"calls are build, {', '.join(CALLS)}",
            reason="call",
        )
    context = open_context(options["context"], options["dockerfile"], State.default(), sys.stdin.buffer)
    wanted, asked = _wanted(options)
    platform = asked[0] if asked else platforms.host()
    if name == "check":
        return _check(context, wanted, platform, form, _mistakes(context, wanted, asked))
    parsed = dockerfile.parse(context.dockerfile, file=context.name)
    program = instructions(parsed)
    if name == "targets":
        found = targets(program)
    else:
        inputs, _ = _inputs(program, wanted, platform)
        if inputs.refused is not None:
            raise inputs.refused
        found = outline(program, inputs=inputs)
    if form == "json":
        print(json.dumps(found | {"sources": [_source(parsed)]}, indent=2))
    else:
        print("\n".join(_targets_text(found) if name == "targets" else _outline_text(found)))
    return 0


def _wanted(options: dict[str, Any]) -> tuple[Options, tuple[Platform, ...]]:
    """What the command line says of the build, and its platforms."""
    asked = [text for group in options["platform"] for text in group.split(",")]
    wanted = Options(
        build_platform=platforms.host(),
        target=options["target"],
        build_args=values.pairs("--build-arg", options["build_args"]),
        contexts=build_contexts(options["contexts"]),
    )
    return wanted, platforms.parse_list(asked)


def _mistakes(context: MainContext, wanted: Options, asked: Sequence[Platform]) -> tuple[Finding, ...]:
    """The mistakes of multi-platform builds, where platforms are asked for. They are told and do no more: a
    Dockerfile that passes BuildKit's checks passes."""
    if not asked:
        return ()
    from polyarch.proof.mending import mistakes_in

    try:
        return mistakes_in(context.dockerfile, context.name, asked, wanted)
    except PolyarchError:  # the checks find it themselves
        return ()


def _inputs(program: Program, wanted: Options, platform: Platform) -> tuple[Inputs, list[str]]:
    """With what can be learnt of the bases, and the names of those that cannot be reached."""
    try:
        plan = plan_stages(program, wanted, platform)
        states = plan.reachable(plan.target()) if wanted.target else plan.states
    except PolyarchError:  # the checks find it themselves
        return Inputs(wanted.target, wanted.build_args), []
    known = Known()
    if any(state.base_name != SCRATCH for state in states if state.parent is None):
        with Client(config=Config.from_environment()) as client:
            resolver = BaseResolver(local_store(State.default(), client), client)
            known = known_bases(plan, states, resolver)
    inputs = Inputs(wanted.target, wanted.build_args, plan.predefined, known.bases, known.refused)
    return inputs, list(dict.fromkeys(known.unreached))


def _format(extra: str) -> str:
    for part in filter(None, extra.split(",")):
        key, _, value = part.partition("=")
        if key != "format" or value not in ("json", "text"):
            raise UsageError(f"--call: unknown option {part!r}", hint="format=json", reason="call")
        return value
    return "text"


def _check(
    context: MainContext, wanted: Options, platform: Platform, form: str, mistakes: tuple[Finding, ...]
) -> int:
    error: PolyarchError | None = None
    findings: tuple[Finding, ...] = ()
    unreached: list[str] = []
    try:
        parsed = dockerfile.parse(context.dockerfile, file=context.name)
        try:
            program = instructions(parsed)
        except DockerfileError as unreadable:
            line = unreadable.location.start if unreadable.location is not None else 1
            findings = lint_before(parsed, line, Inputs(build_args=wanted.build_args))
            raise
        ignore = Matcher(context.patterns) if context.patterns else None
        inputs, unreached = _inputs(program, wanted, platform)
        findings, error = lint_until_error(
            parsed, program, inputs=inputs, ignore=ignore, target_platform=platform
        )
        error = error or refusal(program, wanted, platform)
        if error is None and findings and chosen_options(parsed, wanted.build_args).error:
            error = lint_violation(findings)
    except DockerfileError as caught:
        error = caught
    if form == "json":
        found: Json = {"warnings": [_warning(finding) for finding in findings]}
        if error is not None:
            found["buildError"] = {"message": error.summary, "location": _ranges(error.location)}
        if mistakes:
            found["mistakes"] = [_warning(finding) for finding in mistakes]
        print(json.dumps(found, indent=2))
        return 1 if error is not None or findings else 0
    if unreached:
        print(f"note: checks that need the base image did without {', '.join(unreached)}", file=sys.stderr)
    if findings or error is None:
        print("\n".join(_check_text(findings)))
    if mistakes:
        print("\n".join(["", "For several platforms:", *_shown(mistakes)]))
    if error is not None:
        raise error
    return 1 if findings else 0


def _check_text(findings: tuple[Finding, ...]) -> list[str]:
    if not findings:
        return ["Check complete, no warnings found."]
    count = "1 warning has" if len(findings) == 1 else f"{len(findings)} warnings have"
    return [f"Check complete, {count} been found!", *_shown(findings)]


def _shown(findings: tuple[Finding, ...]) -> list[str]:
    from polyarch.cli.failure import excerpt

    lines: list[str] = []
    for finding in findings:
        lines += ["", f"WARNING: {finding.rule} - {finding.url}", finding.message, excerpt(finding.location)]
    return lines


def _warning(finding: Finding) -> Json:
    return {
        "ruleName": finding.rule,
        "description": finding.description,
        "url": finding.url,
        "detail": finding.message,
        "location": _ranges(finding.location),
    }


def _ranges(location: Location | None) -> Json:
    if location is None:
        return {"ranges": []}
    return {"ranges": [{"start": {"line": location.start}, "end": {"line": location.end}}]}


def _source(parsed: Dockerfile) -> str:
    return base64.b64encode(parsed.source.encode("utf-8", "surrogateescape")).decode()


def _targets_text(found: Json) -> list[str]:
    rows = [
        (target.get("name") or "(unnamed)", target.get("default"), target.get("description", ""))
        for target in found["targets"]
    ]
    return _table(
        ("TARGET", "DESCRIPTION"),
        [(name + (" (default)" if default else ""), text) for name, default, text in rows],
    )


def _outline_text(found: Json) -> list[str]:
    lines = ["", f"TARGET: {found.get('name') or '(default)'}"]
    if found.get("description"):
        lines.append(f"DESCRIPTION: {found['description']}")
    if found.get("args"):
        rows = [(a["name"], a.get("value", ""), a.get("description", "")) for a in found["args"]]
        lines += ["", *_table(("BUILD ARG", "VALUE", "DESCRIPTION"), rows)]
    for key, title in (("secrets", "SECRET"), ("ssh", "SSH")):
        if found.get(key):
            rows2 = [(s["name"], "true" if s.get("required") else "") for s in found[key]]
            lines += ["", *_table((title, "REQUIRED"), rows2)]
    return lines


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    return [
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [header, *rows]
    ]
