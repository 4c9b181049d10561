"""The rows of the table: what is built, and what of it is timed.

A scenario is one context and some builds of it in a row; each of them is a row of the table.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.builders import POLYARCH, Builder, Taken

NATIVE = ("linux/amd64",)
TWO = ("linux/amd64", "linux/arm64")
TWELVE = tuple(
    f"linux/{name}"
    for name in (
        *("amd64", "arm64", "386", "arm/v5", "arm/v6", "arm/v7", "ppc64le", "s390x", "riscv64"),
        *("mips64le", "loong64", "mips64"),
    )
)


@dataclass(frozen=True)
class Prepared:
    """A context made for one round, seen by every builder of that round for the first time."""

    context: Path
    word: str  # new in every round, and part of the image's name


@dataclass(frozen=True)
class Scenario:
    """Builds of one context, each a row: its name and what it is. The first one is cold: it has a word in it
    that no cache can know; the base is there."""

    rows: Sequence[tuple[str, str]]
    platforms: Sequence[str] = NATIVE
    emulated: bool = False
    skip: Sequence[str] = ()
    warm: bool = True  # whether a first round is not counted

    def prepare(self, folder: Path, base: str) -> Prepared:
        """Make the context of a round."""
        context, word = folder / "context", uuid.uuid4().hex[:12]
        context.mkdir()
        (context / "Dockerfile").write_text(self.dockerfile(base, word))
        self.fill(context)
        os.sync()
        return Prepared(context, word)

    def dockerfile(self, base: str, word: str) -> str:
        """What is built."""
        raise NotImplementedError

    def fill(self, context: Path) -> None:
        """More files of the context."""

    def change(self, row: str, context: Path) -> None:
        """What changes before the builds of ``row``."""

    def measure(self, builder: Builder, prepared: Prepared) -> Taken | None:
        """One build."""
        return builder.build(prepared.context, self.platforms, f"{self.rows[0][0]}:{prepared.word}")


class TenRuns(Scenario):
    """Ten small RUN steps, each changing a file."""

    def dockerfile(self, base: str, word: str) -> str:
        steps = [f"RUN echo {word} {number} > /step{number}" for number in range(10)]
        return "\n".join([f"FROM {base}", *steps]) + "\n"


class BigContext(Scenario):
    """20,000 files, 214 MB, of random bytes, copied; at last one of them is another."""

    files = 20_000
    size = 10_700

    def dockerfile(self, base: str, word: str) -> str:
        return f"FROM {base}\nCOPY . /app/\n"

    def fill(self, context: Path) -> None:
        for folder in range(self.files // 100):
            below = context / f"d{folder:03}"
            below.mkdir()
            data = os.urandom(self.size * 100)
            for number in range(100):
                (below / f"f{number:02}").write_bytes(data[number * self.size : (number + 1) * self.size])

    def change(self, row: str, context: Path) -> None:
        if row.endswith("one-changed"):
            (context / "d050" / "f50").write_bytes(os.urandom(self.size))


class CopyOnly(Scenario):
    """A final stage of nothing but COPY, for many platforms."""

    def dockerfile(self, base: str, word: str) -> str:
        return f"FROM scratch\nCOPY data /data/\nCOPY Dockerfile /{word}\n"

    def fill(self, context: Path) -> None:
        (context / "data").mkdir()
        for number in range(200):
            (context / "data" / f"f{number}").write_bytes(os.urandom(100_000))


class StartUp(Scenario):
    """``polyarch --version`` beside ``python -c pass``: for the table, the second plays the other builder."""

    def dockerfile(self, base: str, word: str) -> str:
        return ""

    def measure(self, builder: Builder, prepared: Prepared) -> Taken | None:
        words = [POLYARCH, "--version"]
        if builder.name == "buildkit":
            words = [sys.executable, "-c", "pass"]
        times = []
        for _ in range(20):
            begun = time.perf_counter()
            subprocess.run(words, stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - begun)
        return Taken(sorted(times)[len(times) // 2], 0)


SCENARIOS: tuple[Scenario, ...] = (
    StartUp((("start", "`polyarch --version`; beside it `python -c pass`"),), skip=("buildah",)),
    TenRuns(
        (
            ("runs-cold", "10 RUN steps, cold cache, amd64"),
            ("runs-unchanged", "the same again, nothing changed"),
        )
    ),
    TenRuns(
        (
            ("runs-emulated", "10 RUN steps, cold cache, amd64 and emulated arm64"),
            ("runs-emulated-unchanged", "the same again, nothing changed"),
        ),
        platforms=TWO,
        emulated=True,
    ),
    BigContext(
        (
            ("context-cold", "COPY of 20,000 files and 214 MB, cold cache, two platforms"),
            ("context-unchanged", "the same again, nothing changed"),
            ("context-one-changed", "the same again, one file of 20,000 changed"),
        ),
        platforms=TWO,
        warm=False,
    ),
    CopyOnly((("copy-two", "COPY of 200 files and 20 MB onto scratch, 2 platforms"),), platforms=TWO),
    CopyOnly((("copy-twelve", "the same for 12 platforms"),), platforms=TWELVE),
)
ROWS = tuple(name for scenario in SCENARIOS for name, _ in scenario.rows)
