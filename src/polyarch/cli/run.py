"""``polyarch run``: one variant of an image, native or emulated."""

from __future__ import annotations

import os
import sys

import click

_SETTINGS = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@click.command(context_settings=_SETTINGS)
@click.option("--platform", metavar="P", help="Which variant, such as linux/arm64 (default: this machine's).")
@click.option("-i", "--interactive", is_flag=True, help="Pass standard input on.")
@click.option("-t", "--tty", is_flag=True, help="Give it a terminal.")
@click.option("--rm", is_flag=True, help="Nothing is kept anyway; accepted as docker has it.")
@click.option(
    "-e", "--env", multiple=True, metavar="K[=V]", help="Set a variable (K alone: this one's value)."
)
@click.option("--env-file", multiple=True, type=click.Path(dir_okay=False), help="Variables, one a line.")
@click.option("-w", "--workdir", default="", metavar="DIR", help="Working directory inside.")
@click.option("-u", "--user", default="", metavar="USER[:GROUP]", help="Name or number.")
@click.option("-v", "--volume", multiple=True, metavar="SRC:DST[:ro]", help="Mount a host path.")
@click.option("--entrypoint", metavar="X", help="Instead of the image's; an empty one removes it.")
@click.option(
    "--network",
    "--net",
    type=click.Choice(["default", "bridge", "host", "none"]),
    default="default",
    help="default and host share this machine's network; none has a loopback only.",
)
@click.option("-h", "--hostname", default="", help="Its name for itself.")
@click.option("--read-only", is_flag=True, help="Nothing of its root file system can be changed.")
@click.argument("reference", metavar="IMAGE")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def run(
    *,
    platform: str | None,
    interactive: bool,
    tty: bool,
    rm: bool,
    env: tuple[str, ...],
    env_file: tuple[str, ...],
    workdir: str,
    user: str,
    volume: tuple[str, ...],
    entrypoint: str | None,
    network: str,
    hostname: str,
    read_only: bool,
    reference: str,
    command: tuple[str, ...],
) -> int:
    """Run one variant of IMAGE, native or emulated, and exit with its exit code.

    IMAGE comes from the local store, or is pulled. What the container changes is lost when it ends.
    """
    from polyarch import container
    from polyarch.errors import UsageError

    if tty and interactive and not os.isatty(0):
        raise UsageError(
            "standard input is not a terminal", hint="leave out -t: polyarch run -i …", reason="no-terminal"
        )
    sys.stdout.flush()
    return container.run(
        reference,
        command,
        platform=platform,
        environment=_environment(env, env_file),
        directory=workdir,
        user=user,
        entrypoint=entrypoint,
        volumes=[container.Volume.parse(text) for text in volume],
        network="host" if network == "host" else "none" if network == "none" else "default",
        terminal=tty,
        stdin=0 if interactive or (tty and os.isatty(0)) else None,
        hostname=hostname,
        read_only=read_only,
    )


def _environment(given: tuple[str, ...], files: tuple[str, ...]) -> dict[str, str]:
    lines: list[str] = []
    for path in files:
        with open(path, encoding="utf-8") as file:
            lines += [line.rstrip("\n") for line in file if line.strip() and not line.startswith("#")]
    values = {}
    for line in (*lines, *given):
        name, equals, value = line.partition("=")
        if equals:
            values[name] = value
        elif name in os.environ:
            values[name] = os.environ[name]
    return values
