"""Typed instructions: what each accepts, and how the rest is refused."""

from __future__ import annotations

import pytest

from polyarch.dockerfile import parse
from polyarch.dockerfile.durations import parse_duration
from polyarch.dockerfile.heredoc import run_script
from polyarch.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Command,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    InlineFile,
    Instruction,
    Label,
    OnBuild,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from polyarch.dockerfile.ports import parse_port
from polyarch.dockerfile.program import Program, instructions, parse_one
from polyarch.errors import DockerfileError, Location


def program(text: str) -> Program:
    return instructions(parse(text))


def one(line: str) -> Instruction:
    return program(f"FROM scratch\n{line}\n").stages[0].instructions[0]


def refused(text: str) -> DockerfileError:
    with pytest.raises(DockerfileError) as caught:
        program(text)
    assert caught.value.location is not None
    assert caught.value.location.source == text
    return caught.value


# --- the shape of a program -----------------------------------------------------------------------------


def test_stages_and_global_arguments() -> None:
    found = program("ARG A=1 B\nARG C\nFROM debian AS Build\nRUN x\nFROM --platform=$P build\n")
    assert [[item.name for item in arg.arguments] for arg in found.arguments] == [["A", "B"], ["C"]]
    assert [(stage.index, stage.name, stage.base.base) for stage in found.stages] == [
        (0, "build", "debian"),
        (1, "", "build"),
    ]
    assert found.stages[1].base.platform == "$P"
    assert found.escape == "\\"


def test_descriptions_come_from_the_comment_above() -> None:
    found = program("# app is the service\nFROM a AS app\n# PORT to listen on\n# more\nARG PORT=80 OTHER\n")
    assert found.stages[0].base.comment == "is the service"
    argument = found.stages[0].instructions[0]
    assert isinstance(argument, Arg)
    assert [item.comment for item in argument.arguments] == ["to listen on", ""]


def test_original_text_is_joined_and_trimmed() -> None:
    assert one("  RUN a \\\n  b  ").original == "RUN a   b"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("RUN x\n", 1, "before the first FROM"),
        ("ARG x\n", 1, "no stage"),
        ("FROM a\nFROM\n", 2, "one argument or three"),
        ("FROM a b\n", 1, "one argument or three"),
        ("FROM a IS b\n", 1, "one argument or three"),
        ("FROM a AS 1b\n", 1, "not a name for a stage"),
        ("FROM a AS b/c\n", 1, "not a name for a stage"),
        ("FROM a\nFORM b\n", 2, "unknown instruction: FORM"),
        ("FROM a\n\n\nEXPOSE\n", 4, "at least one argument"),
        ("FROM a\nUSER\n", 2, "exactly one argument"),
        ("FROM a\nWORKDIR\n", 2, "exactly one argument"),
        ("FROM a\nSTOPSIGNAL\n", 2, "exactly one argument"),
        ("FROM a\nMAINTAINER\n", 2, "exactly one argument"),
        ("FROM a\nENV\n", 2, "at least one argument"),
        ("FROM a\nENV x\n", 2, "no value"),
        ("FROM a\nENV x=1 y\n", 2, "no '='"),
        ("FROM a\nLABEL =1\n", 2, "without a name"),
        ("FROM a\nARG\n", 2, "at least one argument"),
        ("FROM a\nARG =1\n", 2, "no name"),
        ("FROM a\nVOLUME []\n", 2, "at least one argument"),
        ('FROM a\nVOLUME [" "]\n', 2, "empty path"),
        ("FROM a\nSHELL /bin/sh -c\n", 2, "must be a JSON array"),
        ("FROM a\nSHELL []\n", 2, "at least one argument"),
        ("FROM a\nCOPY x\n", 2, "a source and a destination"),
        ('FROM a\nADD ["x"]\n', 2, "a source and a destination"),
        ("FROM a\nCOPY x <<EOF\nEOF\n", 2, "cannot write to a heredoc"),
        ("FROM a\nCOPY --from=$x a b\n", 2, "cannot use a variable"),
        ("FROM a\nONBUILD\n", 2, "at least one argument"),
        ("FROM a\nONBUILD ONBUILD RUN x\n", 2, "another ONBUILD"),
        ("FROM a\nONBUILD FROM x\n", 2, "cannot hold FROM"),
        ("FROM a\nONBUILD maintainer x\n", 2, "cannot hold MAINTAINER"),
        ("FROM a\nHEALTHCHECK\n", 2, "at least one argument"),
        ("FROM a\nHEALTHCHECK NONE x\n", 2, "NONE takes no arguments"),
        ("FROM a\nHEALTHCHECK RUN x\n", 2, "RUN is unknown"),
        ("FROM a\nHEALTHCHECK CMD\n", 2, "needs a command"),
        ("FROM a\nHEALTHCHECK --interval=5 CMD x\n", 2, "not a time span"),
        ("FROM a\nHEALTHCHECK --timeout=1us CMD x\n", 2, "too short"),
        ("FROM a\nHEALTHCHECK --timeout=-1s CMD x\n", 2, "too short"),
        ("FROM a\nHEALTHCHECK --retries=-1 CMD x\n", 2, "not a count"),
        ("FROM a\nHEALTHCHECK --retries=many CMD x\n", 2, "not a count"),
        ("FROM a\nRUN [1, 2]\n", 2, "strings only"),
        ("FROM a\nCMD [[]]\n", 2, "strings only"),
        ("FROM a\nRUN --network=bridge x\n", 2, "--network=bridge is not supported"),
        ("FROM a\nRUN --security=none x\n", 2, "--security=none is not supported"),
        ("FROM a\nRUN --device=gpu x\n", 2, "--device is not supported"),
        ("FROM a\nRUN --mount=from=$x,target=/y z\n", 2, "cannot use a variable"),
        ("FROM a\nRUN --mount= z\n", 2, "it is empty"),
        ("FROM a\nCOPY --link=maybe a b\n", 2, "true or false"),
        ("FROM a\nCOPY --chmod a b\n", 2, "needs a value"),
        ("FROM a\nCOPY --chmod=1 --chmod=2 a b\n", 2, "given twice"),
        ("FROM a\nUSER --x y\n", 2, "no flag --x"),
        ("FROM a\nRUN <<EOF\nx\n", 2, "never closed"),
        ("# escape=x\nFROM a\n", 1, "escape character"),
        ("# escape=`\n# escape=`\nFROM a\n", 2, "given twice"),
    ],
)
def test_what_is_refused_and_where(text: str, line: int, words: str) -> None:
    error = refused(text)
    assert words in error.summary
    assert error.location is not None and error.location.start == line
    assert error.hint
    assert error.reason != "error"


@pytest.mark.parametrize("text", ["", "\n", "# only a comment\n", "   \n\t\n"])
def test_a_file_without_instructions(text: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse(text)
    assert caught.value.reason == "empty-dockerfile"


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("RNU x", "RUN"),
        ("copi a b", "COPY"),
        ("ENTRYPONT x", "ENTRYPOINT"),
        ("COPY --form=x a b", "--from"),
        ("COPY --chowm=x a b", "--chown"),
        ("RUN --mout=x a", "--mount"),
        ("RUN --network=hots a", "host"),
        ("HEALTHCHECK --intervall=1s CMD x", "--interval"),
    ],
)
def test_did_you_mean(line: str, hint: str) -> None:
    assert f"did you mean {hint}?" in refused(f"FROM a\n{line}\n").hint


def test_a_line_that_is_too_long() -> None:
    assert parse("FROM a\nRUN " + "x" * 65531 + "\n")
    with pytest.raises(DockerfileError, match="longer than"):
        parse("FROM a\nRUN " + "x" * 65532 + "\n")


# --- instructions ---------------------------------------------------------------------------------------


def test_commands() -> None:
    shell, exec_, empty = one("RUN echo  a"), one('CMD ["a", "b c"]'), one("ENTRYPOINT []")
    assert isinstance(shell, Run) and shell.command == Command(("echo  a",), True)
    assert isinstance(exec_, Cmd) and exec_.command == Command(("a", "b c"), False)
    assert isinstance(empty, Entrypoint) and empty.command == Command((), False)


def test_run_flags() -> None:
    run = one("RUN --mount=type=cache,target=/c --mount=target=/b,from=x --network=none -- --odd")
    assert isinstance(run, Run)
    assert run.mount_flags == ("type=cache,target=/c", "target=/b,from=x")
    assert (run.network, run.security) == ("none", "sandbox")
    assert run.command.words == ("--odd",)


def test_copy() -> None:
    copy = one("COPY --from=build --chown=1:2 --chmod=0644 --link --parents --exclude=a --exclude=b x y /z/")
    assert isinstance(copy, Copy)
    assert copy.sources == ("x", "y") and copy.destination == "/z/"
    assert (copy.from_, copy.chown, copy.chmod) == ("build", "1:2", "0644")
    assert copy.link and copy.parents and copy.excludes == ("a", "b")


def test_copy_of_heredocs() -> None:
    copy = one("COPY <<a file <<-'b' /x/\none $v\na\n\ttwo\n\tb")
    assert isinstance(copy, Copy)
    assert copy.inline == (InlineFile("a", "one $v\n", True), InlineFile("b", "two\n", False))
    assert copy.sources == ("file",)


def test_add() -> None:
    add = one("ADD --checksum=sha256:x --keep-git-dir --unpack=false https://x/y /z")
    assert isinstance(add, Add)
    assert (add.checksum, add.keep_git_dir, add.unpack) == ("sha256:x", True, False)
    plain = one("ADD a b")
    assert isinstance(plain, Add)
    assert (plain.checksum, plain.keep_git_dir, plain.unpack) == ("", None, None)


def test_pairs() -> None:
    env, label = one("ENV a=1 b='2 3' c="), one("LABEL key a value with = in it")
    assert isinstance(env, Env) and env.pairs == (("a", "1"), ("b", "'2 3'"), ("c", ""))
    assert isinstance(label, Label) and label.pairs == (("key", "a value with = in it"),)


def test_arguments() -> None:
    arg = one("ARG a b= c='x y'")
    assert isinstance(arg, Arg)
    assert [(item.name, item.value) for item in arg.arguments] == [("a", None), ("b", ""), ("c", "'x y'")]


def test_the_small_ones() -> None:
    assert one("WORKDIR /a b") == Workdir(Location("", 0, 0), "WORKDIR /a b", "/a b")
    assert one("USER a:b") == User(Location("", 0, 0), "USER a:b", "a:b")
    assert one("STOPSIGNAL --ignored 9") == StopSignal(Location("", 0, 0), "STOPSIGNAL --ignored 9", "9")
    expose, volume, shell = one("EXPOSE 90 80"), one('VOLUME [" /a "]'), one('SHELL ["a"]')
    assert isinstance(expose, Expose) and expose.ports == ("80", "90")
    assert isinstance(volume, Volume) and volume.paths == ("/a",)
    assert isinstance(shell, Shell) and shell.words == ("a",)


def test_healthcheck() -> None:
    check = one('HEALTHCHECK --interval=1m --timeout=1.5s --start-period=0s --retries=3 cmd ["a", "b"]')
    assert isinstance(check, Healthcheck)
    assert check.test == ("CMD", "a", "b")
    assert (check.interval, check.timeout, check.start_period, check.retries) == (
        60 * 10**9,
        15 * 10**8,
        0,
        3,
    )
    shell, none = one("HEALTHCHECK CMD a  b"), one("healthcheck none")
    assert isinstance(shell, Healthcheck) and shell.test == ("CMD-SHELL", "a  b")
    assert isinstance(none, Healthcheck) and none.test == ("NONE",)


def test_onbuild_keeps_the_text_for_the_child() -> None:
    trigger = one("OnBuild  RUN <<EOF\nmake\nEOF")
    assert isinstance(trigger, OnBuild)
    assert trigger.expression == "RUN <<EOF\nmake\nEOF"
    child = parse_one(trigger.expression, location=Location("Dockerfile", 7, 7))
    assert isinstance(child, Run)
    assert child.command.heredocs[0].content == "make\n"
    assert child.location.start == 7


@pytest.mark.parametrize("text", ["FROM a", "RUN a\nRUN b", "ONBUILD RUN x", "NOPE x", "", "COPY a"])
def test_triggers_that_cannot_be(text: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_one(text, location=Location("Dockerfile", 3, 3))
    assert caught.value.location == Location("Dockerfile", 3, 3)


# --- what RUN executes ----------------------------------------------------------------------------------

SH = ("/bin/sh", "-c")


@pytest.mark.parametrize(
    ("line", "arguments", "script"),
    [
        ("RUN echo a", (*SH, "echo a"), None),
        ('RUN ["echo", "a"]', ("echo", "a"), None),
        ("RUN <<EOF\na\nb\nEOF", (*SH, "a\nb\n"), None),
        ("RUN <<-EOF\n\ta\n\tEOF", (*SH, "a\n"), None),
        ("RUN <<  EOF\na\nEOF", (*SH, "a\n"), None),
        ("RUN << 'E F' cat\na\nE F", (*SH, "<< 'E F' cat\na\nE F"), None),
        ("RUN <<EOF\n#!/bin/x\na\nEOF", (*SH, "/dev/pipes/EOF"), ("EOF", "#!/bin/x\na\n", 0o755)),
        ("RUN cat <<EOF\n#!x $a\nEOF", (*SH, "cat <<EOF\n#!x $a\nEOF"), None),
        ("RUN cat <<-A 3<<B\n\ta\n\tA\nb\nB", (*SH, "cat <<-A 3<<B\n\ta\nA\nb\nB"), None),
    ],
)
def test_run_script(line: str, arguments: tuple[str, ...], script: object) -> None:
    run = one(line)
    assert isinstance(run, Run)
    assert run_script(run.command, SH) == (arguments, script)


def test_a_script_cannot_leave_its_folder() -> None:
    run = one("RUN <<../x\n#!/bin/sh\n../x")
    assert isinstance(run, Run)
    with pytest.raises(DockerfileError):
        run_script(run.command, SH)


# --- values ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("1s", 10**9),
        ("1h2m3.5s", 3723500000000),
        ("-1.5h", -5400 * 10**9),
        ("+5ms", 5 * 10**6),
        (".5s", 5 * 10**8),
        ("1.s", 10**9),
        ("1µs", 1000),
        ("3us2ns", 3002),
        ("", None),
        ("1", None),
        ("s", None),
        ("1 s", None),
        ("1d", None),
        ("1s2", None),
        (".s", None),
        ("9999999999h", None),
    ],
)
def test_durations(text: str, nanoseconds: int | None) -> None:
    assert parse_duration(text) == nanoseconds


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("80", ("80/tcp",)),
        ("80/UDP", ("80/udp",)),
        ("80/", ("80/tcp",)),
        ("8-10/sctp", ("8/sctp", "9/sctp", "10/sctp")),
        ("5-5", ("5/tcp",)),
        ("0", ("0/tcp",)),
        ("65535", ("65535/tcp",)),
        ("1.2.3.4:80:90", ("90/tcp",)),
        ("[::1]:80:90/udp", ("90/udp",)),
        ("80:90", ("90/tcp",)),
        ("1-3:80", ("80/tcp",)),
    ],
)
def test_ports(text: str, ports: tuple[str, ...]) -> None:
    assert parse_port(text).ports == ports


@pytest.mark.parametrize(
    "text", ["", "x", "80/foo", "/tcp", "65536", "8-5", "-5", "5-", "x:80", "a:1:2", "1-3:80-81"]
)
def test_ports_that_are_none(text: str) -> None:
    with pytest.raises(DockerfileError):
        parse_port(text)
