"""``polyarch base create`` as a person types it."""

from __future__ import annotations

import pytest
from debian_mirror import Mirror

from polyarch.cli.main import main
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.oci.reference import Reference
from polyarch.registry.client import Client


@pytest.fixture
def words(mirror: Mirror) -> list[str]:
    """A command line that makes a small base."""
    mirror.add("tool", {"usr/bin/tool": b"amd64"})
    mirror.add("tool", {"usr/bin/tool": b"arm64"}, architecture="arm64")
    mirror.write()
    return [
        *("base", "create", "--variant", "extract", "--include", "tool", "--suite", "test"),
        *("--mirror", mirror.line, "--platform", "linux/amd64,linux/arm64"),
    ]


def test_says_where_it_is_and_how_each_variant_came(
    state: State, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "base/tool"]) == 0
    shown = capsys.readouterr()
    digest = Layout(state.content).resolve("base/tool").digest
    assert f"base/tool is in the local store: {digest}" in shown.out
    assert shown.out.count("made now") == 2
    assert "linux/arm64: fetching 1 packages" in shown.err
    assert main([*words, "base/tool"]) == 0
    assert capsys.readouterr().out.count("was there already") == 2


def test_quiet_prints_the_digest_alone(
    state: State, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "-q", "base/tool"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == Layout(state.content).resolve("base/tool").digest
    assert shown.err == ""


def test_pushes_to_the_registry_of_its_name(
    state: State, words: list[str], registry: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"{registry}/base/tool:1"
    assert main([*words, "--push", name]) == 0
    with Client() as client:
        found = client.repository(Reference.parse(name)).resolve("1")
    assert found.digest == Layout(state.content).resolve(name).digest
    assert "in the local store and its registry" in capsys.readouterr().out


def test_source_date_epoch(
    state: State, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    assert main([*words, "base/tool"]) == 2
    assert "not a number of seconds" in capsys.readouterr().err
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert main([*words, "base/tool"]) == 0


@pytest.mark.parametrize(
    ("more", "code", "words_of_error"),
    [
        (["--platform", "linux/vax", "x"], 2, "vax"),
        (["--include", "nonesuch", "x"], 1, "Unable to locate package nonesuch"),
        (["Not/A/Name"], 2, "lower case"),
    ],
)
def test_mistakes_are_named_and_leave_nothing(
    state: State,
    words: list[str],
    more: list[str],
    code: int,
    words_of_error: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*words, *more]) == code
    assert words_of_error in capsys.readouterr().err
    assert not Layout(state.content).names()
