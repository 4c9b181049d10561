"""``polyarch doctor``: what this machine can do, tried by doing, each failing row with what mends it."""

from __future__ import annotations

import sys

import click

_MARKS = {"ok": "ok  ", "missing": "no  ", "optional": "-   "}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(*, as_json: bool) -> int:
    """Say what this machine can do, and what mends the rest.

    Exits with 1 when RUN steps are impossible here.
    """
    from polyarch.content.state import State
    from polyarch.executor.diagnosis import diagnose

    findings = diagnose(State.default())
    if as_json:
        import msgspec

        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(findings), indent=2) + b"\n")
    else:
        width = max(len(finding.subject) for finding in findings)
        for finding in findings:
            print(f"{_MARKS[finding.state]}{finding.subject:<{width}}  {finding.detail}")
            if finding.remedy:
                print(f"    {'':<{width}}  -> {finding.remedy}")
    possible = all(finding.state != "missing" for finding in findings if finding.needed)
    if not as_json:
        print(
            "RUN steps are possible here."
            if possible
            else "RUN steps are not possible here; COPY-only builds are."
        )
    return 0 if possible else 1
