"""``python -m bench.emulation``: steps for arm64, with native twins, emulated whole, and by BuildKit; and
native.

    POLYARCH_PEERS=/path/to/peers python -m bench.emulation [--rounds N] [--rows WORD,…]

The base is a Debian of this machine's mirror with python3's and gcc's packages downloaded but not installed.
Making it takes some minutes; ``BENCH_STATE`` names a folder where it is kept for the next time. A round
builds each row in turns; the table has medians, the range, and each time divided by ours of the same round.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.builders import POLYARCH
from bench.handlers import host_handlers
from bench.registry import registry

ROWS = {
    "apt": "apt-get install -y -qq --no-install-recommends --no-download python3 gcc",
    "forks": "for i in $(seq 200); do /bin/true; done",
    "archive": "tar -C /usr -cf - share lib | gzip -1 | gzip -dc | tar -C /srv -xf -",
    "script": "for f in $(find /usr/share/doc -type f | head -150); do "
    'sed -e s/a/b/ "$f" | grep -c b | cut -c1; basename "$f" | tr a-z A-Z; done',
}
_PREPARED = "polyarch-bench/debian-with-packages"
_DOWNLOAD = "apt-get update -qq && apt-get install -y -qq --no-install-recommends --download-only python3 gcc"
FOREIGN, NATIVE = "linux/arm64", "linux/amd64"
Way = Callable[[Path], float]


def main(words: Sequence[str] | None = None) -> int:
    """Prepare, measure, print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.emulation", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", default=",".join(ROWS))
    options = parser.parse_args(words)
    peers = os.environ.get("POLYARCH_PEERS", "")
    with (
        tempfile.TemporaryDirectory(prefix="polyarch-bench-") as name,
        registry(Path(name), peers=bool(peers)) as address,
    ):
        state = Path(os.environ.get("BENCH_STATE") or Path(name) / "state")
        base = _prepare(state, address)
        ways = _ways(state, peers)
        print(f"| row | {' | '.join(ways)} |\n|---|{'---|' * len(ways)}", flush=True)
        with host_handlers(enabled=bool(peers)):
            for row in options.rows.split(","):
                print(_measured(row, ways, base, Path(name), options.rounds), flush=True)
    return 0


def _ways(state: Path, peers: str) -> dict[str, Way]:
    def own(platform: str, accelerate: str) -> Way:
        words = [POLYARCH, "build", "--progress=quiet", "--platform", platform, "--accelerate", accelerate]
        return lambda context: _timed([*words, "-o", "type=cacheonly", str(context)], state)

    ways = {
        "accelerated": own(FOREIGN, "auto"),
        "emulated": own(FOREIGN, "off"),
        "native": own(NATIVE, "auto"),
    }
    if peers:
        words = [
            peers,
            "run",
            "docker",
            "buildx",
            "build",
            "--quiet",
            "--network=host",
            "--platform",
            FOREIGN,
        ]
        ways["BuildKit"] = lambda context: _timed([*words, "-o", "type=cacheonly", str(context)], state)
    return ways


def _measured(row: str, ways: dict[str, Way], base: str, folder: Path, rounds: int) -> str:
    """One line of the table; a first round pulls and warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            context = folder / f"{row}-{number}-{name}"
            context.mkdir()
            text = f"FROM {base}\nENV ROUND={uuid.uuid4().hex}\nRUN {ROWS[row]}\n"
            (context / "Dockerfile").write_text(text)
            taken = way(context)
            if number:
                seconds[name].append(taken)
    cells = []
    for found in seconds.values():
        ratios = [other / ours for other, ours in zip(found, seconds["accelerated"], strict=True)]
        shown = f"{statistics.median(found):.2f} s ({min(found):.2f}–{max(found):.2f})"
        cells.append(f"{shown}, **{statistics.median(ratios):.1f}**")
    return f"| `{row}` | {' | '.join(cells)} |"


def _prepare(state: Path, address: str) -> str:
    """The base in the registry; its name."""
    name = f"{address}/{_PREPARED}:1"
    marker = state / "bench-base"
    if not (marker.is_file() and marker.read_text() == name):
        both = f"{NATIVE},{FOREIGN}"
        _timed([POLYARCH, "base", "create", "bench/debian:1", "--platform", both], state)
        with tempfile.TemporaryDirectory() as context:
            Path(context, "Dockerfile").write_text(f"FROM bench/debian:1\nRUN {_DOWNLOAD}\n")
            _timed(
                [POLYARCH, "build", "--progress=quiet", "--platform", both, "-t", name, "--push", context],
                state,
            )
        marker.write_text(name)
    return name


def _timed(words: Sequence[str], state: Path) -> float:
    begun = time.perf_counter()
    done = subprocess.run(
        words, env={**os.environ, "POLYARCH_ROOT": str(state)}, stdin=subprocess.DEVNULL, capture_output=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words[:4])} failed:\n{done.stderr.decode(errors='replace')[-2000:]}")
    return time.perf_counter() - begun


if __name__ == "__main__":
    sys.exit(main())
