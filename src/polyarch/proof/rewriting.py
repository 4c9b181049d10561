"""Suggested lines in place of a mistake, as a diff that stands behind a finding's message."""

from __future__ import annotations

import re

from polyarch.dockerfile.instructions import Run, Stage
from polyarch.proof.compilers import GO, Compiler

_MAX_LINE = 200


def suggestion(compiler: Compiler, root: Stage | None, run: Run) -> str:
    """How a stage that compiles emulated cross-compiles; "" where no such lines can be written safely.

    The FROM line moves to the build platform; the command is told the target where the compiler takes that
    from the environment or an option.
    """
    if root is None or root.base.platform:
        return ""
    before = _line(root.base.original)
    match = re.match(r"(?i)(from)\s+(.+)", before)
    if match is None:
        return ""
    lines = [f"- {before}", f"+ {match[1]} --platform=$BUILDPLATFORM {match[2]}"]
    command = run.original.partition("\n")[0]
    if compiler.arguments and len(command) <= _MAX_LINE and "\n" not in run.original:
        changed = _changed(compiler, command)
        if changed != command:
            lines += [f"- {command}", f"+ ARG {compiler.arguments}", f"+ {changed}"]
    return "\n" + "\n".join(lines) + "\n"


def _changed(compiler: Compiler, command: str) -> str:
    if compiler.prefix:
        prefix = compiler.prefix
        if compiler is GO and "CGO_ENABLED=" in command:
            prefix = prefix.replace("CGO_ENABLED=0 ", "")
        return re.sub(r"\bgo (build|install)\b", rf"{prefix} go \1", command)
    return re.sub(r"\bdotnet (publish|build)\b", rf"dotnet \1 {compiler.options}", command)


def _line(text: str) -> str:
    return " ".join(text.split())
