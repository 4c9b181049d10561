"""The rows of the table: what is built, and what of it is timed.

A scenario is one context and some builds of it in a row; each of them is a row of the table.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import floor
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


GO_BUILD = "CGO_ENABLED=0 HOME=/tmp PATH=/usr/bin:/bin:/usr/lib/go/bin go build"
GO_PROGRAM = """package main

import (
\t"encoding/json"
\t"net/http"
\t"runtime"
)

var word string

func main() {
\thttp.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
\t\tjson.NewEncoder(w).Encode(map[string]string{"arch": runtime.GOARCH, "word": word})
\t})
\thttp.ListenAndServe(":8080", nil)
}
"""


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
    base: str = "busybox"  # what the images are built on, see bench.bases
    optional: bool = False  # whether it is measured only when one of its rows is named

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

    def floor(self, row: str, context: Path, address: str) -> float | None:
        """Seconds that the unavoidable part of ``row`` takes (``bench.floor``); None where that means
        nothing. ``address`` is the registry's."""
        if row.endswith("unchanged"):
            return floor.timed("stat", address, context)
        return None


class TenRuns(Scenario):
    """Ten small RUN steps, each changing a file."""

    def dockerfile(self, base: str, word: str) -> str:
        steps = [f"RUN echo {word} {number} > /step{number}" for number in range(10)]
        return "\n".join([f"FROM {base}", *steps]) + "\n"

    def floor(self, row: str, context: Path, address: str) -> float | None:
        if row.endswith("unchanged"):
            return floor.timed("ask", address)
        return floor.timed("runs", "10", context.parent)


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

    def floor(self, row: str, context: Path, address: str) -> float | None:
        if row.endswith("unchanged"):
            return floor.timed("stat", address, context)
        return floor.timed("pass", context, context.with_name("layer"))


class CopyOnly(Scenario):
    """A final stage of nothing but COPY, for many platforms."""

    def dockerfile(self, base: str, word: str) -> str:
        return f"FROM scratch\nCOPY data /data/\nCOPY Dockerfile /{word}\n"

    def fill(self, context: Path) -> None:
        (context / "data").mkdir()
        for number in range(200):
            (context / "data" / f"f{number}").write_bytes(os.urandom(100_000))

    def floor(self, row: str, context: Path, address: str) -> float | None:
        return floor.timed("pass", context, context.with_name("layer"))


class GoCross(Scenario):
    """A small web server, cross-compiled with the standard library it needs, for two platforms at once."""

    def dockerfile(self, base: str, word: str) -> str:
        return f"""FROM --platform=$BUILDPLATFORM {base} AS build
ARG TARGETARCH
WORKDIR /src
COPY . .
RUN GOARCH=$TARGETARCH {GO_BUILD} -ldflags "-X main.word={word}" -o /app .
FROM scratch
COPY --from=build /app /app
ENTRYPOINT ["/app"]
"""

    def fill(self, context: Path) -> None:
        (context / "go.mod").write_text("module bench\n\ngo 1.19\n")
        (context / "main.go").write_text(GO_PROGRAM)

    def floor(self, row: str, context: Path, address: str) -> float | None:
        """The two compilers alone, side by side in the base's files; None without root's rights."""
        root = context.parents[1] / "golang-files"
        if os.geteuid() != 0 or not unpacked(f"{address}/polyarch-bench/golang:latest", root):
            return None
        here = f"{root}/src"
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(context, here)
        alone = "GOCACHE=/tmp/{0} GOARCH={0} chroot {1} sh -c 'cd /src; {2} -o /tmp/{0}.out .'"
        runs = " & ".join(alone.format(arch, root, GO_BUILD) for arch in ("amd64", "arm64"))
        line = f"mount --bind /dev {root}/dev && mount -t tmpfs tmp {root}/tmp && {{ {runs} & wait; }}"
        begun = time.perf_counter()
        subprocess.run(["unshare", "--mount", "sh", "-c", line], check=True)
        return time.perf_counter() - begun


def unpacked(image: str, root: Path) -> bool:
    """Whether the files of ``image`` are in ``root``; puts them there the first time."""
    if not root.is_dir():
        recipe = root.with_name("golang-recipe")
        recipe.mkdir(exist_ok=True)
        (recipe / "Dockerfile").write_text(f"FROM {image}\n")
        words = [POLYARCH, "build", "--quiet", "--output", str(root), str(recipe)]
        done = subprocess.run(words, stdout=subprocess.DEVNULL, check=False)
        return done.returncode == 0
    return True


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
    GoCross(
        (("go", "Go cross-compiled for two platforms, cold; its floor is the two compilers alone"),),
        platforms=TWO,
        base="golang",
        optional=True,
    ),
)
ROWS = tuple(name for scenario in SCENARIOS for name, _ in scenario.rows)
