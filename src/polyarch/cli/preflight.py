"""``polyarch preflight``: what would stop a build, found in seconds; nothing is run or pushed."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

import click

from polyarch.cli.build import build, request_of

_MARKS = {"ok": "ok      ", "warning": "warning ", "error": "error   "}


def _preflight(**options: Any) -> int:
    """Check what `polyarch build` with the same options would need, and run nothing.

    Bases for every platform, an executor for every step, secrets and ssh agents, the permission to push,
    disk space, and mistakes in the Dockerfile. Exits with 1 when the build could not run.
    """
    if options["scripts"]:
        return _scripts(options["context"], as_json=options["as_json"])
    from polyarch import pipeline

    with ExitStack() as stack:
        rows = pipeline.preflight(request_of(options, stack))
    if options["as_json"]:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(rows), indent=2) + b"\n")
    else:
        width = max((len(row.subject) for row in rows), default=0)
        width = min(width, 60)
        for row in rows:
            first, *more = row.detail.splitlines() or [""]
            print(f"{_MARKS[row.state]}{row.subject:<{width}}  {first}".rstrip())
            for line in more:
                print(f"        {'':<{width}}  {line}")
            if row.hint:
                print(f"        {'':<{width}}  -> {row.hint}")
    bad = sum(row.state == "error" for row in rows)
    if not options["as_json"]:
        print("the build can run" if not bad else f"{bad} of these would stop the build", file=sys.stderr)
    return 1 if bad else 0


def _scripts(context: str, *, as_json: bool) -> int:
    """The findings in the scripts of a directory; 1 where there are some."""
    from pathlib import Path

    from polyarch.errors import UsageError
    from polyarch.proof.scripts import check_scripts

    if not Path(context).is_dir():
        raise UsageError(f"{context} is not a directory", reason="invalid-option")
    found = check_scripts(Path(context))
    if as_json:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    else:
        for one in found:
            place = f"{one.file}:{one.line}" if one.line else one.file
            print(f"{place}: {one.rule}: {one.message} ({one.url})")
        print("the scripts are fine" if not found else f"{len(found)} found", file=sys.stderr)
    return 1 if found else 0


preflight = click.Command(
    "preflight",
    callback=_preflight,
    params=[
        *build.params,
        click.Option(["--json", "as_json"], is_flag=True, help="Print JSON."),
        click.Option(["--scripts"], is_flag=True, help="Check the scripts and pipelines in CONTEXT instead."),
    ],
    help=_preflight.__doc__,
    short_help="Find what would stop a build, before it runs.",
)
