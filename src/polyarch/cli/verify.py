"""``polyarch verify``: is every variant of an image what its label says, and does it run?"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from polyarch.cli.goflags import GoCommand

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyarch.cli.trial import Trial
    from polyarch.oci.platform import Platform
    from polyarch.proof.finding import Finding
    from polyarch.proof.image import Report


_MARKS = {"error": "error  ", "warning": "warning", "note": "note   "}


@click.command(cls=GoCommand)
@click.argument("name")
@click.argument("command", nargs=-1)
@click.option(
    "--platform", "platforms", multiple=True, metavar="P[,P…]", help="Only these. [default: all there are]"
)
@click.option("--run", "run", is_flag=True, help="Run each variant, too, and compare what they print.")
@click.option("--timeout", default=60.0, show_default=True, metavar="SECONDS", help="For one run.")
@click.option("--proof", type=click.Choice(["strict", "default"]), default="default", show_default=True)
@click.option("--proof-ignore", "ignore", multiple=True, metavar="PATTERN", help="Accept files, or a rule.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--remote", is_flag=True, help="Ask the registry even when the local store has NAME.")
def verify(
    *,
    name: str,
    command: tuple[str, ...],
    platforms: tuple[str, ...],
    run: bool,
    timeout: float,
    proof: str,
    ignore: tuple[str, ...],
    as_json: bool,
    remote: bool,
) -> int:
    """Prove that every variant of NAME is for the platform its label says. Nothing is executed.

    NAME is looked up in the local store, then in its registry; oci-layout://PATH[:TAG] and oci-archive:FILE
    are read from disk. With --run each variant is run, natively or emulated, with COMMAND or the image's own;
    exit codes and outputs are compared. Exits with 1 when a variant cannot run, or runs differently.

    \b
    polyarch verify registry.example.com/team/app:1.0
    polyarch verify app --run -- app --version
    """
    from polyarch.content.state import State
    from polyarch.errors import UsageError
    from polyarch.image.inspect import inspect
    from polyarch.image.locate import locate
    from polyarch.oci.platform import parse_list
    from polyarch.proof.finding import Policy
    from polyarch.proof.image import verify as prove
    from polyarch.registry.client import Client

    if command and not run:
        raise UsageError(
            "a command is run only with --run",
            hint=f"polyarch verify {name} --run -- COMMAND",
            reason="invalid-option",
        )
    state = State.default()
    wanted = parse_list(platforms)
    with Client() as client:
        found = locate(name, state=state, client=client, local=not remote)
        image = inspect(found.store, found.descriptor, name=found.name)
        policy = Policy("strict" if proof == "strict" else "default", ignore)
        report = prove(image, found.store, wanted=wanted, policy=policy, told=_told(quiet=as_json))
    exact = _exact(found.name, report.digest) if not found.is_local else found.name
    trial = _try(exact, command, report, timeout) if run else None
    if as_json:
        import msgspec

        value = {"proof": report, "trial": trial} if trial else report
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    else:
        print("\n".join(_lines(report)))
        if trial is not None:
            print("\n".join(_trial_lines(trial)))
    return 0 if report.sound and (trial is None or trial.alike) else 1


def _exact(name: str, digest: str) -> str:
    """What was proved, by its digest: the local store may have something else under the same tag."""
    from polyarch.errors import UsageError
    from polyarch.oci.reference import Reference

    try:
        return str(Reference.parse(name).with_digest(digest))
    except UsageError:
        return name  # a layout or an archive on disk


def _try(name: str, command: tuple[str, ...], report: Report, timeout: float) -> Trial:
    from polyarch.cli.trial import attempt
    from polyarch.oci.platform import Platform

    return attempt(
        name, command, [Platform.parse(one.platform).normalized() for one in report.variants], timeout=timeout
    )


def _told(*, quiet: bool) -> Callable[[Platform], None]:
    def tell(platform: Platform) -> None:
        if not quiet:
            print(f"reading {platform}", file=sys.stderr, flush=True)

    return tell


def _lines(report: Report) -> list[str]:
    """The image, its variants each with what was found, and the verdict."""
    lines = [f"{report.name}@{report.digest}" if "@" not in report.name else report.name]
    lines += [f"  {_MARKS[finding.severity]} {_text(finding)}" for finding in report.findings]
    for one in report.variants:
        bad = sum(finding.severity == "error" for finding in one.findings)
        warned = sum(finding.severity == "warning" for finding in one.findings)
        verdict = "wrong" if bad else "odd" if warned else "sound"
        counts = f"layers {one.layers}, files {one.files}, of these programs and libraries {one.programs}"
        lines.append(f"{one.platform:<16} {verdict:<6} {counts}")
        lines += [f"  {_MARKS[finding.severity]} {_text(finding)}" for finding in one.findings]
    wrong = [finding for finding in report.all if finding.severity == "error"]
    lines.append("every variant is what its label says" if not wrong else f"{_errors(len(wrong))} found")
    return lines


def _errors(count: int) -> str:
    return "1 error" if count == 1 else f"{count} errors"


def _text(finding: Finding) -> str:
    return f"{finding.rule}: {finding}"


def _trial_lines(trial: Trial) -> list[str]:
    lines = []
    for run in trial.runs:
        output = run.output.strip().splitlines()
        shown = f": {output[0][:80]}" if output else ""
        more = f" … ({len(output)} lines)" if len(output) > 1 else ""
        ended = f"not run: {run.problem}" if run.problem else f"exit {run.code}, {run.seconds:.1f} s"
        lines.append(f"{run.platform:<16} {run.how:<9} {ended}{shown}{more}")
    lines += [f"  error   {text}" for text in trial.errors]
    lines += [f"  warning {text}" for text in trial.warnings]
    if trial.alike and not trial.warnings:
        lines.append("every variant ran, and alike")
    return lines
