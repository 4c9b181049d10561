"""``polyarch fix``: mend the mistakes of multi-platform Dockerfiles, or show how."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from polyarch.cli.goflags import GoCommand

if TYPE_CHECKING:
    from polyarch.dockerfile.lint import Finding
    from polyarch.proof.mending import Mended


@click.command(cls=GoCommand)
@click.argument("context", default=".")
@click.option(
    "-f", "--file", "dockerfile", metavar="PATH", help="The Dockerfile. [default: CONTEXT/Dockerfile]"
)
@click.option("--write", is_flag=True, help="Change the file.")
@click.option("--diff", is_flag=True, help="Show what would be changed (the default).")
@click.option("--platform", "platforms", multiple=True, metavar="P[,P…]", help="What it is built for.")
@click.option("--target", default="", metavar="STAGE", help="The stage that is built.")
@click.option("--build-arg", "build_args", multiple=True, metavar="KEY[=VALUE]", help="As in build.")
def fix(
    *,
    context: str,
    dockerfile: str | None,
    write: bool,
    diff: bool,
    platforms: tuple[str, ...],
    target: str,
    build_args: tuple[str, ...],
) -> int:
    """Let a Dockerfile cross-compile where it emulates, and mend other mistakes of multi-platform builds.

    Only lines that need it are changed; the result is checked again. Without --write nothing is changed, and
    the exit status is 1 where something would be.

    \b
    polyarch fix                # show a diff
    polyarch fix --write        # do it
    """
    from polyarch.cli import options as values
    from polyarch.content.state import State
    from polyarch.context.main import open_context
    from polyarch.errors import UsageError
    from polyarch.oci.platform import parse_list
    from polyarch.proof.mending import mend
    from polyarch.proof.movable import uses_cgo

    if write and (context == "-" or dockerfile == "-" or not Path(context).is_dir()):
        raise UsageError(
            "only a file can be changed", hint="leave --write out to see the changes", reason="invalid-option"
        )
    opened = open_context(context, dockerfile, State.default(), sys.stdin.buffer)
    done = mend(
        opened.dockerfile,
        name=opened.name,
        wanted=parse_list(platforms),
        target=target,
        build_args=values.pairs("--build-arg", build_args),
        cgo=uses_cgo(Path(context)) if Path(context).is_dir() else "",
    )
    changed = done.text != opened.dockerfile
    if changed and (diff or not write):
        print(_diff(opened.name, opened.dockerfile, done.text), end="")
    if changed and write:
        path = _place(Path(context), dockerfile)
        _replace(path, done.text)
    _tell(done, "fixed" if write else "can be fixed")
    if not changed and not done.left:
        print("nothing to fix", file=sys.stderr)
    return 1 if changed and not write else 0


def _tell(done: Mended, word: str) -> None:
    for finding in done.fixed:
        print(f"{word}: {_line(finding)}", file=sys.stderr)
    for finding, why in done.left:
        print(f"left: {_line(finding)}", file=sys.stderr)
        if why and why not in finding.message:
            print(f"      not fixed: {why}", file=sys.stderr)


def _line(finding: Finding) -> str:
    message = finding.message.splitlines()[0].partition("; `polyarch fix`")[0]
    return f"line {finding.location.start}: {finding.rule}: {message}"


def _diff(name: str, before: str, after: str) -> str:
    import difflib

    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), f"a/{name}", f"b/{name}"
    )
    return "".join(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines
    )


def _place(context: Path, dockerfile: str | None) -> Path:
    """The file that was read, as the context finds it."""
    names = [Path(dockerfile), context / dockerfile] if dockerfile else []
    names += [] if dockerfile else [context / "Dockerfile", context / "dockerfile"]
    return next(path for path in names if path.is_file())


def _replace(path: Path, text: str) -> None:
    """At once, with the mode it had; a symlink stays one."""
    import os
    import secrets
    import shutil

    from polyarch.errors import PolyarchError

    target = path.resolve()
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
        shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except OSError as error:
        raise PolyarchError(f"cannot write {path}: {error.strerror}", reason="write-failed") from None
    finally:
        temporary.unlink(missing_ok=True)
