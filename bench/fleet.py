"""``python -m bench.fleet``: 50 nodes and 1,000 builds an hour, simulated; the tables of docs/scale.md.

    python -m bench.fleet [--nodes N] [--builds N] [--seed N] [--write]

Nothing is built and nothing sent: builds arrive, choose nodes, wait for a place, use what the nodes keep,
fetch and push the rest. Sizes and durations are the assumptions below; how many requests a build makes of a
registry is counted in real builds, which ``tests/project/test_project_scale.py`` repeats. Standard library
only, the same figures for the same seed.
"""

from __future__ import annotations

import argparse
import hashlib
import random
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush
from pathlib import Path

MB = 1_000_000
GB = 1000 * MB
PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
MARKS = ("<!-- figures -->", "<!-- end -->")

# --- assumptions --------------------------------------------------------------------------------------------

PROJECTS = 200  # with the popularity of 1/rank (Zipf)
BASES = 12  # images that projects start from, again by 1/rank
BASE_LAYERS = (30 * MB, 12 * MB, 5 * MB, 1 * MB)  # compressed, for each platform
DEPENDENCIES = 150 * MB  # the layer of a RUN that installs them, for each platform
PROGRAM = 10 * MB  # the layer of a RUN that compiles, for each platform
SOURCES = 20 * MB  # of the context, all of it
CHANGED = 2 * MB  # of the context, since a node saw it last
UNCHANGED_BUILDS = 0.10  # retries and the like: nothing is different
NEW_DEPENDENCIES = 0.05  # of all builds
NEW_BASE = 2  # times an hour each base gets a new digest, all of it
INSTALL_SECONDS, COMPILE_SECONDS = 60.0, 40.0  # natively
EMULATED = 8.0  # times as long under an emulator
OTHER_SECONDS = 3.0  # of a build: planning, proving, assembling
BANDWIDTH = 125 * MB  # bytes a second between a node and the registry, or a client
PLACES = 4  # builds a node does at a time
STORE = 100 * GB  # bytes a node keeps; the least recently used goes first
PLATFORMS = 2

# --- counted in real builds (tests/project/test_project_scale.py) -------------------------------------------

OPENING = 3  # is this a registry; may I push here: an upload is begun and ended
TAG = 2  # written, and read back


def resolving() -> int:
    """Requests for a base: its index, and a manifest and a configuration a platform."""
    return 1 + 2 * PLATFORMS


def pushing(layers: int, new: int) -> int:
    """Requests for a push of ``layers`` different layers, ``new`` of which the registry has not. Clients keep
    nothing, so that configurations have new times and are new."""
    configs, manifests = PLATFORMS, PLATFORMS + 1
    return layers + configs + 2 * (new + configs) + 2 * manifests + TAG


CACHING = 35  # more, with --cache-from and --cache-to of a registry
CACHED = 17  # instead of a push, where that cache knows the whole result


# --- the model ----------------------------------------------------------------------------------------------


@dataclass
class Node:
    """A machine: what it keeps, until when its places are taken, and what went through it."""

    name: str
    arch: str
    kept: OrderedDict[str, int] = field(default_factory=OrderedDict)
    size: int = 0
    places: list[float] = field(default_factory=lambda: [0.0] * PLACES)
    busy: float = 0.0

    def has(self, key: str) -> bool:
        """Whether it keeps ``key``; using it makes it recent."""
        if key in self.kept:
            self.kept.move_to_end(key)
        return key in self.kept

    def keep(self, key: str, size: int) -> None:
        """Keep something; the least recently used goes."""
        self.size += size - self.kept.pop(key, 0)
        self.kept[key] = size
        while self.size > STORE:
            self.size -= self.kept.popitem(last=False)[1]


@dataclass
class Build:
    """One build: who wants it, and the versions of what it is made of."""

    at: float
    project: int
    base: str
    dependencies: str
    sources: str
    unchanged: bool


@dataclass
class Totals:
    """What one hour took."""

    pulled: int = 0  # bytes from the registry to nodes
    pushed: int = 0  # bytes from nodes to the registry
    sent: int = 0  # bytes from clients to nodes
    requests: int = 0
    sessions: int = 0  # connections of clients to nodes
    steps: int = 0
    here: int = 0  # steps found on the node
    fetched: int = 0  # steps found in the registry's cache
    waits: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    minutes: dict[int, int] = field(default_factory=dict)  # requests by minute
    open: list[tuple[float, float]] = field(default_factory=list)  # sessions: from, to


Choose = Callable[[Build, Sequence[Node], random.Random], Node]


@dataclass(frozen=True)
class Policy:
    """How builds come to nodes, and whether the registry keeps a cache for all of them."""

    name: str
    choose: Choose
    cache: bool = False
    emulate: bool = False


def first(build: Build, nodes: Sequence[Node], dice: random.Random) -> Node:
    """One builder of all nodes: the rule of buildx, and ours, takes the first of equals."""
    return nodes[0]


def anywhere(build: Build, nodes: Sequence[Node], dice: random.Random) -> Node:
    """A builder of two nodes for each build, drawn by lot."""
    return dice.choice(nodes)


def home(build: Build, nodes: Sequence[Node], dice: random.Random) -> Node:
    """Every project has its builder (the highest of the hashes of project and node)."""
    return _ranked(build, nodes)[0]


def second_home(build: Build, nodes: Sequence[Node], dice: random.Random) -> Node:
    """Every project has its builder; where that has no free place, another that is always the same."""
    for node in _ranked(build, nodes)[:2]:
        if min(node.places) <= build.at:
            return node
    return _ranked(build, nodes)[0]


def _ranked(build: Build, nodes: Sequence[Node]) -> list[Node]:
    def weight(node: Node) -> bytes:
        number = node.name.rpartition("-")[2]  # the two machines of a builder have one number
        return hashlib.sha256(f"{build.project} {number}".encode()).digest()

    return sorted(nodes, key=weight, reverse=True)


POLICIES = (
    Policy("one builder of all nodes", first),
    Policy("25 builders, by lot", anywhere),
    Policy("25 builders, by lot, cache in the registry", anywhere, cache=True),
    Policy("25 builders, each project its own", home),
    Policy("each project its own, another when that is full", second_home),
    Policy("the same, cache in the registry", second_home, cache=True),
    Policy("the same, arm64 emulated on 50 amd64 nodes", second_home, cache=True, emulate=True),
)


def builds(count: int, hours: int, dice: random.Random) -> list[Build]:
    """``count`` builds an hour, at random moments, of projects by popularity."""
    projects = [1 / rank for rank in range(1, PROJECTS + 1)]
    based = dice.choices(range(BASES), [1 / rank for rank in range(1, BASES + 1)], k=PROJECTS)
    versions: dict[int, tuple[int, int]] = {}
    found = []
    moments = sorted(dice.uniform(0, 3600 * hours) for _ in range(count * hours))
    for at in moments:
        project = dice.choices(range(PROJECTS), projects)[0]
        before = versions.get(project)
        unchanged = before is not None and dice.random() < UNCHANGED_BUILDS
        dependencies, sources = before or (0, 0)
        if not unchanged:
            sources += 1
            dependencies += dice.random() < NEW_DEPENDENCIES
        versions[project] = dependencies, sources
        base = f"{based[project]}@{int(at * NEW_BASE / 3600)}"
        found.append(Build(at, project, base, f"{project}.{dependencies}", f"{project}.{sources}", unchanged))
    return found


class Fleet:
    """Nodes and a registry, for one policy."""

    def __init__(self, nodes: int, policy: Policy, dice: random.Random) -> None:
        self.policy = policy
        half = nodes // 2
        amd = [Node(f"amd64-{number}", "amd64") for number in range(nodes if policy.emulate else half)]
        arm = amd if policy.emulate else [Node(f"arm64-{number}", "arm64") for number in range(half)]
        self.nodes = {"amd64": amd, "arm64": arm}
        self._stored: set[str] = set()  # blobs, and steps of the shared cache
        self._dice = dice
        self.totals = Totals()

    def run(self, build: Build) -> None:
        """One build: both platforms at once, each on its node; then the index and the tag."""
        ends = []
        before = self.totals.requests
        new = 0
        for arch, nodes in self.nodes.items():
            node = self.policy.choose(build, nodes, self._dice)
            end, pushed = self._part(build, arch, node)
            ends.append(end)
            new += pushed
        totals = self.totals
        layers = PLATFORMS * (len(BASE_LAYERS) + 2)
        totals.requests += OPENING + resolving()
        if self.policy.cache:
            totals.requests += CACHED if not new else CACHING + pushing(layers, new)
        else:
            totals.requests += pushing(layers, new)
        totals.times.append(max(ends) + OTHER_SECONDS - build.at)
        minute = int(build.at // 60)
        totals.minutes[minute] = totals.minutes.get(minute, 0) + totals.requests - before

    def _part(self, build: Build, arch: str, node: Node) -> tuple[float, int]:
        """One platform on one node: when it ends, and how many layers were new to the registry."""
        totals = self.totals
        start = max(build.at, heappop(node.places))
        totals.waits.append(start - build.at)
        seconds = self._send(build, node) / BANDWIDTH
        for number, size in enumerate(BASE_LAYERS):
            seconds += self._fetch(node, f"base {build.base} {arch} {number}", size) / BANDWIDTH
        slow = EMULATED if node.arch != arch else 1.0
        install = f"step {build.base} {build.dependencies} {arch}"
        compile = f"{install} {build.sources}"
        new = 0
        for key, size, work in (
            (install, DEPENDENCIES, INSTALL_SECONDS),
            (compile, PROGRAM, COMPILE_SECONDS),
        ):
            seconds += self._step(node, key, size, work * slow)
            if key not in self._stored:
                self._stored.add(key)
                totals.pushed += size
                seconds += size / BANDWIDTH
                new += 1
        heappush(node.places, start + seconds)
        node.busy += seconds
        totals.sessions += 1
        totals.open.append((build.at, start + seconds))
        return start + seconds, new

    def _send(self, build: Build, node: Node) -> int:
        """Bytes of the context that the node has not."""
        if node.has(f"context {build.sources}"):
            return 0
        size = CHANGED if node.has(f"context of {build.project}") else SOURCES
        node.keep(f"context of {build.project}", SOURCES)
        node.keep(f"context {build.sources}", CHANGED)
        self.totals.sent += size
        return size

    def _fetch(self, node: Node, key: str, size: int) -> int:
        """Bytes of a layer that come from the registry because the node has not got it."""
        if node.has(key):
            return 0
        node.keep(key, size)
        self.totals.pulled += size
        self.totals.requests += 1
        return size

    def _step(self, node: Node, key: str, size: int, work: float) -> float:
        """Seconds for a step: nothing where it is known, a transfer where the shared cache has it."""
        self.totals.steps += 1
        if node.has(key):
            self.totals.here += 1
            return 0.0
        if self.policy.cache and key in self._stored:
            self.totals.fetched += 1
            return self._fetch(node, key, size) / BANDWIDTH
        node.keep(key, size)
        return work


def simulate(policy: Policy, *, nodes: int, count: int, seed: int) -> tuple[Fleet, Totals]:
    """Two hours, of which the second counts."""
    dice = random.Random(seed)
    fleet = Fleet(nodes, policy, dice)
    counting = False
    for build in builds(count, 2, dice):
        if build.at >= 3600 and not counting:
            counting = True
            fleet.totals = Totals()
            for node in {id(node): node for each in fleet.nodes.values() for node in each}.values():
                node.busy = 0.0
        fleet.run(build)
    return fleet, fleet.totals


# --- tables -------------------------------------------------------------------------------------------------


def quantile(values: Sequence[float], part: float) -> float:
    """The value below which ``part`` of all lie."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))] if values else 0.0


def most_open(spans: Sequence[tuple[float, float]]) -> int:
    """How many of the spans overlap at most."""
    changes = sorted([(start, 1) for start, _ in spans] + [(end, -1) for _, end in spans])
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def rows(nodes: int, count: int, seed: int) -> list[list[str]]:
    """A row a policy, below a header."""
    found = [
        "policy|steps found on the node|in the registry|run|pulled GB|pushed GB|to nodes GB|requests|"
        "peak a minute|sessions open|build p50|p95|waiting p95|nodes busy".split("|")
    ]
    for policy in POLICIES:
        fleet, totals = simulate(policy, nodes=nodes, count=count, seed=seed)
        machines = list({node.name: node for each in fleet.nodes.values() for node in each}.values())
        run = totals.steps - totals.here - totals.fetched
        busy = sum(node.busy for node in machines) / (3600 * PLACES * len(machines))
        found.append(
            [
                policy.name,
                f"{totals.here / totals.steps:.0%}",
                f"{totals.fetched / totals.steps:.0%}",
                f"{run / totals.steps:.0%}",
                f"{totals.pulled / GB:.0f}",
                f"{totals.pushed / GB:.0f}",
                f"{totals.sent / GB:.1f}",
                f"{totals.requests:,}",
                f"{max(totals.minutes.values()):,}",
                f"{most_open(totals.open):,}",
                _time(quantile(totals.times, 0.5)),
                _time(quantile(totals.times, 0.95)),
                _time(quantile(totals.waits, 0.95)),
                f"{busy:.0%}",
            ]
        )
    return found


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def table(lines: Sequence[Sequence[str]]) -> str:
    """Markdown."""
    header, *body = lines
    ruler = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (header, ruler, *body))


def main(words: Sequence[str] | None = None) -> int:
    """Print the table, and perhaps put it into the page; returns an exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.fleet")
    parser.add_argument("--nodes", type=int, default=50)
    parser.add_argument("--builds", type=int, default=1000, help="an hour")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the table into docs/scale.md")
    options = parser.parse_args(words)
    text = table(rows(options.nodes, options.builds, options.seed))
    print(text)
    if options.write:
        page = PAGE.read_text()
        before, rest = page.split(MARKS[0])
        after = rest.split(MARKS[1])[1]
        PAGE.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
