"""Checks: the pages that explain them are also their tests; then each rule's finer points."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from polyarch.dockerfile import parse
from polyarch.dockerfile.dump import dump_findings
from polyarch.dockerfile.lint import (
    RULES,
    BaseImage,
    CheckOptions,
    Finding,
    Inputs,
    chosen_options,
    lint,
    lint_before,
    lint_until_error,
    parse_options,
)
from polyarch.dockerfile.program import instructions
from polyarch.errors import DockerfileError, Location
from polyarch.oci.platform import Platform

PAGES = Path(__file__).parents[2] / "docs" / "checks"
AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


class Ignore:
    """A matcher of whole names, enough for these tests."""

    def __init__(self, *patterns: str) -> None:
        self.patterns = patterns

    def matches(self, path: str) -> bool:
        return any(path == pattern or path.startswith(pattern + "/") for pattern in self.patterns)


def check(
    text: str,
    *,
    inputs: Inputs | None = None,
    ignore: Ignore | None = None,
    platform: Platform | None = None,
    options: CheckOptions | None = None,
) -> tuple[Finding, ...]:
    dockerfile = parse(text)
    return lint(
        dockerfile,
        instructions(dockerfile),
        inputs=inputs,
        ignore=ignore,
        target_platform=platform,
        options=options,
    )


def rules(text: str, **arguments: object) -> list[tuple[str, int]]:
    return [(finding.rule, finding.location.start) for finding in check(text, **arguments)]  # type: ignore[arg-type]


# --- the documentation ----------------------------------------------------------------------------------


def test_there_are_22_rules_and_a_page_for_each() -> None:
    assert len(RULES) == 22
    assert {path.stem for path in PAGES.glob("*.md")} == {*RULES, "README"}
    index = (PAGES / "README.md").read_text()
    for rule in RULES.values():
        assert rule.url == f"docs/checks/{rule.name}.md"
        assert f"[{rule.name}]({rule.name}.md)" in index


def _findings(rule: str, heading: str) -> set[str]:
    page = (PAGES / f"{rule}.md").read_text()
    match = re.search(rf"## {heading}\n\n```dockerfile\n(.*?\n)```", page, re.DOTALL)
    assert match, f"{rule}.md has no example under {heading}"
    image = BaseImage(platform=AMD64 if heading == "Wrong" else ARM64)
    found = check(
        match[1],
        inputs=Inputs(bases={0: image} if rule == "InvalidBaseImagePlatform" else {}),
        ignore=Ignore("tmp"),
        platform=ARM64,
        options=CheckOptions(experimental_all=True),
    )
    return {finding.rule for finding in found}


@pytest.mark.parametrize("rule", RULES)
def test_the_wrong_example_is_found_wrong(rule: str) -> None:
    assert rule in _findings(rule, "Wrong")


@pytest.mark.parametrize("rule", RULES)
def test_the_right_example_is_found_right(rule: str) -> None:
    assert rule not in _findings(rule, "Right")


# --- places and finer points ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # casing
        ("from scratch as a\nFROM scratch AS b\nfrom scratch AS c\nFrom scratch as d\n", [
            ("ConsistentInstructionCasing", 2), ("FromAsCasing", 3), ("ConsistentInstructionCasing", 4)]),
        ("FROM scratch as Foo\n", [("StageNameCasing", 1), ("FromAsCasing", 1)]),
        ("arg x\nFROM scratch\nENV a=1\n", []),
        ("fRom scratch\ncmd [\"x\"]\n", [("ConsistentInstructionCasing", 1)]),
        # continuations: the last line of the instruction, before its heredocs
        ("FROM scratch\nRUN a \\\n\n\n# x\n  b\n", [("NoEmptyContinuation", 6)]),
        ("FROM scratch\nRUN <<EOF \\\n\n y\nx\nEOF\n", [("NoEmptyContinuation", 4)]),
        # names of stages
        ("FROM scratch AS a\nFROM scratch AS A\n", [("DuplicateStageName", 2), ("StageNameCasing", 2)]),
        ("FROM scratch AS context\n", [("ReservedStageName", 1)]),
        # the command and its shell
        ("FROM scratch\nCMD x\nENTRYPOINT y\n", [("JSONArgsRecommended", 2), ("JSONArgsRecommended", 3)]),
        ('FROM scratch\nSHELL ["/x"]\nCMD x\n', []),
        ('FROM scratch AS a\nSHELL ["/x"]\nFROM a\nCMD x\n', []),
        # only the last counts, and the others are named
        ('FROM scratch\nCMD ["a"]\nCMD ["b"]\nCMD ["c"]\n', [
            ("MultipleInstructionsDisallowed", 2), ("MultipleInstructionsDisallowed", 3)]),
        ('FROM scratch AS a\nCMD ["a"]\nFROM a\nCMD ["b"]\n', []),
        ("FROM scratch\nHEALTHCHECK NONE\nHEALTHCHECK CMD x\n", [("MultipleInstructionsDisallowed", 2)]),
        # variables
        ("FROM scratch\nENV a=$x b=$x\n", [("UndefinedVar", 2), ("UndefinedVar", 2)]),
        ("FROM scratch\nENV a=1\nENV b=$a c=$PATH\n", []),
        ("FROM scratch\nENV a=$a\n", [("UndefinedVar", 2)]),
        ("FROM scratch\nENV a=${x:-y} b=${x+z}\n", [("UndefinedVar", 2), ("UndefinedVar", 2)]),
        ("FROM scratch\nARG x\nENV a=$x\n", []),
        ("FROM scratch\nARG a=$b c=$a d=$e\n", [("UndefinedVar", 2), ("UndefinedVar", 2)]),
        ("ARG x=1\nFROM scratch\nENV a=$x\n", [("UndefinedVar", 3)]),
        ("FROM scratch\nENV a=$TARGETARCH\nARG TARGETARCH\nENV b=$TARGETARCH\n", [("UndefinedVar", 2)]),
        ("FROM scratch AS a\nARG x\nFROM a\nENV y=$x\n", []),
        ("FROM scratch\nCOPY --chmod=$m <<E /x\n$b '$c' \\$d\nE\n", [("UndefinedVar", 2)] * 3),
        ("FROM scratch\nRUN --mount=type=cache,target=/$x $y\n", [("UndefinedVar", 2)]),
        ("FROM scratch\nEXPOSE $p\nCMD [\"$x\"]\nHEALTHCHECK CMD $x\nSHELL [\"$x\"]\n", []),
        ("FROM scratch\nLABEL $a=$b\nVOLUME /$c\nUSER $d\n", [
            ("UndefinedVar", 2), ("UndefinedVar", 2), ("UndefinedVar", 3), ("UndefinedVar", 4)]),
        ("FROM debian\nENV a=$x\n", []),
        # FROM
        ("FROM scratch$x\n", [("UndefinedArgInFrom", 1)]),
        ("ARG x\nFROM scratch$x\n", []),
        ("FROM --platform=linux/$x$TARGETARCH scratch\n", [("UndefinedArgInFrom", 1)]),
        ("ARG A\nARG B=${A}\nFROM debian:$B\n", [("InvalidDefaultArgInFrom", 3)]),
        ("FROM --platform=linux/amd64 scratch AS a\n", [("FromPlatformFlagConstDisallowed", 1)]),
        ("FROM --platform=linux/amd64 scratch AS amd64\nFROM --platform=linux/arm scratch AS linuxish\n", []),
        ("FROM --platform=${TARGETPLATFORM} scratch\n", [("RedundantTargetPlatform", 1)]),
        ("FROM --platform=$TARGETOS/$TARGETARCH scratch\nFROM --platform=$BUILDPLATFORM scratch\n", []),
        # WORKDIR
        ("FROM scratch\nWORKDIR a\nWORKDIR b\n", [("WorkdirRelativePath", 2)]),
        ("FROM scratch AS a\nWORKDIR /a\nFROM a\nWORKDIR b\n", []),
        ("FROM scratch\nARG d=/x\nWORKDIR $d\n", []),
        # pairs, secrets, ports
        ("FROM scratch\nENV a b\nLABEL a b c\nENV a=b\n", [
            ("LegacyKeyValueFormat", 2), ("LegacyKeyValueFormat", 3)]),
        ("FROM scratch\nENV MY_KEY=1 key=2 monkey=3 PUBLIC_KEY=4 KEYS=5\nARG auth TOKEN_FILE=x a_Secret\n", [
            *[("SecretsUsedInArgOrEnv", 2)] * 2, *[("SecretsUsedInArgOrEnv", 3)] * 2]),
        ("ARG TOKEN\nFROM scratch\nONBUILD ARG TOKEN\n", []),
        ("FROM scratch\nEXPOSE 80/TCP 1.2.3.4:80:80 80:80/Udp 90\n", [
            *[("ExposeInvalidFormat", 2)] * 2, *[("ExposeProtoCasing", 2)] * 2]),
        ("FROM scratch\nMAINTAINER x\n", [("MaintainerDeprecated", 2)]),
        # ONBUILD: checked where it happens
        ("FROM scratch AS a\nONBUILD ENV q=$z\nFROM a\n", [("UndefinedVar", 3)]),
        ("FROM scratch\nONBUILD CMD x\nONBUILD WORKDIR x\n", []),
    ],
)  # fmt: skip
def test_places(text: str, expected: list[tuple[str, int]]) -> None:
    assert sorted(rules(text)) == sorted(expected)


def test_findings_are_in_the_order_of_lines_and_explain_themselves() -> None:
    found = check("FROM scratch as Foo\nMAINTAINER x\nENV a b\n")
    assert [finding.location.start for finding in found] == sorted(
        finding.location.start for finding in found
    )
    for finding in found:
        assert finding.message and finding.description and finding.url.startswith("docs/checks/")
        assert finding.location.source


def test_findings_as_data() -> None:
    (finding,) = check("FROM scratch\nMAINTAINER \\\n x\n")
    assert dump_findings([finding]) == {
        "warnings": [
            {
                "ruleName": "MaintainerDeprecated",
                "description": finding.description,
                "url": "docs/checks/MaintainerDeprecated.md",
                "detail": finding.message,
                "location": {"ranges": [{"start": {"line": n}, "end": {"line": n}} for n in (2, 3)]},
            }
        ]
    }
    error = DockerfileError("no", location=Location("Dockerfile", 4, 4))
    assert dump_findings([], error)["buildError"] == {
        "message": "no",
        "location": {"ranges": [{"start": {"line": 4}, "end": {"line": 4}}]},
    }


def test_did_you_mean() -> None:
    (undefined,) = check("FROM scratch\nARG version\nENV a=$verison\n")
    assert "did you mean $version?" in undefined.message
    (argument, _) = check("ARG image=scratch\nFROM ${imgae}\n")
    assert "did you mean $image?" in argument.message or "names no image" in argument.message


# --- what is known from outside -------------------------------------------------------------------------


def test_the_base_image_defines_variables() -> None:
    text = "FROM golang\nENV PATH=$GOPATH/bin:$PATH X=$nope\n"
    known = Inputs(bases={0: BaseImage({"GOPATH": "/go"})})
    assert rules(text, inputs=known) == [("UndefinedVar", 2)]
    assert rules(text) == []


def test_the_base_image_brings_triggers_and_a_shell() -> None:
    image = BaseImage(triggers=("ENV a=$b", "WORKDIR x"), shell=("/bin/bash", "-c"))
    assert rules("FROM x\nCMD y\n", inputs=Inputs(bases={0: image})) == [
        ("UndefinedVar", 1),
        ("WorkdirRelativePath", 1),
    ]


def test_build_arguments_count() -> None:
    text = "ARG base\nFROM $base AS a\nARG x\nWORKDIR $x\n"
    given = Inputs(build_args={"base": "scratch", "x": "/a"})
    assert rules(text, inputs=given) == [("InvalidDefaultArgInFrom", 2)]


def test_only_what_the_target_needs_is_followed() -> None:
    text = "FROM scratch AS a\nWORKDIR foo\nFROM scratch as c\nENV x=$y\nFROM a AS b\nCMD x\n"
    assert rules(text, inputs=Inputs(target="b")) == [
        ("WorkdirRelativePath", 2),
        ("FromAsCasing", 3),
        ("JSONArgsRecommended", 6),
    ]


def test_ignored_files() -> None:
    text = "# check=skip=x\nFROM scratch\nCOPY ./a/ b /x/\nADD b http://x/a /\nCOPY . /\n"
    assert rules(text, ignore=Ignore("a", "b")) == [("CopyIgnoredFile", 3)] * 2 + [("CopyIgnoredFile", 4)]
    assert rules(text, ignore=Ignore("*")) == [("CopyIgnoredFile", 5)]
    assert rules(text.replace("skip=x", "skip=CopyIgnoredFile"), ignore=Ignore("a")) == []


@pytest.mark.parametrize(
    ("source", "exception", "found"),
    [
        ("a/x", "!a/y", True),
        ("a/x", "!b", True),
        ("a/x", "!a/x", False),
        ("a/x", "!a/*", False),
        ("a/x", "!**/x", False),
        ("a", "!a/x", False),
        ("a", "!b/x", True),
        ("a/*.txt", "!a/x.txt", False),
        ("a/*.txt", "!a/x.md", True),
    ],
)
def test_exceptions_among_ignored_files(source: str, exception: str, found: bool) -> None:
    text = f"FROM scratch\nCOPY {source} /\n"
    assert bool(rules(text, ignore=Ignore("a", source, exception))) is found


def test_the_platform_of_the_base_image() -> None:
    text = "FROM --platform=$BUILDPLATFORM x AS a\nFROM x AS b\n"
    bases = {0: BaseImage(platform=AMD64), 1: BaseImage(platform=AMD64)}
    inputs = Inputs(bases=bases, predefined={"BUILDPLATFORM": "linux/amd64", "TARGETPLATFORM": "linux/arm64"})
    assert rules(text, inputs=inputs, platform=ARM64) == [("InvalidBaseImagePlatform", 2)]


# --- options --------------------------------------------------------------------------------------------


def test_the_build_argument_replaces_the_directive() -> None:
    text = "# check=skip=all\nFROM scratch as Foo\nMAINTAINER x\n"

    def given(**args: str) -> list[tuple[str, int]]:
        return rules(text, inputs=Inputs(build_args=args))

    assert given() == []
    assert given(BUILDKIT_DOCKERFILE_CHECK="skip=FromAsCasing,StageNameCasing") == [
        ("MaintainerDeprecated", 3)
    ]
    assert len(given(BUILDKIT_DOCKERFILE_CHECK="")) == 3
    parsed = parse("# check=error=true\nFROM scratch\n")
    assert chosen_options(parsed, {}).error
    assert not chosen_options(parsed, {"BUILDKIT_DOCKERFILE_CHECK": "skip=all"}).error
    more = chosen_options(parsed, {"BUILDKIT_DOCKERFILE_CHECK_EXPERIMENTAL": "InvalidDefinitionDescription"})
    assert more.error and more.experimental == {"InvalidDefinitionDescription"}


def test_what_follows_a_skip_is_a_remark() -> None:
    skip = "# check=skip=MaintainerDeprecated // it is a museum piece\n"
    assert rules("FROM scratch\n" + skip + "MAINTAINER x\n") == []


def test_what_is_found_before_an_error() -> None:
    parsed = parse("FROM scratch AS Bad\nMAINTAINER x\nNOPE\nMAINTAINER y\n")
    found = [(finding.rule, finding.location.start) for finding in lint_before(parsed, 3)]
    assert found == [("StageNameCasing", 1), ("MaintainerDeprecated", 2)]
    assert lint_before(parse("NOPE\n"), 1) == ()


def test_the_directive_turns_rules_off() -> None:
    text = "FROM scratch as Foo\nMAINTAINER x\n"
    assert len(check(text)) == 3
    assert rules("# check=skip=FromAsCasing, StageNameCasing;error=true\n" + text) == [
        ("MaintainerDeprecated", 3)
    ]
    assert rules("# check=skip=all\n" + text) == []
    assert rules("#!/bin/x\n# check=skip=all\n" + text) == []


def test_one_instruction_can_be_spared() -> None:
    text = "FROM scratch\n# check=skip=SecretsUsedInArgOrEnv\nARG TOKEN\nARG KEY\n# check=skip=all\nENV a b\n"
    assert rules(text) == [("SecretsUsedInArgOrEnv", 4)]


def test_experimental_rules_must_be_asked_for() -> None:
    text = "FROM scratch\n# hello\nARG x\n#\nARG y\n# y is it\nARG y\n# they are\nARG a b\n"
    assert rules(text) == []
    expected = [("InvalidDefinitionDescription", 4), ("InvalidDefinitionDescription", 10)]
    assert rules("# check=experimental=all;skip=all\n" + text) == expected


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("", CheckOptions()),
        ("skip=A,B", CheckOptions(skip=frozenset({"A", "B"}))),
        (" skip = all ; error = true ", CheckOptions(skip_all=True, error=True)),
        ("experimental=all;error=0", CheckOptions(experimental_all=True)),
        ("skip = all // all of them", CheckOptions(skip_all=True)),
        ("skip=A, B ,C", CheckOptions(skip=frozenset("ABC"))),
        ("experimental=X", CheckOptions(experimental=frozenset({"X"}))),
    ],
)
def test_options(text: str, options: CheckOptions) -> None:
    assert parse_options(text) == options


@pytest.mark.parametrize("text", ["foo", "foo=1", "error=maybe", "skip", "skip=a;skipp=b"])
def test_options_that_are_refused(text: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        check(f"# check={text}\nFROM scratch\n")
    assert caught.value.location is not None and caught.value.location.start == 1


def test_what_can_only_fail_is_an_error() -> None:
    for line in ("ENV a=${b", "RUN --mount=type=foo x", "EXPOSE x", "ENV a=${b:?no}"):
        with pytest.raises(DockerfileError) as caught:
            check(f"FROM scratch\n{line}\n")
        assert caught.value.location is not None and caught.value.location.start == 2
    assert check("FROM debian\nENV a=${FROM_BASE:?no}\n") == ()


def test_findings_before_an_error_can_be_had() -> None:
    dockerfile = parse("FROM scratch as x\nCMD y\nENV a=${b\nWORKDIR z\n")
    findings, error = lint_until_error(dockerfile, instructions(dockerfile))
    assert [finding.rule for finding in findings] == ["FromAsCasing", "JSONArgsRecommended"]
    assert error is not None and error.location is not None and error.location.start == 3
