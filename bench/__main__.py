"""``python -m bench``: our builds beside BuildKit's and buildah's, in one run, interleaved.

    python -m bench [--rows WORD,…] [--rounds N] [--builders WORD,…] [--host-handlers] [--write]

POLYARCH_PEERS names a script that runs commands where docker buildx, buildah and a registry are
(``peers run CMD…``); without it only our own times are measured. PEERS_REGISTRY (default 127.0.0.1:5000)
is the registry every builder pushes to. ``--write`` puts the table into bench/README.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.builders import Buildah, Builder, BuildKit, Own
from bench.handlers import host_handlers
from bench.rows import ROWS, Row
from bench.table import Measured, render, write


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print the table, perhaps keep it; returns an exit status."""
    options = _options(words)
    registry = os.environ.get("PEERS_REGISTRY", "127.0.0.1:5000")
    peers = os.environ.get("POLYARCH_PEERS", "")
    with tempfile.TemporaryDirectory(prefix="polyarch-bench-", dir=os.environ.get("BENCH_TMP")) as name:
        folder = Path(name)
        builders: list[Builder] = [Own(folder / "state", registry)]
        if peers:
            builders += [BuildKit(peers, registry), Buildah(peers, registry)]
        builders = [builder for builder in builders if builder.name in options.builders.split(",")]
        base = builders[0].prepare_base(folder) if builders else ""
        measured: list[Measured] = []
        for row in ROWS:
            if options.rows and row.name not in options.rows.split(","):
                continue
            with host_handlers(enabled=options.host_handlers and row.emulated):
                measured.append(_measure(row, builders, base, folder, options.rounds))
            print(render([measured[-1]], head=len(measured) == 1), flush=True)
    if options.write:
        write(Path(__file__).with_name("README.md"), render(measured, head=True), rounds=options.rounds)
    return 0


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", default="", help=", ".join(row.name for row in ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--builders", default="polyarch,buildkit,buildah")
    parser.add_argument(
        "--host-handlers",
        action="store_true",
        help="register QEMU with the host's kernel for the rows that emulate, and take it away again",
    )
    parser.add_argument("--write", action="store_true", help="put the table into bench/README.md")
    return parser.parse_args(words)


def _measure(row: Row, builders: Sequence[Builder], base: str, folder: Path, rounds: int) -> Measured:
    """Every builder once a round, beginning with another one each time; the first round warms up."""
    found = Measured(row.name, row.about)
    for number in range(rounds + 1):
        work = folder / f"{row.name}-{number}"
        work.mkdir()
        prepared = row.prepare(work, base)
        shift = number % max(1, len(builders))
        for builder in [*builders[shift:], *builders[:shift]]:
            if builder.name in row.skip or builder.name in found.failed:
                continue
            taken = row.measure(builder, prepared)
            if taken is None:
                found.failed[builder.name] = builder.failure
                print(f"{row.name}: {builder.name}: {builder.failure}", file=sys.stderr)
            elif number > 0:
                found.seconds.setdefault(builder.name, []).append(taken.seconds)
                found.memory[builder.name] = max(found.memory.get(builder.name, 0), taken.memory)
        row.clean(work)
    return found


if __name__ == "__main__":
    sys.exit(main())
