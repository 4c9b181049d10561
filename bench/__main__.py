"""``python -m bench``: our builds beside BuildKit's and buildah's, in one run, interleaved.

    python -m bench [--rows WORD,…] [--rounds N] [--builders WORD,…] [--host-handlers] [--write]

POLYARCH_PEERS names a script that runs commands where docker buildx, buildah and a registry are
(``peers run CMD…``); without it only our own times are measured, with a registry of our own. PEERS_REGISTRY
(default 127.0.0.1:5000) is the registry every builder pushes to. ``--write`` puts the table into
bench/README.md.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.builders import Buildah, Builder, BuildKit, Own, prepare_base
from bench.handlers import host_handlers
from bench.registry import registry
from bench.rows import ROWS, SCENARIOS, Prepared, Scenario
from bench.table import Measured, render, write


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print the table, perhaps keep it; returns an exit status."""
    options = _options(words)
    chosen = options.rows.split(",") if options.rows else []
    peers = os.environ.get("POLYARCH_PEERS", "")
    measured: list[Measured] = []
    with (
        tempfile.TemporaryDirectory(prefix="polyarch-bench-", dir=os.environ.get("BENCH_TMP")) as name,
        registry(Path(name), peers=bool(peers)) as address,
    ):
        folder = Path(name)
        builders = _builders(options.builders.split(","), folder, address, peers)
        bases: dict[str, str] = {}
        for scenario in SCENARIOS:
            wanted = [name for name, _ in scenario.rows if name in (chosen or ROWS)]
            if not wanted or (scenario.optional and not chosen):
                continue
            if scenario.base not in bases:
                bases[scenario.base] = prepare_base(scenario.base, folder, address)
            with host_handlers(enabled=options.host_handlers and scenario.emulated):
                found = _measure(scenario, builders, bases[scenario.base], folder, options.rounds, address)
            found = [row for row in found if row.name in wanted]
            print(render(found, head=not measured), flush=True)
            measured += found
    if options.write:
        write(Path(__file__).with_name("README.md"), render(measured, head=True), rounds=options.rounds)
    return 0


def _builders(names: Sequence[str], folder: Path, address: str, peers: str) -> list[Builder]:
    builders: list[Builder] = [Own(folder / "state", address)]
    if peers:
        builders += [BuildKit(peers, address), Buildah(peers, address)]
    return [builder for builder in builders if builder.name in names]


def _options(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", default="", help=", ".join(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--builders", default="polyarch,buildkit,buildah")
    parser.add_argument(
        "--host-handlers",
        action="store_true",
        help="register QEMU with the host's kernel for the rows that emulate, and take it away again",
    )
    parser.add_argument("--write", action="store_true", help="put the table into bench/README.md")
    return parser.parse_args(words)


def _measure(
    scenario: Scenario, builders: Sequence[Builder], base: str, folder: Path, rounds: int, address: str
) -> list[Measured]:
    """Every row by every builder once a round, beginning with another builder each time."""
    found = [Measured(name, about) for name, about in scenario.rows]
    for number in range(rounds + scenario.warm):
        work = folder / f"{found[0].name}-{number}"
        work.mkdir()
        prepared = scenario.prepare(work, base)
        shift = number % max(1, len(builders))
        order = [*builders[shift:], *builders[:shift]]
        for row in found:
            scenario.change(row.name, prepared.context)
            for builder in order:
                if builder.name not in scenario.skip and builder.name not in row.failed:
                    _build(scenario, builder, prepared, row, counted=number >= scenario.warm)
            bottom = scenario.floor(row.name, prepared.context, address)
            if bottom is not None and number >= scenario.warm:
                row.floor.append(bottom)
        shutil.rmtree(work)
    return found


def _build(scenario: Scenario, builder: Builder, prepared: Prepared, row: Measured, *, counted: bool) -> None:
    taken = scenario.measure(builder, prepared)
    if taken is None:
        row.failed[builder.name] = builder.failure
        print(f"{row.name}: {builder.name}: {builder.failure}", file=sys.stderr)
    elif counted:
        row.seconds.setdefault(builder.name, []).append(taken.seconds)
        row.memory[builder.name] = max(row.memory.get(builder.name, 0), taken.memory)


if __name__ == "__main__":
    sys.exit(main())
