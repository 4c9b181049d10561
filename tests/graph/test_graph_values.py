"""Small values of the graph room: Go's spelling, ports, signals."""

from __future__ import annotations

import pytest

from polyarch.dockerfile.ports import port_specifications
from polyarch.errors import DockerfileError
from polyarch.graph import gotext
from polyarch.graph.signals import check_signal
from polyarch.graph.vertex import ExecOp, Vertex
from polyarch.oci.config import Healthcheck
from polyarch.oci.platform import Platform


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (1500, "1.5µs"),
        (250_000_000, "250ms"),
        (1_500_000_000, "1.5s"),
        (90_000_000_000, "1m30s"),
        (3_600_000_000_000, "1h0m0s"),
        (3_661_000_000_001, "1h1m1.000000001s"),
        (-2_000_000_000, "-2s"),
    ],
)
def test_durations_are_spelt_as_go_does(nanoseconds: int, text: str) -> None:
    assert gotext.duration(nanoseconds) == text


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("plain", '"plain"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("tab\tnew\n", '"tab\\tnew\\n"'),
        ("\x00\x7f", '"\\x00\\x7f"'),
        ("größe", '"größe"'),
        ("\u200b", '"\\u200b"'),
        ("\udcff", '"\\xff"'),
    ],
)
def test_strings_are_quoted_as_go_does(text: str, quoted: str) -> None:
    assert gotext.quote(text) == quoted


@pytest.mark.parametrize(
    ("retries", "shown"),
    [(3, "'\\x03'"), (10, "'\\n'"), (34, "'\"'"), (39, "'\\''"), (65, "'A'"), (92, "'\\\\'")],
)
def test_a_health_check_is_spelt_as_dockers_struct(retries: int, shown: str) -> None:
    check = Healthcheck(test=("CMD", "a"), interval=10**9, retries=retries)
    assert gotext.healthcheck(check) == f'&{{["CMD" "a"] "1s" "0s" "0s" "0s" {shown}}}'


@pytest.mark.parametrize(
    ("word", "ports"),
    [
        ("80", ("80/tcp",)),
        ("53/UDP", ("53/udp",)),
        ("8000-8002/sctp", ("8000/sctp", "8001/sctp", "8002/sctp")),
        ("127.0.0.1:80:8080", ("8080/tcp",)),
        ("[::1]:80:8080", ("8080/tcp",)),
        ("90:80", ("80/tcp",)),
    ],
)
def test_ports(word: str, ports: tuple[str, ...]) -> None:
    assert port_specifications([word]) == ports


@pytest.mark.parametrize(
    "word", ["", "/tcp", "80/foo", "70000", "9-8", "1-2-3", "x", "80:1-2", "300.1.1.1:80:80"]
)
def test_wrong_ports_are_named(word: str) -> None:
    with pytest.raises(DockerfileError, match="EXPOSE"):
        port_specifications([word])


@pytest.mark.parametrize("signal", ["TERM", "SIGKILL", "sigusr1", "9", "RTMIN+3", "SIGRTMAX-14"])
def test_signals(signal: str) -> None:
    check_signal(signal)


@pytest.mark.parametrize("signal", ["0", "SIGTREM", "RTMIN+40", ""])
def test_wrong_signals_are_named(signal: str) -> None:
    with pytest.raises(DockerfileError, match="STOPSIGNAL"):
        check_signal(signal)


def test_equal_definitions_have_one_name() -> None:
    """Whatever the strings in them are made of."""
    spelt = "".join(["def", "ault"])
    platform = Platform.parse("linux/amd64")
    plain = ExecOp(arguments=("a",), environment=(), directory="/", platform=platform)
    same = ExecOp(arguments=("a",), environment=(), directory="/", platform=platform, network=spelt)
    assert Vertex(plain).digest == Vertex(same).digest
