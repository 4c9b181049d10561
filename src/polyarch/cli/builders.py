"""``polyarch create``, ``use``, ``stop`` and ``rm``: builders made, chosen and removed, as buildx does."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from polyarch.cli.goflags import GoCommand

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from polyarch.builder.fleet import Answered
    from polyarch.builder.instance import Builder, NodeRecord
    from polyarch.builder.records import Builders

_INACTIVE = (
    "WARNING! This will remove all builders that are not in running state. "
    "Are you sure you want to continue? [y/N] "
)
_MANY: dict[str, Any] = {"multiple": True}


@click.command(cls=GoCommand)
@click.argument("endpoint", default="")
@click.option("--name", default="", metavar="NAME", help="The builder's name.")
@click.option("--node", default="", metavar="NAME", help="Create or change the node of that name.")
@click.option("--platform", "platforms", metavar="P[,P…]", help="What the node is to build for.", **_MANY)
@click.option(
    "--driver", default="", metavar="DRIVER", help="embedded, ssh, remote, docker-engine or kubernetes."
)
@click.option("--driver-opt", "driver_opts", metavar="KEY=VALUE", help="An option of the driver.", **_MANY)
@click.option("--append", is_flag=True, help="Add a node to a builder instead of changing one.")
@click.option("--leave", "leaving", is_flag=True, help="Take a node out of a builder.")
@click.option("--bootstrap", is_flag=True, help="Make the nodes ready at once.")
@click.option("--use", "using", is_flag=True, help="Make the builder the current one.")
@click.option(
    "--buildkitd-config",
    "--config",
    "config",
    default="",
    metavar="FILE",
    help="Configuration of its daemon.",
)
@click.option("--buildkitd-flags", "flags", default="", metavar="FLAGS", help="Flags of its daemons.")
@click.option("--builder", hidden=True)
def create(
    *, leaving: bool, bootstrap: bool, using: bool, builder: str | None, name: str, node: str, **given: Any
) -> None:
    """Create a builder, or add a node to one.

    ENDPOINT is ssh://[USER@]HOST[:PORT] for another machine with polyarch; tcp://HOST:PORT or unix:///SOCKET
    for a BuildKit daemon; a docker context or a Docker engine's address. Without one it is this machine.
    """
    from polyarch.builder.create import Wish, leave
    from polyarch.builder.create import create as make

    builders = _builders()
    if leaving:
        leave(builders, name, node)
        return
    made = make(builders, Wish(name=name, node=node, **given))
    for note in made.notes:
        print(f"warning: {note}", file=sys.stderr)
    if using:
        builders.use(made.builder.name)
    if bootstrap:
        start_all(made.builder, made.nodes if given["append"] else made.builder.nodes)
    print(made.builder.name)


@click.command(cls=GoCommand)
@click.argument("name", default="")
@click.option(
    "--default", "default", is_flag=True, help="And fall back to it when the current one is removed."
)
@click.option("--global", "everywhere", is_flag=True, help="Accepted: a choice always holds everywhere.")
@click.option("--builder", default="", metavar="NAME", hidden=True)
def use(*, name: str, default: bool, everywhere: bool, builder: str) -> None:
    """Make a builder the current one."""
    builders = _builders()
    builders.use(name or builder or builders.selected().name, default=default)


@click.command(cls=GoCommand)
@click.argument("name", default="")
@click.option("--builder", default="", metavar="NAME", help="The builder, instead of the current one.")
def stop(*, name: str, builder: str) -> None:
    """Stop what was started for a builder; its cache stays."""
    from polyarch.builder import fleet

    found = _builders().selected(name or builder)
    _raise_first(fleet.ask_all(found.nodes, fleet.stop))


@click.command(cls=GoCommand)
@click.argument("names", nargs=-1)
@click.option("--all-inactive", is_flag=True, help="Remove all builders of which no node runs.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@click.option("--keep-state", is_flag=True, help="Accepted: caches of machines and daemons always stay.")
@click.option("--keep-daemon", is_flag=True, help="Leave daemons running that were started for the builder.")
@click.option("--builder", default="", metavar="NAME", help="The builder, instead of the current one.")
def rm(
    *,
    names: tuple[str, ...],
    all_inactive: bool,
    force: bool,
    keep_state: bool,
    keep_daemon: bool,
    builder: str,
) -> int:
    """Remove builders. Was it the current one, the default is from then on."""
    from polyarch.builder.records import Builders
    from polyarch.content.state import State
    from polyarch.errors import PolyarchError, UsageError

    builders = Builders(State.default())
    if all_inactive:
        if names:
            raise UsageError(
                "cannot specify builder name when --all-inactive is set",
                hint="leave the one or the other out",
                reason="names-and-all",
            )
        if not force and not _agreed():
            return 1
        chosen = _inactive(builders)
    else:
        chosen = list(names) or [builder or builders.selected().name]
    failed = False
    for name in dict.fromkeys(chosen):
        try:
            _remove(builders, name, keep_daemon=keep_daemon)
        except PolyarchError as error:
            failed = True
            print(f"failed to remove {name}: {error.summary}", file=sys.stderr)
            if error.hint:
                print(f"hint: {error.hint}", file=sys.stderr)
        else:
            print(f"{name} removed", file=sys.stderr)
    if failed:
        print("error: failed to remove one or more builders", file=sys.stderr)
    return int(failed)


def _remove(builders: Builders, name: str, *, keep_daemon: bool) -> None:
    """Forget a builder, also one whose file is damaged; and end what was started for it."""
    from polyarch.builder import fleet
    from polyarch.errors import PolyarchError

    try:
        nodes = builders.get(name).nodes
    except PolyarchError as error:
        if error.reason != "builder-damaged":
            raise
        nodes = ()
    builders.remove(name)
    _raise_first(fleet.ask_all(nodes, lambda node: fleet.remove(node, keep_daemon=keep_daemon)))


def _inactive(builders: Builders) -> list[str]:
    """The builders of which no node runs; damaged ones run nothing."""
    from polyarch.builder import fleet
    from polyarch.content.state import State
    from polyarch.errors import PolyarchError

    known, found = {}, []
    for name in builders.names():
        try:
            known[name] = builders.get(name).nodes
        except PolyarchError:
            found.append(name)
    reports = iter(fleet.reports([node for nodes in known.values() for node in nodes], State.default()))
    for name, nodes in known.items():
        if all(report.status != "running" for report in [next(reports) for _ in nodes]):
            found.append(name)
    return found


def _agreed() -> bool:
    print(_INACTIVE, end="", flush=True)
    answer = sys.stdin.readline() if sys.stdin is not None else ""
    if not answer.endswith("\n"):
        print()
    if answer.strip().lower() in ("y", "yes"):
        return True
    print("Nothing was removed.\nhint: --force does not ask", file=sys.stderr)
    return False


def _builders() -> Builders:
    from polyarch.builder.records import Builders
    from polyarch.content.state import State

    return Builders(State.default())


def start_all(builder: Builder, nodes: Sequence[NodeRecord]) -> None:
    """Make nodes ready, all at once, telling how it goes."""
    from polyarch.builder import fleet
    from polyarch.content.state import State

    state = State.default()

    def start(node: NodeRecord) -> None:
        prefix = f"[{node.name}] " if len(builder.nodes) > 1 else ""
        fleet.start(node, state, lambda text: print(f"{prefix}{text}", file=sys.stderr))

    _raise_first(fleet.ask_all(nodes, start, within=fleet.READY_WITHIN))


def _raise_first(answers: Iterable[Answered[Any]]) -> None:
    for one in answers:
        if one.error is not None:
            raise one.error


def tell_failures(answers: Iterable[Answered[Any]]) -> int:
    """Say which nodes did not answer; the exit code."""
    failed = [one for one in answers if one.error is not None]
    for one in failed:
        assert one.error is not None
        print(f"error: {one.error.summary}", file=sys.stderr)
        if one.error.hint:
            print(f"hint: {one.error.hint}", file=sys.stderr)
    return int(bool(failed))
