"""``build --check`` and ``--call``: verdicts, forms and exit codes, without a build."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyarch.cli.main import main


def answer(
    capsys: pytest.CaptureFixture[str], folder: Path, text: str, *options: str
) -> tuple[int, str, str]:
    (folder / "Dockerfile").write_text(text)
    code = main(["build", *options, str(folder)])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    return code, shown.out, shown.err


def test_nothing_to_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = answer(capsys, tmp_path, "FROM scratch\nCOPY a /\n", "--check")
    assert (code, out) == (0, "Check complete, no warnings found.\n")


def test_warnings_are_shown_with_their_page_and_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = answer(capsys, tmp_path, "FROM scratch AS Foo\nCOPY a /\n", "--check")
    assert code == 1
    assert "WARNING: StageNameCasing - " in out and ">>> 1 | FROM scratch AS Foo" in out


def test_json_has_dockers_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = answer(capsys, tmp_path, "FROM scratch AS Foo\n", "--call", "check,format=json")
    warning = json.loads(out)["warnings"][0]
    assert code == 1
    assert warning["ruleName"] == "StageNameCasing"
    assert warning["location"]["ranges"][0]["start"] == {"line": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FROM scratch\nCOPPY a b\n", "did you mean COPY?"),
        ("FROM scratch\nSTOPSIGNAL SIGTREM\n", "did you mean SIGTERM?"),
        ("FROM scratch AS a\nCOPY --from=b / /\nFROM a AS b\n", "a -> b -> a"),
        ("FROM debian\nCOPY --chmod=999 a b\n", "invalid chmod"),
        ("FROM $NOTHING\n", "is empty after its variables"),
        ("FROM debian\nRUN --mount=target=/ true\n", "invalid mount target"),
        ("FROM debian\nADD https://a]b/c /\n", "invalid URL"),
    ],
)
def test_what_a_build_would_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: str
) -> None:
    code, _, err = answer(capsys, tmp_path, text, "--check")
    assert code == 1 and words in err


def test_a_base_may_bring_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "FROM debian\nENV X=${FROM_THE_BASE:?needed}\n"
    assert answer(capsys, tmp_path, text, "--check")[0] == 0


def test_outline_and_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "ARG V=1\n# made the thing\nFROM scratch AS made\nFROM made\nARG V\n"
    code, out, _ = answer(capsys, tmp_path, text, "--call", "targets")
    assert code == 0 and "(default)" in out and "made" in out
    code, out, _ = answer(capsys, tmp_path, text, "--call", "outline")
    assert code == 0 and "V" in out
    code, out, _ = answer(capsys, tmp_path, text, "--call", "outline,format=json")
    assert code == 0 and json.loads(out)["args"][0]["name"] == "V"


def test_an_unknown_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = answer(capsys, tmp_path, "FROM scratch\n", "--call", "bogus")
    assert code == 2 and "bogus" in err


@pytest.fixture
def base(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an image in the local store, for s390x alone, with a variable and a trigger."""
    monkeypatch.setenv("POLYARCH_ROOT", str(tmp_path / "root"))
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "Dockerfile").write_text(
        "FROM scratch\nENV KNOWN=1\nONBUILD ENV LATER=$KNOWN$NOTHING\n"
    )
    words = ["build", "--platform=linux/s390x", "-t", "check.test/base:1", str(tmp_path / "base")]
    assert main([*words, "--progress=quiet"]) == 0
    capsys.readouterr()
    return "check.test/base:1"


def rules(out: str) -> list[tuple[str, int]]:
    found = json.loads(out)["warnings"]
    return [(each["ruleName"], each["location"]["ranges"][0]["start"]["line"]) for each in found]


def test_bases_are_known(tmp_path: Path, capsys: pytest.CaptureFixture[str], base: str) -> None:
    text = f"FROM {base}\nENV A=$KNOWN B=$LATER C=$UNKNOWN\n"
    call = ("--call=check,format=json", "--platform")
    _, out, _ = answer(capsys, tmp_path, text, *call, "linux/s390x")
    assert rules(out) == [("UndefinedVar", 1), ("UndefinedVar", 2)]
    _, out, _ = answer(capsys, tmp_path, text, *call, "linux/amd64")
    assert ("InvalidBaseImagePlatform", 1) in rules(out)


def test_contexts_stand_in_for_bases(tmp_path: Path, capsys: pytest.CaptureFixture[str], base: str) -> None:
    text = "FROM nowhere.test/golang:1\nENV A=$KNOWN C=$UNKNOWN\n"
    context = f"--build-context=nowhere.test/golang:1=docker-image://{base}"
    _, out, _ = answer(capsys, tmp_path, text, context, "--call=check,format=json", "--platform=linux/s390x")
    assert rules(out) == [("UndefinedVar", 1), ("UndefinedVar", 2)]


def test_what_depends_on_a_base_nobody_reaches_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLYARCH_ROOT", str(tmp_path / "root"))
    code, _, err = answer(capsys, tmp_path, "FROM 127.0.0.1:9/golang\nENV A=$B\n", "--check")
    assert code == 0 and "did without 127.0.0.1:9/golang" in err


def test_an_error_of_a_base_is_told_before_those_of_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "FROM UPPER\nENV A=${{B}}\n"
    code, _, err = answer(capsys, tmp_path, text, "--check")
    assert code == 1 and ">>> 1" in err


def test_mistakes_are_told_and_fail_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Dockerfile").write_text(
        "FROM scratch AS build\nRUN go build .\nFROM scratch\nCOPY --from=build /a /a\n"
    )
    foreign = "linux/s390x"
    assert main(["build", "--check", f"--platform={foreign}", str(tmp_path)]) == 0
    assert "EmulatedCompiler" in capsys.readouterr().out
    assert main(["build", "--call=check,format=json", f"--platform={foreign}", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["warnings"] == [] and found["mistakes"][0]["ruleName"] == "EmulatedCompiler"
    assert main(["build", "--check", str(tmp_path)]) == 0
    assert "EmulatedCompiler" not in capsys.readouterr().out


def test_what_was_found_before_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Dockerfile").write_text("FROM scratch AS Bad\nNOPE\n")
    assert main(["build", "--call=check,format=json", str(tmp_path)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [warning["ruleName"] for warning in found["warnings"]] == ["StageNameCasing"]
    assert found["buildError"]["location"]["ranges"][0]["start"]["line"] == 2
