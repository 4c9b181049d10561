"""``polyarch base``: base images out of Debian packages."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from polyarch.cli.base_check import check

if TYPE_CHECKING:
    from polyarch.base.make import Made


@click.group()
def base() -> None:
    """Base images for the platforms that yours lacks, made out of Debian packages."""


base.add_command(check)


@base.command()
@click.argument("name")
@click.option(
    "--platform",
    "platforms",
    multiple=True,
    metavar="PLATFORM[,PLATFORM…]",
    help="What to make it for; may be repeated. [default: this machine's platform]",
)
@click.option(
    "--from",
    "source",
    type=click.Choice(["debian", "busybox"]),
    default="debian",
    show_default=True,
    help="A Debian system, or Debian's static busybox alone with a link for each applet.",
)
@click.option("--suite", default="", help="Debian's release. [default: this host's, else bookworm]")
@click.option(
    "--variant",
    type=click.Choice(["extract", "essential", "apt", "minbase", "buildd", "standard"]),
    default="minbase",
    show_default=True,
    help="The set of packages, as mmdebstrap calls it; extract is what is included and nothing else.",
)
@click.option(
    "--include",
    multiple=True,
    metavar="PACKAGE[,PACKAGE…]",
    help="More packages; what they depend on comes with them.",
)
@click.option(
    "--scripts",
    type=click.Choice(["run", "skip"]),
    help="Run the packages' scripts with mmdebstrap, emulated for foreign platforms; or only unpack them, "
    "which needs neither privilege nor emulator and is many times faster. "
    "[default: run; skip for variant extract and for busybox]",
)
@click.option("--component", multiple=True, metavar="NAME", help="Of the archive. [default: main]")
@click.option(
    "--mirror", multiple=True, metavar="URL", help="Or a line of sources.list. [default: this host's]"
)
@click.option(
    "--keyring",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Keys the mirror is signed with. [default: this host's]",
)
@click.option(
    "--apt-option",
    multiple=True,
    metavar="LINE",
    help="A line of apt.conf, for the making only. This host's Acquire settings hold in any case.",
)
@click.option("--keep-sources", is_flag=True, help="Leave the mirrors used in the image, not Debian's own.")
@click.option("--cmd", default="", metavar="WORDS", help="The command of the image. [default: bash or sh]")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="An environment variable of the image.")
@click.option("--push", is_flag=True, help="Push it to the registry that NAME says, too.")
@click.option("--refresh", is_flag=True, help="Ask the mirror again and make everything anew.")
@click.option("-q", "--quiet", is_flag=True, help="Print the digest only.")
def create(
    *,
    name: str,
    platforms: tuple[str, ...],
    source: str,
    suite: str,
    variant: str,
    include: tuple[str, ...],
    scripts: str | None,
    component: tuple[str, ...],
    mirror: tuple[str, ...],
    keyring: Path | None,
    apt_option: tuple[str, ...],
    keep_sources: bool,
    cmd: str,
    env: tuple[str, ...],
    push: bool,
    refresh: bool,
    quiet: bool,
) -> None:
    """Make NAME in the local store: one index, one variant for each platform.

    \b
    polyarch base create base/debian --platform linux/amd64,linux/arm64,linux/riscv64 --suite trixie
    polyarch base create base/python --platform linux/amd64,linux/arm64 --include python3 --scripts skip
    polyarch base create base/tiny --from busybox --platform linux/amd64,linux/s390x

    A variant that is there already, made of the same versions, is not made again. SOURCE_DATE_EPOCH clamps
    the times in it.
    """
    import shlex

    from polyarch.base.make import make
    from polyarch.base.recipe import Recipe
    from polyarch.oci import platform as platform_type

    skip = scripts == "skip" or (scripts is None and (variant == "extract" or source == "busybox"))
    recipe = Recipe(
        name=name,
        platforms=platform_type.parse_list(platforms) or (platform_type.host(),),
        source="busybox" if source == "busybox" else "debian",
        suite=suite,
        variant=variant,
        include=tuple(word for words in include for word in words.replace(",", " ").split()),
        scripts="skip" if skip else "run",
        components=component or ("main",),
        mirrors=mirror,
        keyring=keyring,
        apt_options=apt_option,
        keep_sources=keep_sources,
        command=tuple(shlex.split(cmd)),
        environment=env,
        epoch=_epoch(),
    )
    show = _Progress(quiet=quiet)
    started = time.monotonic()
    made = make(recipe, refresh=refresh, progress=show)
    if push:
        _push(made)
    show("")
    if quiet:
        print(made.index.digest)
    else:
        _summarise(made, time.monotonic() - started, pushed=push)


def _epoch() -> int | None:
    from polyarch.errors import UsageError

    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if text and not text.isdigit():
        raise UsageError(f"SOURCE_DATE_EPOCH is {text!r}, not a number of seconds", reason="invalid-epoch")
    return int(text) if text else None


class _Progress:
    """One line that is written over on a terminal; elsewhere a line for each stage, not for each package."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()

    def __call__(self, line: str) -> None:
        if self._quiet:
            return
        if self._terminal:
            print(f"\r\x1b[K{line[:110]}", end="", file=sys.stderr, flush=True)
        elif line and ": unpacking" not in line and "hook" not in line:
            print(line, file=sys.stderr, flush=True)


def _push(made: Made) -> None:
    from polyarch.content.layout import Layout
    from polyarch.content.state import State
    from polyarch.export.push import push
    from polyarch.oci.reference import Reference
    from polyarch.registry.client import Client

    with Client() as client:
        push(Layout.local(State.default()), made.index, [Reference.parse(made.name)], client=client)


def _summarise(made: Made, seconds: float, *, pushed: bool) -> None:
    from polyarch.content.layout import Layout
    from polyarch.content.state import State
    from polyarch.content.verify import read_manifest

    store = Layout(State.default().content)
    where = "in the local store and its registry" if pushed else "in the local store"
    print(f"{made.name} is {where}: {made.index.digest}")
    for variant in made.variants:
        manifest = read_manifest(store, variant.manifest).manifest
        size = sum(layer.size for layer in manifest.layers) / 1e6
        how = "made now" if variant.made else "was there already"
        count = len(variant.packages)
        packages = f"{count} package{'s' if count != 1 else ''}"
        print(f"  {variant.platform!s:16} {size:7.1f} MB  {packages:14} {how}")
    print(f"took {seconds:.1f} s")
