"""Writes docs/cli.md from the command line itself.

python scripts/make_docs.py           write it
python scripts/make_docs.py --check   say whether it is current; 1 where it is not
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from polyarch.cli.main import VERBS, polyarch

TARGET = Path(__file__).parents[1] / "docs" / "cli.md"
HEAD = """\
# The command line

Made by `make docs` from the program itself; `polyarch VERB --help` says the same.

Exit codes: 0 for success, 1 for an error, 2 for a command line that makes no sense, 130 when interrupted;
`run` gives the program's own. `POLYARCH_ROOT` is where everything is kept, `POLYARCH_DEBUG=1` shows
tracebacks.
"""


def pages(command: click.Command, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """The help of ``command`` and of every command below it."""
    name = " ".join(words)
    context = click.Context(command, info_name=name, terminal_width=100, max_content_width=100)
    if words[1:]:
        yield words, command.get_help(context)
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            found = command.get_command(context, below)
            if found is not None and not found.hidden:
                yield from pages(found, (*words, below))


def text() -> str:
    """The whole page."""
    parts = [HEAD, "| verb | |\n| --- | --- |"]
    parts += [f"| [{verb}](#polyarch-{verb}) | {VERBS[verb][1]} |" for verb in sorted(VERBS)]
    for words, shown in pages(polyarch, ("polyarch",)):
        level = "#" * min(len(words), 4)
        parts.append(f"\n{level} polyarch {' '.join(words[1:])}\n\n```text\n{shown}\n```")
    return "\n".join(parts) + "\n"


def main(arguments: list[str]) -> int:
    """Write or check the page."""
    made = text()
    if "--check" in arguments:
        current = TARGET.is_file() and TARGET.read_text() == made
        print("docs/cli.md: fine" if current else "docs/cli.md is not current; run: make docs")
        return 0 if current else 1
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
