"""Mistakes of multi-platform Dockerfiles: found where they are made, and nowhere else."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from polyarch import dockerfile
from polyarch.dockerfile.lint import Finding
from polyarch.dockerfile.program import instructions
from polyarch.errors import NotFoundError, PolyarchError
from polyarch.graph.convert import BaseImage, convert
from polyarch.graph.stages import NamedContext, Options, plan_stages
from polyarch.graph.vertex import Graph
from polyarch.oci import platform as platforms
from polyarch.oci.config import ContainerConfig, ImageConfig
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform
from polyarch.proof.commands import commands_of
from polyarch.proof.compilers import compiler_of
from polyarch.proof.mistakes import RULES, find_mistakes

ROOT = Path(__file__).parents[2]
AMD64, ARM64 = (Platform(os="linux", architecture=name) for name in ("amd64", "arm64"))
ARMV6 = Platform.parse("linux/arm/v6")
PINNED = "sha256:" + "1" * 64
INDEX = "sha256:" + "2" * 64


class Bases:
    """Any image for any platform; one that is pinned is what its digest says."""

    def image(self, reference: str, platform: Platform) -> BaseImage:
        if reference == "gone":
            raise NotFoundError("gone")
        name, _, digest = reference.partition("@")
        layer = "sha256:" + "a" * 64
        return BaseImage(
            f"{name}@{digest or INDEX}",
            "local",
            PINNED if digest == PINNED else f"sha256:{platform.architecture:0>64}",
            (Descriptor(media_type="application/vnd.oci.image.layer.v1.tar", digest=layer, size=1),),
            (layer,),
            ImageConfig(architecture=platform.architecture, os="linux", config=ContainerConfig()),
        )

    def in_layout(self, location: str, platform: Platform) -> BaseImage:
        return self.image(location, platform)


def runs_natively(platform: Platform) -> bool:
    return platforms.choose(AMD64, [platform]) is not None


def mistakes(
    text: str, *wanted: Platform, target: str = "", build_args: dict[str, str] | None = None
) -> tuple[Finding, ...]:
    """As on an amd64 machine."""
    parsed = dockerfile.parse(text, file="Dockerfile")
    program = instructions(parsed)
    options = Options(
        build_platform=AMD64,
        target=target,
        build_args=build_args or {},
        context=NamedContext("context", "local", "."),
        several_platforms=len(wanted) > 1,
    )
    plans = [plan_stages(program, options, platform) for platform in wanted]
    graph = Graph()
    for plan in plans:
        convert(plan, graph, Bases())
    return find_mistakes(parsed, plans, runs_natively)


def found(text: str, *wanted: Platform, **more: str) -> list[tuple[str, int]]:
    return [
        (finding.rule, finding.location.start)
        for finding in mistakes(text, *(wanted or (AMD64, ARM64)), **more)  # type: ignore[arg-type]
    ]


WRONG: dict[str, tuple[str, str, int]] = {
    "go": ("EmulatedCompiler",
           "FROM golang AS b\nRUN go build -o /out/app .\nFROM x\nCOPY --from=b /out/app /\n", 2),
    "rust": ("EmulatedCompiler", "FROM rust\nRUN cargo build --release\n", 2),
    "c": ("EmulatedCompiler", "FROM gcc\nRUN apt-get update && gcc -O2 -o /a a.c\n", 2),
    "make": ("EmulatedCompiler", "FROM gcc\nRUN ./configure && make -j4 && make install\n", 2),
    "cmake": ("EmulatedCompiler", "FROM gcc\nRUN cmake -B b && cmake --build b\n", 2),
    "zig": ("EmulatedCompiler", "FROM zig\nRUN zig build-exe x.zig\n", 2),
    "dotnet": ("EmulatedCompiler", "FROM sdk\nRUN dotnet publish -c Release\n", 2),
    "node": ("EmulatedCompiler", "FROM node\nRUN npm ci && npm run build\n", 2),
    "yarn": ("EmulatedCompiler", "FROM node\nRUN yarn build\n", 2),
    "exec form": ("EmulatedCompiler", 'FROM golang\nRUN ["go", "build", "."]\n', 2),
    "heredoc": ("EmulatedCompiler", "FROM golang\nRUN <<E\nset -e\nCGO_ENABLED=0 go build .\nE\n", 2),
    "behind assignments": ("EmulatedCompiler", "FROM golang\nRUN A=b GOFLAGS='-x y' time go build\n", 2),
    "on a stage before": ("EmulatedCompiler", "FROM golang AS a\nFROM a\nRUN go install ./...\n", 3),
    "final stage": ("FinalStageOnBuildPlatform", "FROM --platform=$BUILDPLATFORM x\nCOPY a /\n", 1),
    "final stage, inherited": ("FinalStageOnBuildPlatform",
                               "FROM --platform=${BUILDPLATFORM} x AS a\nFROM a\nCOPY a /\n", 1),
    "URL": ("HardCodedArchitecture", "FROM x\nRUN curl -LO https://e.org/t-linux-amd64.tar.gz\n", 2),
    "URL of ADD": ("HardCodedArchitecture", "FROM x\nADD https://e.org/t_x86_64.tgz /\n", 2),
    "package": ("HardCodedArchitecture", "FROM x\nRUN dpkg -i tool_1.2_amd64.deb\n", 2),
    "GOARCH": ("HardCodedArchitecture",
               "FROM --platform=$BUILDPLATFORM go AS b\nARG TARGETARCH\nRUN GOARCH=amd64 go build\n"
               "FROM x\nCOPY --from=b /o /\n", 3),
    "GOARCH in ENV": ("HardCodedArchitecture", "FROM x\nENV GOOS=linux GOARCH=amd64\n", 2),
    "uname": ("UnameUnderCross", "FROM --platform=$BUILDPLATFORM x AS b\nARG TARGETARCH\n"
              "RUN curl -o /o https://e.org/$(uname -m)\nFROM x\nCOPY --from=b /o /\n", 3),
    "dpkg": ("UnameUnderCross", "FROM --platform=$BUILDPLATFORM x AS b\nARG TARGETARCH\n"
             "RUN A=$(dpkg --print-architecture) && echo $A\nFROM x\nCOPY --from=b /o /\n", 3),
    "not declared": ("PlatformArgumentNotDeclared", "FROM x\nRUN curl https://e.org/$TARGETARCH\n", 2),
    "declared too late": ("PlatformArgumentNotDeclared",
                          "FROM x\nRUN echo ${TARGETPLATFORM}\nARG TARGETPLATFORM\n", 2),
    "declared above FROM only": ("PlatformArgumentNotDeclared",
                                 "ARG TARGETARCH\nFROM x\nRUN echo $TARGETARCH\n", 3),
    "pinned": ("BasePinnedToOnePlatform", f"FROM x@{PINNED}\nCOPY a /\n", 1),
    "copied binaries": ("CopyOfBuildPlatformBinaries",
                        "FROM --platform=$BUILDPLATFORM golang AS b\nRUN go build -o /out/app\n"
                        "FROM x\nCOPY --from=b /out/app /usr/local/bin/app\n", 4),
    "copied tools": ("CopyOfBuildPlatformBinaries",
                     "FROM --platform=$BUILDPLATFORM alpine AS t\nRUN apk add curl\n"
                     "FROM x\nCOPY --from=t /usr/bin/curl /usr/bin/curl\n", 4),
}  # fmt: skip

RIGHT: dict[str, str] = {
    "cross-compiled": "FROM --platform=$BUILDPLATFORM golang AS b\nARG TARGETOS TARGETARCH\n"
    "RUN GOOS=$TARGETOS GOARCH=$TARGETARCH go build -o /out/app\nFROM x\nCOPY --from=b /out/app /bin/app\n",
    "assets": "FROM --platform=$BUILDPLATFORM node AS b\nRUN npm ci && npm run build\n"
    "FROM nginx\nCOPY --from=b /src/dist /usr/share/nginx/html\n",
    "scripts": "FROM --platform=$BUILDPLATFORM x AS b\nRUN make\n"
    "FROM y\nCOPY --from=b /out/run.sh /bin/run.sh\n",
    "jar": "FROM --platform=$BUILDPLATFORM maven AS b\nRUN mvn package\n"
    "FROM jre\nCOPY --from=b /src/target/app.jar /app.jar\n",
    "a generator": "FROM --platform=$BUILDPLATFORM golang AS b\nRUN go install e.org/hugo@latest && hugo\n"
    "FROM x\nCOPY --from=b /public /srv/www\n",
    "asking": "FROM gcc\nRUN command -v gcc || true; gcc --version; go version; make --version\n",
    "installing": "FROM x\nRUN apt-get update && apt-get install -y gcc make golang cargo\n",
    "talking": "FROM x\nRUN echo 'run go build && make' > README # go build\n",
    "python": "FROM python\nRUN pip install -r requirements.txt && python -m compileall .\n",
    "chosen by architecture": "FROM x\nARG TARGETARCH\n"
    "RUN case $TARGETARCH in amd64) A=x86_64;; arm64) A=aarch64;; esac;"
    " curl https://e.org/t-$A.tgz\n",
    "chosen by uname": "FROM x\nRUN curl https://e.org/t-$(uname -m)-amd64-compatible.tgz\n",
    "several architectures": "FROM x\nRUN curl -O https://e.org/t-amd64 -O https://e.org/t-arm64\n",
    "a stage for each": "FROM x AS fetch-amd64\nADD https://e.org/t-amd64 /t\nFROM x AS fetch-arm64\n"
    "ADD https://e.org/t-arm64 /t\nARG TARGETARCH\nFROM fetch-${TARGETARCH}\n",
    "tools of the builder": "FROM --platform=$BUILDPLATFORM x AS b\n"
    "RUN curl https://e.org/$(uname -m)/protoc\n"
    "ARG TARGETARCH\nRUN protoc --for $TARGETARCH\nFROM x\nCOPY --from=b /o /\n",
    "declared": "FROM x\nARG TARGETARCH\nARG TARGETVARIANT=v1\nRUN echo $TARGETARCH${TARGETVARIANT}\n",
    "declared in a parent": "FROM x AS a\nARG TARGETARCH\nFROM a\nRUN echo $TARGETARCH\n",
    "set in the shell": "FROM x\nRUN TARGETARCH=$(dpkg --print-architecture); echo $TARGETARCH\n",
    "with a default": "FROM x\nRUN echo ${TARGETARCH:-$(uname -m)} ${BUILDPLATFORM-unset}\n",
    "escaped": "FROM x\nRUN echo \\$TARGETARCH\n",
    "pinned by its index": f"FROM x@{INDEX}\nCOPY a /\n",
    "scratch": "FROM --platform=$BUILDPLATFORM x AS b\nRUN true\nFROM scratch\nCOPY --from=b /data /\n",
    "skipped in the file": "# check=skip=EmulatedCompiler\nFROM golang\nRUN go build\n",
    "skipped above": "FROM golang\n# check=skip=EmulatedCompiler\nRUN go build\n",
    "all skipped": "# check=skip=all\nFROM golang\nRUN go build\n",
    "an unused stage": "FROM golang AS unused\nRUN go build\nFROM x\nCOPY a /\n",
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_found(name: str) -> None:
    rule, text, line = WRONG[name]
    assert found(text) == [(rule, line)]


ON_BUILD = "FROM --platform=$BUILDPLATFORM x AS b\nARG TARGETARCH\n"
VARIANTS = {
    "RUN curl https://e.org/t-$TARGETARCH": True,
    "ADD https://e.org/t-$TARGETARCH /t": True,
    "RUN case $TARGETARCH in arm) get armv7;; esac": True,
    "RUN echo $TARGETARCH": False,
    "ARG TARGETVARIANT\nRUN curl https://e.org/t-$TARGETARCH$TARGETVARIANT": False,
}


@pytest.mark.parametrize("command", VARIANTS)
def test_versions_of_arm(command: str) -> None:
    text = f"{ON_BUILD}{command}\nFROM y\nCOPY --from=b /t /t\n"
    for wanted in (Platform.parse("linux/arm/v6"), Platform.parse("linux/arm/v5")):
        rules = [rule for rule, _ in found(text, AMD64, wanted)]
        assert ("VariantIgnored" in rules) == VARIANTS[command]
    assert found(text, AMD64, ARM64, Platform.parse("linux/arm/v7")) == []


CACHES = {
    "make CC=$TARGETARCH-gcc": ("/src/build", True),
    "make CC=$TARGETARCH-gcc ": ("/root/.ccache", False),
    "cmake --build /b # $TARGETARCH": ("/b", False),
    "cmake --build /b -D$TARGETARCH": ("/b", True),
    "cargo build --target $TARGETARCH": ("/src/target", False),
    "X=$TARGETARCH cargo build": ("/src/target", True),
    "GOARCH=$TARGETARCH go build": ("/root/.cache/go-build", False),
    "make": ("/src/build", False),
}


@pytest.mark.parametrize("command", CACHES)
def test_caches_of_several_targets(command: str) -> None:
    place, wrong = CACHES[command]
    for mount, expected in ((f"target={place}", wrong), (f"id=x-$TARGETARCH,target={place}", False)):
        text = f"{ON_BUILD}RUN --mount=type=cache,{mount} {command}\n"
        assert ("SharedCache" in [r for r, _ in found(text + "FROM y\nCOPY --from=b /t /t\n")]) == expected


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_passes(name: str) -> None:
    assert found(RIGHT[name]) == []


@pytest.mark.parametrize("name", [name for name in WRONG if name != "pinned"])
def test_they_matter_only_for_other_platforms(name: str) -> None:
    assert found(WRONG[name][1], AMD64) == []
    assert found(WRONG[name][1], ARM64) == [(WRONG[name][0], WRONG[name][2])]


def test_a_stage_that_is_asked_for_is_no_final_stage() -> None:
    text = "FROM --platform=$BUILDPLATFORM x AS test\nRUN true\nFROM x\nCOPY a /\n"
    assert found(text, target="test") == []


def test_lines_are_suggested() -> None:
    text = "FROM golang:1.22 AS b\nWORKDIR /src\nRUN CGO_ENABLED=0 go build -o /o .\n"
    (finding,) = mistakes(text, ARM64)
    assert finding.message.endswith("do so in a stage of its own, and copy what it makes")
    (finding,) = mistakes(text + "FROM x\nCOPY --from=b /o /o\n", ARM64)
    assert finding.message.splitlines()[1:] == [
        "- FROM golang:1.22 AS b",
        "+ FROM --platform=$BUILDPLATFORM golang:1.22 AS b",
        "- RUN CGO_ENABLED=0 go build -o /o .",
        "+ ARG TARGETOS TARGETARCH",
        "+ RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -o /o .",
    ]


@pytest.mark.parametrize("example", sorted(ROOT.glob("examples/*/Dockerfile")), ids=lambda p: p.parent.name)
def test_no_alarm_in_the_examples(example: Path) -> None:
    assert found(example.read_text()) == []


def test_no_alarm_in_the_cases() -> None:
    alarms: list[tuple[str, str, str, int]] = []
    looked_at = 0
    for path in sorted((ROOT / "tests" / "cases").glob("*.toml")):
        for case in tomllib.loads(path.read_text()).get("case", []):
            if isinstance(text := case.get("dockerfile"), str):
                looked_at += 1
                try:
                    alarms += [(path.name, case["name"], *alarm) for alarm in found(text)]
                except PolyarchError:
                    continue  # cases of Dockerfiles that are wrong
    assert alarms == [] and looked_at > 300


def test_every_mistake_has_its_page() -> None:
    for rule in RULES:
        page = (ROOT / "docs" / "mistakes" / f"{rule}.md").read_text()
        wrong, right = re.findall(r"```dockerfile\n(.*?)```", page, flags=re.S)
        assert rule in [name for name, _ in found(wrong.replace("DIGEST", "1" * 64), AMD64, ARM64, ARMV6)]
        assert found(right.replace("DIGEST", "2" * 64), AMD64, ARM64) == [], rule
        assert f"({rule}.md)" in (ROOT / "docs" / "mistakes" / "README.md").read_text()


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("a b && c; d | e", [["a", "b"], ["c"], ["d"], ["e"]]),
        ("if x; then A=1 make y; fi", [["x"], ["make", "y"], ["fi"]]),
        ("echo 'a && b' c", [["echo", "a && b", "c"]]),
        ("X=$(uname -m)", [["uname", "-m"]]),
        ("", []),
    ],
)
def test_commands(text: str, commands: list[list[str]]) -> None:
    assert list(commands_of(text)) == commands


@pytest.mark.parametrize(
    ("words", "is_one"),
    [
        ("go build", True), ("go vet", False), ("go mod download", False),
        ("/usr/local/go/bin/go build", True),
        ("gcc a.c", True), ("gcc", False), ("gcc --version", False), ("make install", False), ("make", True),
        ("npm ci", False), ("npm run build:css", True), ("npm run test", False), ("yarn install", False),
        ("pnpm run build", True), ("npx tsc -p .", True), ("cargo fetch", False), ("dotnet restore", False),
    ],
)  # fmt: skip
def test_compilers(words: str, is_one: bool) -> None:
    assert (compiler_of(words.split()) is not None) == is_one
