"""The two builders a case is given to: BuildKit through docker buildx, and our own command line."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess
import sys
import tarfile
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cases_corpus import Case, plant
from cases_image import outcome
from cases_world import World

MARKED = re.compile(r"^\s*>>>\s*(\d+)|^\s*(\d+) \| >>>", re.MULTILINE)


@dataclass(frozen=True)
class Attempt:
    """How one build ended: the exit status, the output meant for people, the OCI layout it wrote."""

    status: int
    text: str
    layout: Path | None


class Builder(Protocol):
    """Runs ``build`` with buildx's arguments; the result goes to the OCI layout ``layout``."""

    def build(self, arguments: Sequence[str], layout: Path, folder: Path, stdin: bytes | None) -> Attempt: ...


class BuildKit:
    """docker buildx, inside the root that ``script`` (``peers run CMD…``) manages."""

    def __init__(self, script: str) -> None:
        self.script = script

    def build(self, arguments: Sequence[str], layout: Path, folder: Path, stdin: bytes | None) -> Attempt:
        archive = layout.with_suffix(".tar")
        words = ["docker", "buildx", "build", "--progress=plain", "--provenance=false", "--network=host"]
        words += [f"--output=type=oci,dest={archive}", *arguments]
        done = subprocess.run(
            [self.script, "run", "sh", "-c", f"cd {shlex.quote(str(folder))} && exec {shlex.join(words)}"],
            input=stdin if stdin is not None else b"",
            capture_output=True,
            timeout=120,
        )
        if done.returncode == 0:
            with tarfile.open(archive) as packed:
                packed.extractall(layout, filter="data")
        return Attempt(done.returncode, done.stderr.decode(), layout)


class Own:
    """polyarch's command line, in this process; its state lives in ``state``."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def build(self, arguments: Sequence[str], layout: Path, folder: Path, stdin: bytes | None) -> Attempt:
        from polyarch.cli.main import main

        words = ["build", "--progress=plain", f"--output=type=oci,dest={layout},tar=false", *arguments]
        output = io.StringIO()
        before, given = Path.cwd(), sys.stdin
        os.environ["POLYARCH_ROOT"] = str(self.state)
        os.chdir(folder)
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin or b""))
        try:
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                status = main(words)
        finally:
            os.chdir(before)
            sys.stdin = given
        return Attempt(status, output.getvalue(), layout)


def run(case: Case, builder: Builder, world: World, folder: Path) -> dict[str, Any]:
    """Build ``case`` and say what came out, in the form of ``[case.expect]`` (see `cases_corpus`)."""
    word = f"run{uuid.uuid4().hex[:12]}"
    context, layout = folder / "context", folder / "layout"
    context.mkdir(parents=True)
    plant(_filled(dict(case.files), case, world, word), context)
    if case.dockerfile is not None and case.stdin != "dockerfile":
        path = context / case.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(world.fill(case.dockerfile, case.id, word).encode())
    world.web[case.id.replace("/", ".")] = case.web
    arguments = _arguments(case, world, word, folder)
    attempt = builder.build(arguments, layout, context, _stdin(case, world, word, context))
    if attempt.status != 0:
        return _failure(attempt.text, case, world)
    assert attempt.layout is not None
    made = outcome(attempt.layout, world.images, times=case.times, omit=case.omit)
    return _cleared(made, case, world, word)


def _filled(value: Any, case: Case, world: World, word: str) -> Any:
    match value:
        case str():
            return world.fill(value, case.id, word)
        case dict():
            return {key: _filled(item, case, world, word) for key, item in value.items()}
        case _:
            return value


def _cleared(value: Any, case: Case, world: World, word: str) -> Any:
    match value:
        case str():
            return world.clear(value, case.id).replace(word, "cases-run")
        case list():
            return [_cleared(item, case, world, word) for item in value]
        case dict():
            return {_cleared(k, case, world, word): _cleared(v, case, world, word) for k, v in value.items()}
        case _:
            return value


def _arguments(case: Case, world: World, word: str, folder: Path) -> list[str]:
    words: list[str] = ["--no-cache"] if case.times else []  # content decides a cache hit, times do not
    if case.file != "Dockerfile":
        words += ["-f", case.file]
    for name, value in case.args.items():
        words += ["--build-arg", f"{name}={world.fill(value, case.id, word)}"]
    if case.target:
        words += ["--target", case.target]
    if case.platforms:
        words += ["--platform", ",".join(case.platforms)]
    for name, content in case.secrets.items():
        path = folder / f"secret-{name}"
        path.write_text(content)
        words += ["--secret", f"id={name},src={path}"]
    for number, (name, value) in enumerate(case.contexts.items()):
        if isinstance(value, str):
            words += ["--build-context", f"{name}={world.fill(value, case.id, word)}"]
            continue
        path = folder / f"context{number}"
        path.mkdir()
        plant(_filled(dict(value), case, world, word), path)
        words += ["--build-context", f"{name}={path}"]
    words += [world.fill(flag, case.id, word) for flag in case.flags]
    where = world.fill(case.context, case.id, word) or "."
    return [*words, "-" if case.stdin else where]


def _stdin(case: Case, world: World, word: str, context: Path) -> bytes | None:
    match case.stdin:
        case "dockerfile":
            return world.fill(case.dockerfile or "", case.id, word).encode()
        case "tar":
            stream = io.BytesIO()
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
                archive.add(context, arcname=".")
            return stream.getvalue()
        case _:
            return None


def _failure(text: str, case: Case, world: World) -> dict[str, Any]:
    marked = [int(found[1] or found[2]) for found in MARKED.finditer(text)]
    last = text.rstrip().rpartition("ERROR: ")[2].rpartition("failed to solve: ")[2]
    words = world.clear(last or text, case.id).partition("\n\nView build")[0]
    result: dict[str, Any] = {"failure": re.sub(r"of ref [0-9a-z:]+", "of ref …", words)}
    if marked:
        result["line"] = marked[0]
    return result
