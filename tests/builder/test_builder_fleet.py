"""Nodes asked for their facts: together, in parallel, and never waited for too long."""

from __future__ import annotations

import threading

import pytest

from polyarch.builder import fleet, here
from polyarch.builder.filters import parse
from polyarch.builder.instance import DEFAULT, NodeRecord
from polyarch.builder.report import NodeReport, Prune, Usage, split
from polyarch.content.state import State
from polyarch.errors import PolyarchError, UsageError
from polyarch.executor import cpu
from polyarch.oci.platform import Platform, host


def test_all_are_asked_at_once() -> None:
    nodes = [NodeRecord(name=name) for name in ("a", "b", "failing", "broken", "buggy")]
    together = threading.Barrier(2)

    def ask(node: NodeRecord) -> str:
        match node.name:
            case "failing":
                raise PolyarchError("no", reason="no")
            case "broken":
                raise ConnectionResetError(104, "reset")
            case "buggy":
                raise KeyError("of a library")
        together.wait(60)  # passes only when both are asked at the same time
        return node.name

    answers = fleet.ask_all(nodes, ask, within=60)
    assert [one.answer for one in answers] == ["a", "b", None, None, None]
    assert [one.error.reason for one in answers if one.error] == ["no", "node-failed", "node-failed"]


def test_nobody_is_waited_for_too_long() -> None:
    never = threading.Event()

    def ask(node: NodeRecord) -> None:
        never.wait(60)

    answer = fleet.ask_all([NodeRecord(name="slow")], ask, within=0.1)[0]
    never.set()
    assert answer.error is not None and answer.error.reason == "node-timeout"


def test_a_node_that_fails_has_a_report_that_says_so(state: State) -> None:
    lost = NodeRecord(name="lost", driver="no-such-driver", endpoint="ssh://lost")
    first, second = fleet.reports([lost, *DEFAULT.nodes], state)
    assert first.status == "error" and "lost" in first.error and first.hint
    assert second.status == "running" and second.native[0] == host()


def test_this_machine(state: State) -> None:
    found = here.report(state)
    assert found.native[0] == host() and not set(found.native) & set(found.emulated)
    assert found.cpus > 0 and found.memory > 1 << 20 and found.disk_total > found.disk_free > 0
    assert found.version and found.labels["hostname"] and found.cache == 0
    assert not state.root.exists()  # asking leaves nothing behind
    state.temporary.mkdir(parents=True)
    (state.temporary / "something").write_bytes(b"x" * 100_000)
    assert here.report(state, full=True).cache >= 100_000


def test_what_this_machine_keeps(state: State) -> None:
    assert here.usage(state) == [] and here.prune(state, Prune()).size == 0
    state.temporary.mkdir(parents=True)
    (state.temporary / "something").write_bytes(b"x" * 1000)
    found = {one.kind: one for one in here.usage(state)}
    assert found["temporary"].size == 1000
    assert [one.kind for one in here.usage(state, ("type=temporary",))] == ["temporary"]
    with pytest.raises(UsageError):
        here.usage(state, ("type=nonsense",))
    assert here.prune(state, Prune(dry_run=True)).size == 1000
    assert here.prune(state, Prune(filters=("type=layer",))).size == 0
    assert here.prune(state, Prune(max_used=1 << 40)).size == 0
    assert here.prune(state, Prune(max_used=0, reserved=1 << 40)).size == 0
    assert here.prune(state, Prune(min_free=1)).size == 0
    assert here.prune(state, Prune(min_free=1 << 60)).size == 1000
    assert not (state.temporary / "something").exists()


def test_filters_of_daemons_records() -> None:
    usage = Usage(id="sha256:ab", kind="exec.cachemount", size=1, used_ns=1)
    assert parse(["type=exec.cachemount"])(usage) and not parse(["type=layer"])(usage)
    assert parse(["type=regular"])(Usage(id="x", kind="regular"))
    assert parse(["type=internal"])(Usage(id="x", kind="internal"))


def test_a_daemons_platforms() -> None:
    texts = "linux/amd64 linux/amd64/v2 linux/amd64/v3 linux/arm64 linux/386 linux/arm/v7".split()
    native, emulated = split([Platform.parse(text) for text in texts])
    assert [str(p) for p in native] == ["linux/amd64", "linux/386", "linux/amd64/v2", "linux/amd64/v3"]
    assert [str(p) for p in emulated] == ["linux/arm64", "linux/arm/v7"]
    assert split([]) == ((), ())


@pytest.mark.parametrize(
    "flags, reached",
    [
        ("fpu cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3", ["v2"]),
        (
            "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave",
            ["v2", "v3"],
        ),
        ("avx512f avx512bw avx512cd avx512dq avx512vl", []),
        ("", []),
    ],
)
def test_levels(flags: str, reached: list[str]) -> None:
    text = f"processor\t: 0\nflags\t\t: {flags}\nprocessor\t: 1\n"
    assert cpu.levels(text) == reached


def test_reports_travel() -> None:
    import msgspec

    report = NodeReport(native=(host(),), labels={"a": "b"}, missing=("x",))
    assert msgspec.json.decode(msgspec.json.encode(report), type=NodeReport) == report
