"""Which node makes which platform. The first table has the cases of buildx's own tests of its resolver."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from polyarch.builder.choose import assign
from polyarch.builder.instance import Builder, NodeRecord
from polyarch.oci.platform import Platform

Nodes = dict[str, str]


def _platform(text: str) -> Platform:
    system, _, rest = text.partition("/")
    if rest in ("beta", "unknown"):  # names nobody knows are platforms all the same
        return Platform(os=system, architecture=rest)
    return Platform.parse(text)


def _platforms(texts: str) -> tuple[Platform, ...]:
    return tuple(_platform(text) for text in texts.split())


def _builder(nodes: Nodes) -> Builder:
    records = [NodeRecord(name=name, platforms=_platforms(texts)) for name, texts in nodes.items()]
    return Builder(name="b", nodes=tuple(records))


def _chosen(nodes: Nodes, wanted: str, reported: Nodes | None = None, emulated: Nodes | None = None) -> str:
    def said(by: Nodes | None) -> object:
        return lambda record: _platforms((by or {}).get(record.name, ""))

    found = assign(_builder(nodes), _platforms(wanted), said(reported), said(emulated))  # type: ignore[arg-type]
    return " ".join(f"{one.node.name}:{','.join(str(p) for p in one.platforms)}" for one in found)


TABLE = {
    "one node": ({"amd64": "linux/amd64"}, "linux/amd64", "amd64:linux/amd64"),
    "a platform nobody knows": (
        {"amd64": "linux/amd64", "beta": "linux/beta"},
        "linux/beta",
        "beta:linux/beta",
    ),
    "what nobody has goes to the first": ({"amd64": "linux/amd64"}, "linux/riscv64", "amd64:linux/riscv64"),
    "single, first": (
        {"amd64": "linux/amd64", "riscv64": "linux/riscv64"},
        "linux/amd64",
        "amd64:linux/amd64",
    ),
    "single, second": (
        {"amd64": "linux/amd64", "riscv64": "linux/riscv64"},
        "linux/riscv64",
        "riscv64:linux/riscv64",
    ),
    "single, unknown": (
        {"amd64": "linux/amd64", "riscv64": "linux/riscv64"},
        "linux/unknown",
        "amd64:linux/unknown",
    ),
    "two platforms of one node": (
        {"both": "linux/amd64 linux/arm64", "riscv64": "linux/riscv64"},
        "linux/arm64",
        "both:linux/arm64",
    ),
    "arm64 runs arm/v8": (
        {"amd64": "linux/amd64", "arm64": "linux/arm64"},
        "linux/arm/v8",
        "arm64:linux/arm/v8",
    ),
    "arm64 runs arm/v7": (
        {"amd64": "linux/amd64", "arm64": "linux/arm64"},
        "linux/arm/v7",
        "arm64:linux/arm/v7",
    ),
    "arm/v8 is closer to itself": (
        {"amd64": "linux/amd64", "arm64": "linux/arm64", "armv8": "linux/arm/v8"},
        "linux/arm/v8",
        "armv8:linux/arm/v8",
    ),
    "arm/v8 is closer to arm/v7": (
        {"amd64": "linux/amd64", "arm64": "linux/arm64", "armv8": "linux/arm/v8"},
        "linux/arm/v7",
        "armv8:linux/arm/v7",
    ),
    "a newer variant does not run": (
        {"amd64": "linux/amd64", "armv7": "linux/arm/v7"},
        "linux/arm/v8",
        "amd64:linux/arm/v8",
    ),
    "an older variant does": (
        {"amd64": "linux/amd64", "armv7": "linux/arm/v7"},
        "linux/arm/v6",
        "armv7:linux/arm/v6",
    ),
    "the first of equals": (
        {"amd64": "linux/amd64", "riscv64-1": "linux/riscv64", "riscv64-2": "linux/riscv64"},
        "linux/riscv64",
        "riscv64-1:linux/riscv64",
    ),
    "the exact one": (
        {"armv8": "linux/arm/v8", "armv7": "linux/arm/v7"},
        "linux/arm/v7",
        "armv7:linux/arm/v7",
    ),
    "nothing wanted": ({"beta": "linux/beta"}, "", ""),
    "together where one node has both": (
        {"both": "linux/amd64 linux/arm64", "riscv64": "linux/riscv64"},
        "linux/amd64 linux/arm64",
        "both:linux/amd64,linux/arm64",
    ),
    "apart where it has not": (
        {"both": "linux/amd64 linux/arm64", "riscv64": "linux/riscv64"},
        "linux/amd64 linux/riscv64",
        "both:linux/amd64 riscv64:linux/riscv64",
    ),
    "nothing is moved to be together": (
        {"amd64": "linux/amd64", "both": "linux/amd64 linux/riscv64"},
        "linux/amd64 linux/riscv64",
        "amd64:linux/amd64 both:linux/riscv64",
    ),
    "windows 2019": (
        {"2019": "windows(10.0.17763)/amd64", "2022": "windows(10.0.20348)/amd64"},
        "windows(10.0.17763)/amd64",
        "2019:windows/amd64",
    ),
    "windows 2022": (
        {"2019": "windows(10.0.17763)/amd64", "2022": "windows(10.0.20348)/amd64"},
        "windows(10.0.20348)/amd64",
        "2022:windows/amd64",
    ),
    "no windows is new enough": (
        {"2022": "windows(10.0.20348)/amd64", "2019": "windows(10.0.17763)/amd64"},
        "windows(10.0.26100)/amd64",
        "2022:windows/amd64",
    ),
    "the order is that of what is wanted": (
        {"amd64": "linux/amd64", "arm64": "linux/arm64"},
        "linux/arm64 linux/amd64",
        "arm64:linux/arm64 amd64:linux/amd64",
    ),
    "a level of the architecture runs the plain one": (
        {"arm64": "linux/arm64", "v3": "linux/amd64/v3"},
        "linux/amd64",
        "v3:linux/amd64",
    ),
    "the plain one does not run a level": (
        {"arm64": "linux/arm64", "v1": "linux/amd64"},
        "linux/amd64/v3",
        "arm64:linux/amd64/v3",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_declared(case: str) -> None:
    nodes, wanted, expected = TABLE[case]
    assert _chosen(nodes, wanted) == expected


@pytest.mark.parametrize(
    "nodes, wanted, reported, expected",
    [
        # what is reported and exact comes before what was declared and is only near
        (
            {"amd64": "linux/amd64", "armv8": "linux/arm/v8"},
            "linux/arm/v7",
            {"amd64": "linux/arm/v7"},
            "amd64:linux/arm/v7",
        ),
        # but what was declared and exact comes before everything
        (
            {"a": "", "b": "linux/arm64"},
            "linux/arm64",
            {"a": "linux/arm64", "b": "linux/amd64"},
            "b:linux/arm64",
        ),
        # … also where another platform of the same build had to be asked for
        (
            {"a": "", "b": "linux/arm64"},
            "linux/arm64 linux/amd64",
            {"a": "linux/arm64 linux/amd64", "b": ""},
            "b:linux/arm64 a:linux/amd64",
        ),
        (
            {"win": "linux/amd64"},
            "windows(10.0.20348)/amd64",
            {"win": "windows(10.0.17763)/amd64 windows(10.0.20348)/amd64"},
            "win:windows/amd64",
        ),
        ({"a": "", "b": ""}, "linux/arm64", {"a": "linux/amd64", "b": "linux/arm64"}, "b:linux/arm64"),
        ({"a": "", "b": ""}, "linux/s390x", {"a": "linux/amd64", "b": "linux/arm64"}, "a:linux/s390x"),
        ({"a": "", "b": ""}, "linux/386", {"a": "linux/arm64", "b": "linux/amd64"}, "b:linux/386"),
    ],
)
def test_reported(nodes: Nodes, wanted: str, reported: Nodes, expected: str) -> None:
    assert _chosen(nodes, wanted, reported) == expected


def test_a_node_that_has_an_emulator_comes_before_the_first() -> None:
    nodes, natives = {"a": "", "b": ""}, {"a": "linux/amd64", "b": "linux/arm64"}
    assert _chosen(nodes, "linux/s390x", natives, {"b": "linux/s390x"}) == "b:linux/s390x"
    # what runs natively somewhere is not emulated
    assert _chosen(nodes, "linux/arm64", natives, {"a": "linux/arm64"}) == "b:linux/arm64"


def test_nobody_is_asked_where_everything_was_declared() -> None:
    def ask(record: NodeRecord) -> Sequence[Platform]:
        raise AssertionError(f"{record.name} was asked")

    found = assign(
        _builder({"a": "linux/amd64", "b": "linux/arm64"}), _platforms("linux/arm64 linux/amd64"), ask, ask
    )
    assert [(one.node.name, one.reasons) for one in found] == [("b", ("declared",)), ("a", ("declared",))]


def test_a_builder_without_nodes() -> None:
    assert assign(Builder(name="b"), _platforms("linux/amd64"), lambda record: ()) == []


def test_reasons() -> None:
    builder = _builder({"a": "linux/amd64", "b": "linux/arm64"})
    reported = {"a": _platforms("linux/386"), "b": ()}
    found = assign(
        builder,
        _platforms("linux/amd64 linux/arm/v7 linux/386 linux/s390x linux/riscv64"),
        lambda record: reported[record.name],
        lambda record: _platforms("linux/riscv64") if record.name == "b" else (),
    )
    reasons = {
        str(p): (one.node.name, why)
        for one in found
        for p, why in zip(one.platforms, one.reasons, strict=True)
    }
    assert reasons == {
        "linux/amd64": ("a", "declared"),
        "linux/arm/v7": ("b", "declared linux/arm64 runs linux/arm/v7"),
        "linux/386": ("a", "reported"),
        "linux/s390x": ("a", "emulated: no node offers it, this is the first"),
        "linux/riscv64": ("b", "emulated: no node runs it natively"),
    }
