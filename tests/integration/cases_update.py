"""Write BuildKit's results into the corpus.

    POLYARCH_PEERS=…/peers python tests/integration/cases_update.py [--missing] [AREA[/NAME] …]

The script that POLYARCH_PEERS names runs commands where docker buildx is (``peers run CMD…``). Names may
hold ``*``. ``--missing`` leaves the cases that have an expectation alone. Review the change before it is
committed: what stands there is what we promise.
"""

from __future__ import annotations

import fnmatch
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from cases_builders import BuildKit, run
from cases_corpus import load, write_expectations
from cases_world import World


def main(words: list[str]) -> int:
    """Update the cases that ``words`` select; returns an exit status."""
    patterns = [word for word in words if not word.startswith("--")] or ["*"]
    cases = [
        case
        for case in load()
        if any(fnmatch.fnmatch(case.id, p) or case.area == p for p in patterns)
        and not ("--missing" in words and case.expect)
        and not case.by_hand
    ]
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="cases-") as name:
        world = World(Path(name))
        builder = BuildKit(os.environ["POLYARCH_PEERS"])
        for number, case in enumerate(cases):
            try:
                found = run(case, builder, world, Path(name) / str(number))
            except Exception as error:
                print(f"{case.id}: {type(error).__name__}: {error}", file=sys.stderr)
                continue
            results.setdefault(case.area, {})[case.name] = found
            verdict = "fails: " + found["failure"].splitlines()[-1] if "failure" in found else "builds"
            print(f"{case.id}: {verdict}")
        world.close()
    for area, found_cases in results.items():
        write_expectations(area, found_cases)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
