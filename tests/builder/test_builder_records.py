"""Builders in files: what is written is read, by many at once, and after any crash."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from polyarch.builder.instance import DEFAULT, Builder, NodeRecord
from polyarch.builder.records import Builders
from polyarch.content.state import State
from polyarch.errors import NotFoundError, PolyarchError, UsageError
from polyarch.oci.platform import Platform

ARM, AMD = Platform.parse("linux/arm64"), Platform.parse("linux/amd64")
ARM_NODE = NodeRecord(
    name="arm",
    endpoint="ssh://me@arm",
    driver="ssh",
    platforms=(ARM,),
    driver_opts={"a": "b"},
    flags=("--x",),
    files={"buildkitd.toml": b"debug = true\n\xff"},
)


def _put(builders: Builders, name: str, node: NodeRecord) -> Builder:
    return builders.change(name, lambda old: (old or Builder(name=name)).put(node))


def test_what_is_written_is_read(state: State) -> None:
    builders = Builders(state)
    assert builders.names() == [] and builders.get("default") == DEFAULT and builders.current() == "default"
    assert not state.builders.exists()
    made = _put(builders, "fleet", ARM_NODE)
    assert Builders(state).get("fleet") == made == Builder(name="fleet", nodes=(ARM_NODE,))
    assert builders.get("Fleet") == made  # names have one case
    assert builders.names() == ["fleet"]


def test_the_current_builder_and_what_is_left_when_it_goes(state: State) -> None:
    builders = Builders(state)
    for name in ("a", "b"):
        _put(builders, name, ARM_NODE)
    builders.use("a", default=True)
    builders.use("b")
    assert builders.current() == "b"
    builders.remove("b")
    assert builders.current() == "a"
    builders.remove("a")
    assert builders.current() == "default"
    builders.remove("a")


def test_who_names_the_builder(state: State) -> None:
    builders = Builders(state)
    for name in ("a", "b", "c", "d"):
        _put(builders, name, ARM_NODE)
    builders.use("d")
    both = {"POLYARCH_BUILDER": "b", "BUILDX_BUILDER": "c"}
    assert builders.selected("a", both).name == "a"
    assert builders.selected("", both).name == "b"
    assert builders.selected("", {"BUILDX_BUILDER": "c"}).name == "c"
    assert builders.selected("", {"POLYARCH_BUILDER": ""}).name == "d"
    with pytest.raises(NotFoundError, match='no builder "x" found') as caught:
        builders.selected("", {"BUILDX_BUILDER": "x"})
    assert "BUILDX_BUILDER" in caught.value.detail


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "1st", "a" * 200, "x\n", "-a"])
def test_names_that_cannot_be(state: State, name: str) -> None:
    builders = Builders(state)
    with pytest.raises(NotFoundError):
        builders.get(name)
    with pytest.raises(UsageError):
        _put(builders, name, ARM_NODE)


def test_default_is_not_changed(state: State) -> None:
    builders = Builders(state)
    with pytest.raises(UsageError, match="reserved"):
        _put(builders, "default", ARM_NODE)
    with pytest.raises(UsageError, match="this machine"):
        builders.remove("default")


def test_a_platform_belongs_to_the_node_it_was_declared_for_last() -> None:
    older = NodeRecord(
        name="2019", endpoint="ssh://w", platforms=(Platform.parse("windows(10.0.17763)/amd64"),)
    )
    newer = NodeRecord(name="2022", platforms=(Platform.parse("windows(10.0.20348)/amd64"),))
    both = Builder(name="w").put(older).put(newer)
    assert [len(node.platforms) for node in both.nodes] == [1, 1]
    builder = Builder(name="b", nodes=(NodeRecord(name="a", platforms=(AMD, ARM)),)).put(ARM_NODE)
    assert [node.platforms for node in builder.nodes] == [(AMD,), (ARM,)]
    with pytest.raises(UsageError, match="place of node arm"):
        builder.put(NodeRecord(name="other", endpoint="ssh://me@arm", driver="ssh"))
    with pytest.raises(UsageError, match="embedded is the place of node a"):
        builder.put(NodeRecord(name="other"))
    assert builder.without("a").nodes == (ARM_NODE,)
    with pytest.raises(NotFoundError, match="no node 'x'"):
        builder.without("x")
    with pytest.raises(UsageError, match="last"):
        builder.without("a").without("arm")


@pytest.mark.parametrize("content", [b"", b"{", b'{"name":"other","nodes":[]}', b'{"name":"bad","nodes":1}'])
def test_a_damaged_file_concerns_its_builder_alone(state: State, content: bytes) -> None:
    builders = Builders(state)
    _put(builders, "good", ARM_NODE)
    (state.builders / "instances" / "bad.json").write_bytes(content)
    assert builders.names() == ["bad", "good"] and builders.get("good").nodes
    with pytest.raises(PolyarchError, match="damaged") as caught:
        builders.get("bad")
    assert "polyarch rm bad" in caught.value.hint
    builders.remove("bad")
    assert builders.names() == ["good"]


def test_a_failed_change_changes_nothing(state: State) -> None:
    builders = Builders(state)
    before = _put(builders, "b", ARM_NODE)

    def fail(old: Builder | None) -> Builder:
        raise ValueError("on the way")

    with pytest.raises(ValueError):
        builders.change("b", fail)
    assert builders.get("b") == before


_APPENDING = """
import sys
from pathlib import Path
from polyarch.builder.instance import Builder, NodeRecord
from polyarch.builder.records import Builders
from polyarch.content.state import State
builders = Builders(State(Path(sys.argv[1])))
for number in range(20):
    node = NodeRecord(name=f"{sys.argv[2]}{number}", endpoint=f"ssh://{sys.argv[2]}{number}", driver="ssh")
    builders.change("fleet", lambda old: (old or Builder(name="fleet")).put(node))
"""


def test_processes_do_not_lose_each_others_changes(state: State) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", _APPENDING, str(state.root), who]) for who in ("a", "b", "c")
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len(Builders(state).get("fleet").nodes) == 60


_DYING = """
import os, sys, signal
from pathlib import Path
from polyarch.builder import records
from polyarch.builder.instance import Builder, NodeRecord
from polyarch.content.state import State
where = sys.argv[2]
def die(*arguments): os.kill(os.getpid(), signal.SIGKILL)
if where == "sync": os.fsync = die
if where == "replace": Path.replace = die
if where == "written":
    sync = os.fsync
    os.fsync = lambda descriptor: die() if os.path.isdir(f"/proc/self/fd/{descriptor}") else sync(descriptor)
node = NodeRecord(name="new", endpoint="ssh://new", driver="ssh")
records.Builders(State(Path(sys.argv[1]))).change("b", lambda old: old.put(node))
"""


@pytest.mark.parametrize("where, nodes", [("sync", 1), ("replace", 1), ("written", 2)])
def test_a_crash_leaves_the_old_or_the_new(state: State, where: str, nodes: int) -> None:
    builders = Builders(state)
    _put(builders, "b", ARM_NODE)
    done = subprocess.run([sys.executable, "-c", _DYING, str(state.root), where], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(Builders(state).get("b").nodes) == nodes
    assert builders.names() == ["b"]
    _put(builders, "b", msgspec.structs.replace(ARM_NODE, name="more", endpoint="ssh://more"))
    left = [path.name for path in Path(state.builders).rglob("*") if path.is_file()]
    assert left == ["b.json"]
    assert os.stat(state.builders / "instances" / "b.json").st_mode & 0o077 == 0
