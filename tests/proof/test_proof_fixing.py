"""``polyarch fix``: only what needs it is changed, and only where that is sure to be right."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyarch import dockerfile
from polyarch.cli.main import main
from polyarch.content.state import State
from polyarch.dockerfile.program import instructions
from polyarch.errors import PolyarchError
from polyarch.oci.platform import Platform
from polyarch.proof.mending import mend
from polyarch.proof.raw_commands import raw_commands
from polyarch.proof.rewriting import RUST_SETUP

ARM64 = (Platform(os="linux", architecture="arm64"), Platform(os="linux", architecture="amd64"))
ENV = "CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH"
FINAL = "FROM x\nCOPY --from=b /out/app /app\n"
BUILD = "--platform=$BUILDPLATFORM"


def fixed(text: str, wanted: tuple[Platform, ...] = ARM64) -> str:
    """The text mended; mending it again changes nothing, and nothing is left that was fixed."""
    done = mend(text, wanted=wanted)
    assert done.fixed or done.text == text
    assert mend(done.text, wanted=wanted).text == done.text
    instructions(dockerfile.parse(done.text))
    return done.text


def cases() -> tuple[dict[str, tuple[str, str]], dict[str, tuple[str, str]]]:
    """fixes.txt: what becomes what, and what is left for which reason."""
    becomes, left = {}, {}
    for block in (Path(__file__).parent / "fixes.txt").read_text().split("=== ")[1:]:
        name, _, rest = block.partition("\n")
        before, _, after = rest.partition("--- ")
        if after.startswith("becomes\n"):
            after = after.removeprefix("becomes\n").replace("SETUP\n", RUST_SETUP)
            becomes[name] = (before, after)
        else:
            left[name] = (before, after.removeprefix("is left: ").strip())
    return becomes, left


CASES, LEFT = cases()


@pytest.mark.parametrize("name", CASES)
def test_it_is_mended(name: str) -> None:
    before, after = CASES[name]
    assert fixed(before) == after


@pytest.mark.parametrize("ending", ["\r\n", "\n"])
def test_ends_of_lines_stay(ending: str) -> None:
    before, after = (text.replace("\n", ending).rstrip() for text in CASES["go"])
    assert fixed(before) == after


def test_arm_has_versions() -> None:
    arm = (*ARM64, Platform.parse("linux/arm/v6"))
    text = fixed(CASES["go"][0], arm)
    assert "ARG TARGETOS TARGETARCH TARGETVARIANT\n" in text and "GOARM=${TARGETVARIANT#v} go build" in text


OTHER = {
    "FROM debian AS b\nRUN apt-get update && apt-get install -y gcc make zlib1g-dev\n"
    "RUN ./configure && make -j4 && strip /out/app\n": [
        "crossbuild-essential-$d",
        "zlib1g-dev:$(cat /etc/target-debian)\n",
        "--host=$(cat",
        "make CC=$(cat",
        "$(cat /etc/target-triplet)-strip /out/app",
    ],
    "FROM gcc:13 AS b\nRUN gcc -O2 -o /out/app a.c\n": ["RUN $(cat /etc/target-triplet)-gcc -O2 "],
    "FROM gcc AS b\nRUN cmake -B o && cmake --build o\n": ["cmake -DCMAKE_SYSTEM_NAME=Linux"],
    "FROM rust:1 AS b\nRUN cargo build --release\n": [
        "rustup target add",
        "cargo build --release && mkdir -p target/release && cp -a target/*-linux-*/release/.",
    ],
    "FROM zig AS b\nRUN zig build-exe a.zig\n": ["zig build-exe -target $(case $TARGETARCH in amd64)"],
}


@pytest.mark.parametrize("text", OTHER)
def test_other_languages(text: str) -> None:
    after = fixed(text + FINAL)
    assert after.startswith(f"FROM {BUILD} ") and "ARG TARGETARCH\n" in after
    for part in OTHER[text]:
        assert part in after


@pytest.mark.parametrize("name", LEFT)
def test_what_is_not_sure_is_left(name: str) -> None:
    text, why = LEFT[name]
    done = mend(text, wanted=ARM64)
    assert done.text == text and not done.fixed
    assert any(why in reason for _, reason in done.left), done.left


@given(st.text(alphabet=" \n\\'\"$(){}`;|&#=gobuild-A", max_size=50))
def test_no_text_crashes_it(text: str) -> None:
    raw_commands(f"RUN {text}", 0, len(text) + 4)
    try:
        mend(f"FROM go AS b\nRUN {text}\n{FINAL}", wanted=ARM64)
    except PolyarchError:
        pass  # no Dockerfile


# --- the command --------------------------------------------------------------------------------------------


def test_the_command(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before, after = CASES["comments and spacing"]
    real, file = tmp_path / "real", tmp_path / "Dockerfile"
    real.write_text(before)
    real.chmod(0o640)
    file.symlink_to("real")
    words = ["fix", str(tmp_path), "--platform", "linux/arm64,linux/amd64"]
    assert main(words) == 1 and main([*words, "--diff"]) == 1
    shown = capsys.readouterr()
    assert "-from   go   as b" in shown.out and "can be fixed: line" in shown.err
    assert real.read_text() == before
    assert main([*words, "--write"]) == 0
    assert real.read_text() == after and file.is_symlink() and real.stat().st_mode & 0o777 == 0o640
    assert main(words) == 0
    assert "nothing to fix" in capsys.readouterr().err
    assert main(["fix", "-f", str(file), str(tmp_path)]) == 0
    assert main(["fix", "--write", "-"]) == 2
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "polyarch") == [
        "Dockerfile",
        "real",
    ]


def test_go_that_needs_c(state: State, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "Dockerfile").write_text(CASES["go"][0])
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor" / "x.go").write_text('package x\nimport "C"\n')
    assert main(["fix", str(tmp_path)]) == 1
    for name, text in (
        ("main.go", 'import (\n\t"fmt"\n\t"C"\n)\n'),
        ("go.mod", "require github.com/mattn/go-sqlite3"),
    ):
        (tmp_path / name).write_text(text)
        assert main(["fix", str(tmp_path)]) == 0
        assert f"{name} needs cgo" in capsys.readouterr().err
        (tmp_path / name).unlink()


@pytest.mark.slow
@pytest.mark.userns
@pytest.mark.network
@pytest.mark.skipif(shutil.which("dpkg") is None, reason="the base is made of this Debian's packages")
def test_what_was_mended_is_built(state: State, tmp_path: Path) -> None:
    """C, emulated before, is cross-compiled; the proof looks at what comes of it."""
    import polyarch
    from polyarch.oci.platform import host

    here = host()
    other = "arm64" if here.architecture != "arm64" else "amd64"
    triplet = {"arm64": "aarch64", "amd64": "x86-64"}[other]
    packages = f"gcc-{triplet}-linux-gnu,libc6-dev-{other}-cross,dash,coreutils"
    create = ["base", "create", "base/gcc", "--platform", str(here), "--variant", "extract"]
    assert main([*create, "--scripts", "skip", "--include", packages, "-q"]) == 0
    (tmp_path / "a.c").write_text("int main(void) { return 0; }\n")
    text = "FROM base/gcc AS b\nCOPY a.c /\nRUN apt-get --version || true; gcc -static -o /app /a.c\n"
    text += 'FROM scratch\nCOPY --from=b /app /app\nENTRYPOINT ["/app"]\n'
    (tmp_path / "Dockerfile").write_text(text)
    assert main(["fix", str(tmp_path), "--write", "--platform", f"linux/{other}"]) == 0
    built = polyarch.build(tmp_path, platforms=[f"linux/{other}"], proof="strict")
    assert [one.how for one in built.platforms] == ["cross-compiled"]
