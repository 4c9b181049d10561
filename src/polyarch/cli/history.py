"""``polyarch history`` and ``polyarch logs``: what builds did, with buildx's names and columns."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from polyarch.cli.goflags import GoCommand

if TYPE_CHECKING:
    from polyarch.history.reader import BuildRecord


@click.group()
def history() -> None:
    """Show what builds did.

    REF is a build's id, the beginning of one, or ^N for the N-th before the last; without it, the last.
    """


@history.command("ls", cls=GoCommand)
@click.option(
    "--filter", "filters", multiple=True, metavar="KEY=VALUE", help="status=…, ref=…, repository=…."
)
@click.option("--format", "form", default="table", metavar="table|json|TEMPLATE", help="How to print.")
@click.option("--no-trunc", is_flag=True, help="Do not shorten names.")
@click.option("-q", "--quiet", is_flag=True, help="Print ids alone.")
def list_records(*, filters: tuple[str, ...], form: str, no_trunc: bool, quiet: bool) -> None:
    """List the builds that are recorded, the newest first."""
    from polyarch.cli.history_rows import cells, matching, row
    from polyarch.history.reader import records

    found = [record for record in records(_folder()) if matching(record, filters)]
    if quiet:
        for record in found:
            print(record.id)
        return
    if form == "table":
        from polyarch.cli.tables import table

        rows = []
        for record in found:
            ref, name, *rest = cells(record)
            rows.append([ref, name if no_trunc or len(name) <= 40 else "…" + name[-39:], *rest])
        print(table(("BUILD ID", "NAME", "STATUS", "CREATED AT", "DURATION"), rows))
        return
    _print_each([row(record) for record in found], form)


@history.command(cls=GoCommand)
@click.argument("reference", metavar="[REF]", default="")
@click.option("--format", "form", default="pretty", metavar="pretty|json|TEMPLATE", help="How to print.")
def inspect(*, reference: str, form: str) -> None:
    """Show one build: what was asked, what became of it, and every step."""
    from polyarch.cli.history_rows import details, pretty

    build = _build(reference)
    if form == "pretty":
        print(pretty(build))
    else:
        _print_each([details(build)], form, indent=2)


@history.command("logs", cls=GoCommand)
@click.argument("reference", metavar="[REF]", default="")
@click.option("--progress", default="plain", type=click.Choice(["plain", "rawjson"]), help="How to print.")
def record_logs(*, reference: str, progress: str) -> None:
    """Print the progress of a build as it was."""
    from polyarch.cli.history_rows import replay

    replay(_build(reference), progress, sys.stdout)


@history.command("rm", cls=GoCommand)
@click.argument("references", metavar="[REF]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Remove all records.")
def remove(*, references: tuple[str, ...], everything: bool) -> int:
    """Remove records. That of a running build stays."""
    from polyarch.errors import UsageError
    from polyarch.history.keeping import remove as remove_file
    from polyarch.history.reader import find, records

    if everything == bool(references):
        raise UsageError("name the records to remove, or --all", reason="nothing-named")
    chosen = records(_folder()) if everything else [find(_folder(), each) for each in references]
    failed = [record.id for record in chosen if not remove_file(str(record.path))]
    for name in failed:
        print(f"warning: {name} is of a build that runs, and stays", file=sys.stderr)
    return 1 if failed and not everything else 0


@history.command("open", cls=GoCommand)
@click.argument("reference", metavar="[REF]", default="")
@click.option("-o", "--output", metavar="FILE", default="", help="Where to write; - is standard output.")
def open_page(*, reference: str, output: str) -> None:
    """Write one HTML page of a build, and show it if there is a desktop.

    The page needs nothing else: no network, no other file.
    """
    from polyarch.history.page import render

    build = _build(reference)
    page = render(build)
    if output == "-":
        sys.stdout.write(page)
        return
    path = Path(output or f"polyarch-{build.record.id[:12]}.html").absolute()
    _replace(path, page.encode("utf-8"))
    print(path)
    if not output:
        _show(path)


@history.command(cls=GoCommand)
@click.argument("references", metavar="[REF]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Export all records.")
@click.option(
    "-o", "--output", metavar="FILE", default="-", help="Where to write (default: standard output)."
)
def export(*, references: tuple[str, ...], everything: bool, output: str) -> None:
    """Write records as they are, one JSON object a line; 'history import' reads them."""
    from polyarch.history.reader import find, records

    chosen = records(_folder()) if everything else [find(_folder(), each) for each in references or ("",)]
    content = b"".join(record.path.read_bytes().rstrip(b"\n") + b"\n" for record in chosen)
    if output == "-":
        sys.stdout.buffer.write(content)
    else:
        _replace(Path(output).absolute(), content)


@history.command("import", cls=GoCommand)
@click.option(
    "-f", "--file", "path", metavar="FILE", default="-", help="What to read (default: standard input)."
)
def import_records(*, path: str) -> None:
    """Read records that 'history export' wrote."""
    from polyarch.history.exchange import take

    with click.open_file(path, "rb") as stream:
        for name in take(stream, _folder()):
            print(name)


@history.command(cls=GoCommand)
@click.argument("reference", metavar="[REF]", default="")
def trace(*, reference: str) -> None:
    """Print a build in the format of Chrome's and Perfetto's trace viewers."""
    from polyarch.cli.history_rows import trace_events

    print(trace_events(_build(reference)))


@click.command("logs", cls=GoCommand)
@click.argument("reference", metavar="[REF]", default="")
@click.argument("step", metavar="[STEP]", default="")
def logs(*, reference: str, step: str) -> None:
    """Print what the steps of a build wrote: all of it, or that of one STEP.

    REF is as in 'polyarch history'. STEP is a number, as progress shows it, or a part of the step's name; a
    number alone is a step of the last build.
    """
    from polyarch.cli.history_rows import chosen_steps

    if reference.isdigit() and not step and len(reference) < 5:
        reference, step = "", reference
    build = _build(reference)
    for vertex in chosen_steps(build, step):
        if not step:
            print(f"#{vertex.number} {vertex.plan.name}")
        text = vertex.text
        sys.stdout.write(text if text.endswith("\n") or not text else text + "\n")
        if vertex.outcome is not None and vertex.outcome.error and not step:
            print(f"ERROR: {vertex.outcome.error}")


def _folder() -> Path:
    from polyarch.content.state import State

    return State.default().history


def _build(reference: str) -> BuildRecord:
    from polyarch.history.reader import find, load

    return load(find(_folder(), reference))


def _print_each(rows: Sequence[Any], form: str, *, indent: int | None = None) -> None:
    from polyarch.cli.govalues import to_json

    if form == "json":
        for each in rows:
            print(to_json(each, indent=indent))
        return
    from polyarch.cli.template import Template

    template = Template(form)
    for each in rows:
        print(template.render(each))


def _replace(path: Path, content: bytes) -> None:
    """Write a file, whole or not at all."""
    from polyarch.errors import PolyarchError

    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise PolyarchError(f"cannot write {path}: {error.strerror}", reason="write-failed") from error


def _show(path: Path) -> None:
    """In the desktop's browser, where there is one."""
    import os
    import shutil
    import subprocess

    opener = shutil.which("xdg-open")
    if opener and (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        subprocess.Popen([opener, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
