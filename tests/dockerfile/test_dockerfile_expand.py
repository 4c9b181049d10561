"""Which words of an instruction are expanded, and RUN's mounts."""

from __future__ import annotations

import pytest

from polyarch.dockerfile import parse
from polyarch.dockerfile.expand import Variables, expand, expand_with
from polyarch.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Env,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    OnBuild,
    Run,
    RunMount,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from polyarch.dockerfile.mounts import mount_from, parse_mount, size_in_bytes, split_fields
from polyarch.dockerfile.program import instructions
from polyarch.errors import DockerfileError

ENVIRONMENT = {"a": "A", "two": "x y", "port": "80 90/udp", "m": "/m", "t": "cache"}


def expanded(line: str, *, escape: str = "\\") -> Instruction:
    directive = "# escape=`\n" if escape == "`" else ""
    program = instructions(parse(f"{directive}FROM scratch\n{line}\n"))
    return expand(program.stages[0].instructions[0], ENVIRONMENT, escape=program.escape)


def mounts(flags: str) -> tuple[RunMount, ...]:
    run = expanded(f"RUN {flags} true")
    assert isinstance(run, Run)
    return run.mounts


def test_pairs_are_expanded_and_unquoted_but_never_split() -> None:
    env, label = expanded('ENV $a=1 b=$two c=\'$a\' d="$a\\""'), expanded("LABEL x $two  'y'")
    assert isinstance(env, Env)
    assert env.pairs == (("A", "1"), ("b", "x y"), ("c", "$a"), ("d", 'A"'))
    assert isinstance(label, Label) and label.pairs == (("x", "x y  y"),)


def test_all_words_see_the_same_environment() -> None:
    env = expanded("ENV a=B b=$a")
    assert isinstance(env, Env) and env.pairs == (("a", "B"), ("b", "A"))


def test_arguments_see_those_to_their_left() -> None:
    arg = expanded("ARG a=B b=$a c")
    assert isinstance(arg, Arg)
    assert [item.value for item in arg.arguments] == ["B", "B", None]


def test_files() -> None:
    copy = expanded("COPY --from=f --chown=$a --chmod=$two --exclude=$a $a '$a' /$a/")
    assert isinstance(copy, Copy)
    assert copy.sources == ("A", "$a") and copy.destination == "/A/"
    assert (copy.chown, copy.chmod, copy.excludes) == ("A", "x y", ("$a",))
    add = expanded("ADD --checksum=$a a b")
    assert isinstance(add, Add) and add.checksum == "A"


def test_a_variable_with_a_space_is_one_source() -> None:
    copy = expanded("COPY $two /x")
    assert isinstance(copy, Copy) and copy.sources == ("x y",)


@pytest.mark.parametrize("escape", ["\\", "`"])
def test_bodies_of_heredocs(escape: str) -> None:
    copy = expanded("COPY <<x <<'y' /z/\n'$a' \"$a\" \\$a ${no:-d} \\\\\nx\n$a\ny", escape=escape)
    assert isinstance(copy, Copy)
    assert [file.content for file in copy.inline] == ["'A' \"A\" $a d \\\n", "$a\n"]


def test_the_small_ones() -> None:
    workdir, user, signal = expanded("WORKDIR /$a"), expanded("USER $a"), expanded("STOPSIGNAL $a")
    assert isinstance(workdir, Workdir) and workdir.path == "/A"
    assert isinstance(user, User) and user.user == "A"
    assert isinstance(signal, StopSignal) and signal.signal == "A"
    volume, expose = expanded("VOLUME $a /$two"), expanded("EXPOSE 1 $port")
    assert isinstance(volume, Volume) and volume.paths == ("A", "/x y")
    assert isinstance(expose, Expose) and sorted(expose.ports) == ["1", "80", "90/udp"]


def test_what_is_not_expanded() -> None:
    cmd, health, trigger = expanded("CMD $a"), expanded("HEALTHCHECK CMD $a"), expanded("ONBUILD RUN $a")
    assert isinstance(cmd, Cmd) and cmd.command.words == ("$a",)
    assert isinstance(health, Healthcheck) and health.test == ("CMD-SHELL", "$a")
    assert isinstance(trigger, OnBuild) and trigger.expression == "RUN $a"
    run = expanded("RUN echo $a <<EOF\n$a\nEOF")
    assert isinstance(run, Run) and run.command.words == ("echo $a <<EOF",)
    assert run.command.heredocs[0].content == "$a\n"


def test_errors_point_at_the_instruction() -> None:
    with pytest.raises(DockerfileError) as caught:
        expanded("\n\nENV a=${b:?c}")
    assert caught.value.location is not None and caught.value.location.start == 4


def test_what_was_used_and_missed() -> None:
    program = instructions(parse("FROM scratch\nENV x=$a$no y=$no z=$a\n"))
    variables = Variables(ENVIRONMENT)
    expand_with(program.stages[0].instructions[0], variables)
    assert variables.used == {"a"}
    assert variables.missed == ["no", "no"]


# --- mounts ---------------------------------------------------------------------------------------------


def test_mounts() -> None:
    bind, cache, tmpfs, secret, ssh = mounts(
        "--mount=target=$m,source=x,from=f,rw"
        " --mount=type=$t,id=$a,dst=/c,sharing=LOCKED,mode=0750,uid=1,gid=2"
        " --mount=type=tmpfs,destination=/t,size=64m --mount=type=secret,id=s,env=S,required --mount=type=ssh"
    )
    assert bind == RunMount(type="bind", target="/m", source="x", from_="f", read_only=False)
    assert cache == RunMount(type="cache", id="A", target="/c", sharing="locked", mode=0o750, uid=1, gid=2)
    assert tmpfs == RunMount(type="tmpfs", target="/t", size=64 * 2**20)
    assert secret == RunMount(type="secret", id="s", env="S", required=True)
    assert ssh == RunMount(type="ssh")


@pytest.mark.parametrize(
    ("flag", "read_only"),
    [
        ("target=/x", None),
        ("target=/x,ro", True),
        ("target=/x,readonly=false", False),
        ("target=/x,readwrite", False),
        ("target=/x,rw=0", True),
    ],
)
def test_read_only(flag: str, read_only: bool | None) -> None:
    assert mounts(f"--mount={flag}")[0].read_only is read_only


def test_quoted_options_may_hold_commas() -> None:
    assert mounts("""--mount='"target=/a,b",source=c'""")[0].target == "/a,b"
    assert split_fields('"a ""quoted"" b",c') == ['a "quoted" b', "c"]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("type=foo", "type=foo is not supported"),
        ("typ=bind", "unknown option 'typ'"),
        ("target", "must be a key=value pair"),
        ("type=tmpfs,target=/x,size=big", "not a size"),
        ("target=/x,size=1m", "does not go with type=bind"),
        ("required,type=secret,id=x", "does not go with type=bind"),
        ("type=cache,target=/x,required", "does not go with type=cache"),
        ("type=cache,target=/x,sharing=alone", "sharing=alone is not supported"),
        ("target=/x,sharing=shared", "sharing does not go with type=bind"),
        ("target=/x,mode=0755", "mode does not go with type=bind"),
        ("type=tmpfs,target=/x,uid=0", "uid does not go with type=tmpfs"),
        ("type=cache,target=/x,mode=888", "mode=888 is not a number"),
        ("type=cache,target=/x,uid=-1", "uid=-1 is not a number"),
        ("type=cache,target=/x,uid=99999999999", "is not a number"),
        ("type=cache,target=/x,ro=yes", "neither true nor false"),
        ("type=secret", "needs an id or a target"),
        ("type=secret,id=a,source=b", "mean the same"),
        ("type=secret,id=a,from=b", "cannot come from a stage"),
        ("'\"target=/x'", "never closed"),
        ("'\"target\"=/x'", "goes on behind its quote"),
        ("'tar\"get=/x'", "a quote in the middle"),
    ],
)
def test_mounts_that_are_refused(flag: str, words: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        mounts(f"--mount={flag}")
    assert words in caught.value.summary
    assert caught.value.hint
    assert caught.value.location is not None


@pytest.mark.parametrize(
    ("flag", "near"), [("typ=bind", "type"), ("targt=/x", "target"), ("type=cahce", "cache")]
)
def test_mounts_did_you_mean(flag: str, near: str) -> None:
    with pytest.raises(DockerfileError) as caught:
        parse_mount(flag, str)
    assert f"did you mean {near}?" in caught.value.hint


def test_where_a_mount_comes_from() -> None:
    assert mount_from("type=bind,FROM=build,target=/x") == "build"
    assert mount_from("target=$x,ro") == ""
    assert mount_from("from=price$") == "price$"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("1b", 1),
        ("1k", 1024),
        ("1.5K", 1536),
        ("2kb", 2048),
        ("2KiB", 2048),
        ("3 m", 3 * 2**20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "k", "-1", "1x", "1kk", "1bi", "1.2.3", "1 k b", "1bib"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(DockerfileError):
        size_in_bytes(text)
