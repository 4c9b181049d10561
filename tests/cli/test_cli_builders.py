"""Builders on the command line: what scripts for buildx say works, and prints what they expect."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyarch.builder.instance import Builder, NodeRecord
from polyarch.builder.report import GcRule, NodeReport
from polyarch.cli.builder_rows import Row, binary, details, shortened
from polyarch.cli.tables import tabbed
from polyarch.content.state import State
from polyarch.oci.platform import Platform, host
from tests.cli.conftest import Run


@pytest.fixture(autouse=True)
def _environment(state: State, monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    for name in ("POLYARCH_BUILDER", "BUILDX_BUILDER", "BUILDKIT_HOST", "DOCKER_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))


def _columns(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_the_default_is_there(polyarch: Run) -> None:
    code, out, err = polyarch("ls")
    rows = _columns(out)
    assert (code, err) == (0, "")
    assert rows[0] == ["NAME/NODE", "DRIVER/ENDPOINT", "STATUS", "BUILDKIT", "PLATFORMS"]
    assert rows[1] == ["default*", "embedded"]
    assert rows[2][:5] == ["\\_", "default", "\\_", "embedded", "running"]


def test_create_use_inspect_leave_rm(polyarch: Run) -> None:
    words = "create --name m --node arm --platform linux/arm64 --driver remote tcp://127.0.0.1:1"
    assert polyarch(*words.split()) == (0, "m\n", "")
    assert polyarch("create", "--name", "m", "--append", "--platform", "linux/amd64") == (0, "m\n", "")
    assert polyarch("use", "m")[0] == 0
    code, out, err = polyarch("ls", "--format", "json")
    rows = {row["Name"]: row for row in map(json.loads, out.splitlines())}
    assert [rows[name]["Current"] for name in ("m", "default")] == [True, False]
    arm, local = rows["m"]["Nodes"]
    assert (arm["Name"], arm["Endpoint"], arm["Status"]) == ("arm", "tcp://127.0.0.1:1", "error")
    assert arm["Platforms"] == ["linux/arm64"] and arm["Err"]
    assert local["Status"] == "running" and local["Platforms"][0] == "linux/amd64"
    code, out, err = polyarch("ls")
    assert code == 0 and "m*" in out and "Failed to get status for m (arm)" in err
    code, out, _ = polyarch("inspect")
    assert code == 0 and out.startswith("Name:   m\nDriver: remote, embedded\n\nNodes:\nName:      arm\n")
    assert "Platforms: linux/arm64*" in out and "CPUs:" in out and "Memory:" in out and "Disk:" in out
    assert polyarch("create", "--leave", "--name", "m", "--node", "arm") == (0, "", "")
    assert polyarch("rm", "m") == (0, "", "m removed\n")
    assert "default*" in polyarch("ls")[1]


def test_inspect_tells_native_from_emulated(polyarch: Run) -> None:
    code, out, _ = polyarch("inspect", "default", "--json")
    node = json.loads(out)["Nodes"][0]
    assert code == 0 and node["Platforms"][0] == str(host())
    assert str(host()) not in node.get("Emulated", [])
    assert set(node.get("Emulated", [])) < set(node["Platforms"])


def test_the_plan_says_which_node_and_why(polyarch: Run, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /x\n")
    polyarch("create", "--name", "m", "--node", "arm", "--platform", "linux/arm64", "tcp://127.0.0.1:1")
    polyarch("create", "--name", "m", "--append", "--node", "near", "--platform", "linux/amd64")
    platforms = "linux/arm/v7,linux/amd64,linux/arm64"
    code, out, err = polyarch("build", "--builder", "m", "--dry-run", "--platform", platforms, str(tmp_path))
    assert code == 0 and "node arm: " in err and "planned by what was declared" in err
    assert out.splitlines()[-3:] == [
        "linux/arm/v7     copied on arm (declared linux/arm64 runs linux/arm/v7)",
        "linux/amd64      copied on near (declared)",
        "linux/arm64      copied on arm (declared)",
    ]


def test_a_lost_nodes_platforms_are_emulated_when_that_is_wanted(polyarch: Run, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /x\n")
    polyarch("create", "--name", "m", "--node", "arm", "--platform", "linux/arm64", "tcp://127.0.0.1:1")
    polyarch("create", "--name", "m", "--append", "--node", "near", "--platform", "linux/amd64")
    words = ["build", "--builder", "m", "--platform", "linux/amd64,linux/arm64", str(tmp_path)]
    code, _, err = polyarch(*words)
    assert code == 1 and "no other node runs linux/arm64 natively" in err and "--fallback emulate" in err
    code, _, err = polyarch(*words, "--fallback", "emulate")
    assert code == 0 and "copied on near (the only node left)" in err
    assert "LAST ACTIVITY" in polyarch("ls", "--format", r"table {{.Name}}\t{{.LastActivity}}")[1]
    assert "Last Activity: 2" in polyarch("inspect", "m")[1]


def test_templates(polyarch: Run) -> None:
    polyarch("create", "--name", "m", "--driver", "remote", "tcp://127.0.0.1:1")
    code, out, err = polyarch("ls", "--format", "{{.Name}}: {{.DriverEndpoint}} {{.Status}}")
    assert (code, err) == (0, "")
    assert out.splitlines()[:2] == ["m: remote ", "m0: tcp://127.0.0.1:1 error"]
    code, out, _ = polyarch("ls", "--format", r"table {{.Name}}\t{{.Status}}")
    assert _columns(out)[:3] == [["NAME/NODE", "STATUS"], ["m"], ["\\_", "m0", "error"]]
    code, _, err = polyarch("ls", "--format", "{{.Nope}}")
    assert code == 2 and "Nope" in err


def test_the_builder_is_named_in_four_ways(polyarch: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c", "d"):
        polyarch("create", "--name", name, "--driver", "remote", f"tcp://{name}.invalid:1")
    polyarch("use", "a")
    assert polyarch("inspect")[1].startswith("Name:   a\n")
    monkeypatch.setenv("BUILDX_BUILDER", "b")
    assert polyarch("inspect")[1].startswith("Name:   b\n")
    monkeypatch.setenv("POLYARCH_BUILDER", "c")
    assert polyarch("inspect")[1].startswith("Name:   c\n")
    assert polyarch("inspect", "--builder", "d")[1].startswith("Name:   d\n")
    monkeypatch.setenv("POLYARCH_BUILDER", "nope")
    code, _, err = polyarch("inspect")
    assert code == 1 and 'no builder "nope" found' in err and "POLYARCH_BUILDER" in err
    assert polyarch("ls")[0] == 0
    assert polyarch("build", "--builder", "gone", ".")[0] == 1


def test_removing_the_current_builder_goes_back_to_the_default_one(polyarch: Run) -> None:
    for name in ("a", "b"):
        polyarch("create", "--name", name, "--driver", "remote", f"tcp://{name}.invalid:1")
    polyarch("use", "--default", "a")
    polyarch("use", "b")
    assert polyarch("rm") == (0, "", "b removed\n")
    assert polyarch("inspect")[1].startswith("Name:   a\n")
    assert polyarch("rm")[0] == 0
    code, _, err = polyarch("rm")
    assert code == 1 and "default cannot be removed" in err
    code, _, err = polyarch("rm", "nope", "default")
    assert code == 1 and err.count("failed to remove") == 3


def test_rm_all_inactive(polyarch: Run) -> None:
    polyarch("create", "--name", "dead", "--driver", "remote", "tcp://127.0.0.1:1")
    polyarch("create", "--name", "here")
    assert polyarch("rm", "--all-inactive", "dead")[0] == 2
    assert polyarch("rm", "--all-inactive", "--force") == (0, "", "dead removed\n")
    assert "here" in polyarch("ls")[1]


def test_a_damaged_builder_is_shown_and_removed(polyarch: Run, state: State) -> None:
    polyarch("create", "--name", "bad")
    (state.builders / "instances" / "bad.json").write_text("{")
    code, out, err = polyarch("ls")
    assert code == 0 and ["bad", "error"] in _columns(out) and "Cannot load builder bad" in err
    assert polyarch("inspect", "bad")[0] == 1
    assert polyarch("rm", "bad") == (0, "", "bad removed\n")


def test_create_says_use_and_bootstrap(polyarch: Run) -> None:
    code, out, _ = polyarch("create", "--use", "--bootstrap")
    assert code == 0 and "_" in out
    assert polyarch("inspect", "--bootstrap")[1].startswith(f"Name:   {out.strip()}\n")
    assert polyarch("stop") == (0, "", "")
    assert polyarch("buildx", "use", "default")[0] == 0
    code, _, err = polyarch("create", "--bootstrap", "--driver", "remote", "tcp://127.0.0.1:1")
    assert code == 1 and "error" in err


def test_du_and_prune_ask_every_node(polyarch: Run, state: State) -> None:
    state.temporary.mkdir(parents=True)
    (state.temporary / "left").write_bytes(b"x" * 5000)
    polyarch("create", "--name", "m", "--driver", "remote", "--node", "far", "tcp://127.0.0.1:1")
    polyarch("create", "--name", "m", "--append", "--node", "near")
    code, out, err = polyarch("du", "--builder", "m")
    assert code == 1 and "near (embedded)" in out and "temporary" in out and err.startswith("error: ")
    code, out, _ = polyarch("du", "--format", "json")
    assert {json.loads(line)["Type"] for line in out.splitlines()} == {"temporary"}
    code, out, _ = polyarch("du", "--format", "{{.Type}}={{.Size}}", "--filter", "type=temporary")
    assert (code, out) == (0, "temporary=5kB\n")
    code, out, _ = polyarch("prune", "--force", "--builder", "m")
    assert code == 1 and "Freed: 5kB" in out
    assert polyarch("prune", "--force", "--min-free-space", "1k")[0] == 0
    assert polyarch("du", "--filter", "type=nonsense")[0] == 2


@pytest.mark.parametrize(
    "texts, expected",
    [
        ("linux/riscv64*", "linux/riscv64*"),
        ("linux/amd64 linux/386", "linux/amd64, linux/386"),
        ("linux/arm64 linux/arm/v7 linux/arm/v6", "linux/arm64, linux/arm (+2)"),
        (
            "linux/arm64* linux/amd64 linux/amd64/v2 linux/riscv64 linux/ppc64le linux/s390x linux/386",
            "linux/amd64 (+2), linux/arm64*, linux/ppc64le, linux/s390x, (2 more)",
        ),
        ("linux/amd64 linux/amd64/v2*", "linux/amd64* (+2)"),
        ("", ""),
    ],
)
def test_platforms_in_a_table(texts: str, expected: str) -> None:
    assert shortened(texts.split()) == expected


def test_declared_platforms_stand_where_they_belong() -> None:
    amd, arm, s390x = (Platform.parse(f"linux/{name}") for name in ("amd64", "arm64", "s390x"))
    node = NodeRecord(name="n", platforms=(arm, amd))
    report = NodeReport(native=(amd,), emulated=(arm, s390x))
    row = Row("b", Builder(name="b", nodes=(node,)), (report,))
    lines = dict(line for line in details(row) if isinstance(line, tuple))
    assert lines["Platforms:"] == "linux/amd64*"
    assert lines["Emulated:"] == "linux/arm64*, linux/s390x"
    lost = Row("b", Builder(name="b", nodes=(node,)), (NodeReport(status="error", error="gone"),))
    lines = dict(line for line in details(lost) if isinstance(line, tuple))
    assert lines["Platforms:"] == "linux/arm64*, linux/amd64*" and "Emulated:" not in lines


def test_rules_of_collection() -> None:
    rules = (
        GcRule(filters=("type==source.local,type==exec.cachemount",), keep=172_800.0, max_used=3592570859),
        GcRule(everything=True, reserved=26_000_000_000, min_free=51_000_000_000, keep=90.0),
    )
    node = NodeRecord(name="n", driver="remote", endpoint="tcp://h:1")
    text = tabbed(details(Row("b", Builder(name="b", nodes=(node,)), (NodeReport(rules=rules),))))
    assert text.endswith(
        "GC Policy rule#0:\n"
        " All:            false\n"
        " Filters:        type==source.local,type==exec.cachemount\n"
        " Keep Duration:  48h0m0s\n"
        " Max Used Space: 3.346GiB\n"
        "GC Policy rule#1:\n"
        " All:            true\n"
        " Keep Duration:  1m30s\n"
        " Reserved Space: 24.21GiB\n"
        " Min Free Space: 47.5GiB"
    )


def test_sizes() -> None:
    assert [binary(n) for n in (0, 1023, 1 << 10, 3592570859, 202_000_000_000)] == [
        "0B",
        "1023B",
        "1KiB",
        "3.346GiB",
        "188.1GiB",
    ]
