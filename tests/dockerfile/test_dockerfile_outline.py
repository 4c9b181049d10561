"""What ``--call outline`` and ``--call targets`` say, and ``polyarch debug ast``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyarch.cli.main import main
from polyarch.dockerfile import parse
from polyarch.dockerfile.outline import outline, targets
from polyarch.dockerfile.program import Program, instructions
from polyarch.dockerfile.scope import Inputs
from polyarch.errors import UsageError

TEXT = """\
# VERSION is the version
ARG VERSION=1.2
ARG UNUSED=x
# TAG names the base
ARG TAG=v${VERSION}
# base is the base stage
FROM scratch AS base
# FOO does things
ARG FOO=bar$VERSION
ARG VERSION
ARG TARGETARCH
RUN --mount=type=cache,target=/c,id=cc --mount=type=secret,id=tok,required --mount=type=ssh \\
    --mount=type=ssh,id=x,required=true --mount=type=secret,target=/y/z x
# final image
FROM base
ARG BAR
ARG EMPTY=
RUN --mount=type=cache,target=/d --mount=type=secret,source=q,env=Q y
COPY --from=extra a b
FROM --platform=$BUILDPLATFORM debian:$TAG AS other
ARG NOTME=1
FROM scratch AS extra
ARG MORE=2
"""


def program() -> Program:
    return instructions(parse(TEXT))


def line(start: int, end: int = 0) -> dict[str, object]:
    numbers = range(start, (end or start) + 1)
    return {"ranges": [{"start": {"line": number}, "end": {"line": number}} for number in numbers]}


def test_targets() -> None:
    assert targets(program())["targets"] == [
        {"name": "base", "description": "is the base stage", "base": "scratch", "location": line(7)},
        {"base": "base", "location": line(15)},
        {"name": "other", "base": "debian:$TAG", "platform": "$BUILDPLATFORM", "location": line(20)},
        {"name": "extra", "default": True, "base": "scratch", "location": line(22)},
    ]


def test_outline_of_a_stage() -> None:
    found = outline(program(), inputs=Inputs(target="Base"))
    assert (found["name"], found["description"]) == ("base", "is the base stage")
    assert found["args"] == [
        {"name": "VERSION", "description": "is the version", "value": "1.2", "location": line(2)},
        {"name": "FOO", "description": "does things", "value": "bar", "location": line(9)},
    ]
    assert found["secrets"] == [
        {"name": "tok", "required": True, "location": line(12, 13)},
        {"name": "z", "location": line(12, 13)},
    ]
    assert found["ssh"] == [
        {"name": "default", "location": line(12, 13)},
        {"name": "x", "required": True, "location": line(12, 13)},
    ]
    assert found["cache"] == [{"id": "cc", "location": line(12, 13)}]


def test_outline_counts_what_the_stage_needs() -> None:
    found = outline(program(), inputs=Inputs(target="1"))
    assert "name" not in found
    assert [entry["name"] for entry in found["args"]] == ["VERSION", "FOO", "BAR", "EMPTY", "MORE"]
    assert [entry["name"] for entry in found["secrets"]] == ["tok", "z", "q"]
    assert [entry["id"] for entry in found["cache"]] == ["cc", "/d"]


def test_arguments_of_the_from_line_count_with_those_they_use() -> None:
    found = outline(program(), inputs=Inputs(target="other", build_args={"VERSION": "9"}))
    assert [(entry["name"], entry.get("value")) for entry in found["args"]] == [
        ("VERSION", "9"),
        ("TAG", "v9"),
        ("NOTME", "1"),
    ]


def test_given_arguments_show_their_value() -> None:
    found = outline(program(), inputs=Inputs(target="extra", build_args={"MORE": "3"}))
    assert found["args"] == [{"name": "MORE", "value": "3", "location": line(23)}]


def test_a_target_that_is_not_there() -> None:
    with pytest.raises(UsageError) as caught:
        outline(program(), inputs=Inputs(target="bsae"))
    assert "did you mean base?" in caught.value.hint


def test_the_data_is_json() -> None:
    json.dumps([targets(program()), outline(program())])


# --- polyarch debug ast ---------------------------------------------------------------------------------


def test_debug_ast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "Dockerfile"
    path.write_bytes(b'# escape=`\nFROM a\nCOPY --link <<-E /x\n\t$v\nE\nCMD ["\xc3\xa9"]\n')
    assert main(["debug", "ast", str(path)]) == 0
    tree = json.loads(capsys.readouterr().out)
    assert tree["directives"] == {"escape": "`"}
    assert tree["escape"] == "`"
    assert [instruction["name"] for instruction in tree["instructions"]] == ["FROM", "COPY", "CMD"]
    assert tree["instructions"][1] == {
        "name": "COPY",
        "flags": ["--link"],
        "arguments": ["<<-E", "/x"],
        "heredocs": [{"name": "E", "expand": True, "chomp": True, "content": "\t$v\n"}],
        "start": 3,
        "end": 5,
        "original": "COPY --link <<-E /x",
    }
    assert tree["instructions"][2]["json"] == ["é"]


def test_debug_ast_refuses_with_an_excerpt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "Dockerfile"
    path.write_text("FROM a\nENV b\nRUN c\n")
    assert main(["debug", "ast", str(path)]) == 1
    shown = capsys.readouterr().err
    assert ">>> 2 | ENV b" in shown
    assert "hint: write ENV name=value" in shown
