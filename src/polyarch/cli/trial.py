"""Runs every variant of an image and compares what they do: ``polyarch verify --run``."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from threading import Event, Timer

import msgspec

from polyarch import container
from polyarch.errors import PolyarchError
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform
from polyarch.proof.labels import ARCHITECTURES

_MAX_OUTPUT = 1 << 20  # bytes kept of a run


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One variant's run. ``how`` is "native" or "emulated"; ``problem`` says why there was none, or that it
    did not end in time; ``output`` is what went to standard output."""

    platform: str
    how: str
    code: int = 0
    output: str = ""
    seconds: float = 0.0
    problem: str = ""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """All runs, and where they differ; ``warnings`` may be meant (times, names of hosts)."""

    runs: tuple[Run, ...]
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def alike(self) -> bool:
        """Whether every variant ran and ended as the others."""
        return not self.errors


class _Collector:
    """Keeps standard output; drops what is too much."""

    def __init__(self) -> None:
        self.data = bytearray()

    def __call__(self, stream: int, data: bytes) -> None:
        if stream == 1 and len(self.data) < _MAX_OUTPUT:
            self.data += data[: _MAX_OUTPUT - len(self.data)]


def attempt(name: str, command: Sequence[str], wanted: Sequence[Platform], *, timeout: float) -> Trial:
    """Run ``command`` (empty: the image's own) in every variant, without a network, one after the other."""
    runs = tuple(_run(name, command, platform, timeout) for platform in wanted)
    return compare(runs, strict=bool(command))


def _run(name: str, command: Sequence[str], platform: Platform, timeout: float) -> Run:
    native = platforms.choose(platforms.host(), [platform]) is not None
    how = "native" if native else "emulated"
    output, cancelled = _Collector(), Event()
    timer = Timer(timeout, cancelled.set)
    timer.start()
    started = time.monotonic()
    code, problem = 0, ""
    try:
        code = container.run(
            name,
            command,
            platform=str(platform),
            entrypoint="" if command else None,
            network="none",
            output=output,
            cancelled=cancelled,
        )
    except PolyarchError as error:
        problem = error.summary
    finally:
        timer.cancel()
    if cancelled.is_set():
        problem = f"it did not end within {timeout:g} s"
    return Run(
        platform=str(platform),
        how=how,
        code=code,
        output=output.data.decode("utf-8", "replace"),
        seconds=time.monotonic() - started,
        problem=problem,
    )


def compare(runs: Sequence[Run], *, strict: bool) -> Trial:
    """What differs between runs. That outputs do is an error if ``strict``; names of architectures, which
    must differ, are taken out of them first."""
    errors = [f"{run.platform}: {run.problem}" for run in runs if run.problem]
    ran = [run for run in runs if not run.problem]
    warnings: list[str] = []
    for run in ran[1:]:
        if run.code != ran[0].code:
            errors.append(f"{run.platform} ended with {run.code}, {ran[0].platform} with {ran[0].code}")
        elif _plain(run.output) != _plain(ran[0].output):
            text = f"{run.platform} printed something else than {ran[0].platform}"
            (errors if strict else warnings).append(text)
    if ran and strict and all(run.code for run in ran):
        errors.append(f"the command failed everywhere, with {ran[0].code}")
    return Trial(runs=tuple(runs), errors=tuple(errors), warnings=tuple(warnings))


def _plain(output: str) -> str:
    return re.sub(ARCHITECTURES, "@", output)
