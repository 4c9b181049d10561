"""How a command that compiles is told to compile for the target: the edits of its line, by language.

``Refused`` says why a command is left alone: better no suggestion than one that makes a wrong image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from polyarch.proof.compilers import DOTNET, GO, JAVA, NODE, PYTHON, RUST, ZIG, C, Compiler
from polyarch.proof.raw_commands import Edit, RawCommand, Word

_ARCHITECTURES = frozenset("amd64 arm64 arm 386 riscv64 s390x ppc64le loong64".split())
_TRIPLET = "$(cat /etc/target-triplet)"
_DEBIAN = "$(cat /etc/target-debian)"
_CASES = """\
RUN case "$TARGETARCH" in \\
      amd64) t=x86_64-linux-gnu d=amd64 ;; \\
      386) t=i686-linux-gnu d=i386 ;; \\
      arm64) t=aarch64-linux-gnu d=arm64 ;; \\
      arm) t=arm-linux-gnueabihf d=armhf ;; \\
      ppc64le) t=powerpc64le-linux-gnu d=ppc64el ;; \\
      *) t=$TARGETARCH-linux-gnu d=$TARGETARCH ;; \\
    esac \\
"""
C_SETUP = (
    _CASES
    + """\
    && echo "$t" > /etc/target-triplet && echo "$d" > /etc/target-debian \\
    && { command -v "$t-gcc" || { dpkg --add-architecture "$d" && apt-get update \\
    && apt-get install -y --no-install-recommends "crossbuild-essential-$d"; }; }
"""
)
RUST_SETUP = (
    _CASES
    + """\
    && case "$TARGETARCH" in \\
      arm) r=armv7-unknown-linux-gnueabihf ;; \\
      riscv64) r=riscv64gc-unknown-linux-gnu ;; \\
      *) r=${t%%-*}-unknown-linux-gnu ;; \\
    esac \\
    && { command -v "$t-gcc" || { apt-get update \\
    && apt-get install -y --no-install-recommends "crossbuild-essential-$d"; }; } \\
    && { ! command -v rustup || rustup target add "$r"; } \\
    && mkdir -p "${CARGO_HOME:-$HOME/.cargo}" \\
    && printf '[build]\\ntarget = "%s"\\n[target.%s]\\nlinker = "%s-gcc"\\n' "$r" "$r" "$t" \\
       >> "${CARGO_HOME:-$HOME/.cargo}/config.toml"
"""
)
_ZIG_TARGET = (
    "$(case $TARGETARCH in amd64) echo x86_64-linux-musl;; arm64) echo aarch64-linux-musl;; "
    "386) echo x86-linux-musl;; arm) echo arm-linux-musleabihf;; ppc64le) echo powerpc64le-linux-musl;; "
    "*) echo $TARGETARCH-linux-musl;; esac)"
)
_TOOLS = {
    "gcc": "gcc", "cc": "gcc", "g++": "g++", "c++": "g++", "strip": "strip", "ar": "ar", "ranlib": "ranlib",
    "ld": "ld", "objcopy": "objcopy", "nm": "nm", "pkg-config": "pkg-config",
}  # fmt: skip


class Refused(Exception):
    """Why nothing is suggested; the text ends a sentence."""


@dataclass(frozen=True)
class Stage:
    """What the rewriting asks of the stages that are moved. ``copied`` are the paths others copy out of them,
    ``settings`` environment variables that were set; ``variants`` tells whether arm is among the targets;
    ``apt`` whether packages are Debian's; ``cgo`` is what shows that Go's C compiler is needed."""

    copied: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    variants: bool = False
    apt: bool = False
    alpine: bool = False
    cgo: str = ""


@dataclass(frozen=True)
class Change:
    """Edits of one command, the arguments its stage must declare, and lines that must have run before."""

    edits: tuple[Edit, ...] = ()
    arguments: tuple[str, ...] = ()
    setup: str = ""


def change(compiler: Compiler, command: RawCommand, stage: Stage) -> Change:
    """How ``command`` compiles for the target. Refused where that cannot be told."""
    return _CHANGES[compiler](command, stage)


def _go(command: RawCommand, stage: Stage) -> Change:
    if "CGO_ENABLED=1" in {word.text for word in command.assignments.values()}:
        raise Refused("cgo needs a C compiler for the target")
    wanted = {"CGO_ENABLED": "0", "GOOS": "$TARGETOS", "GOARCH": "$TARGETARCH"}
    arguments = ["TARGETOS", "TARGETARCH"]
    if stage.variants:
        wanted["GOARM"] = "${TARGETVARIANT#v}"
        arguments.append("TARGETVARIANT")
    if stage.cgo:
        raise Refused(f"{stage.cgo} needs cgo, and that a C compiler for the target")
    if {"-race", "-linkmode=external"} & set(" ".join(command.texts).split()):
        raise Refused("the linker needs a C compiler for the target")
    for name in list(wanted):
        if (name == "CGO_ENABLED" and name in stage.settings) or "TARGET" in stage.settings.get(name, ""):
            del wanted[name]
    edits = []
    for name, value in wanted.copy().items():
        given = command.assignments.get(name)
        if given is not None:
            del wanted[name]
            if name == "GOARCH" and given.text.partition("=")[2] in _ARCHITECTURES:
                edits.append(Edit(given.start, given.end, f"GOARCH={value}"))
    if wanted:
        text = "".join(f"{name}={value} " for name, value in wanted.items())
        edits.append(Edit(command.head, command.head, text))
    verb = command.find("install")
    if verb is not None:
        if any("@" in text for text in command.texts):
            raise Refused("go install puts what it compiles for another platform into another folder")
        edits.append(Edit(verb.start, verb.end, "build -o /go/bin/"))
    return Change(tuple(edits), tuple(arguments))


def _dotnet(command: RawCommand, stage: Stage) -> Change:
    if command.find("-r", "--runtime", "-a", "--arch", "--os"):
        raise Refused("the runtime is named in the command")
    verb = command.find("restore", "build", "publish")
    assert verb is not None
    return Change((Edit(verb.end, verb.end, " -a $TARGETARCH"),), ("TARGETARCH",))


def _zig(command: RawCommand, stage: Stage) -> Change:
    if any(text.startswith(("-Dtarget", "-target", "--target")) for text in command.texts):
        raise Refused("the target is named in the command")
    verb = command.words[1]
    option = f" -Dtarget={_ZIG_TARGET}" if verb.text == "build" else f" -target {_ZIG_TARGET}"
    return Change((Edit(verb.end, verb.end, option),), ("TARGETARCH",))


def _rust(command: RawCommand, stage: Stage) -> Change:
    if stage.alpine or command.words[0].text.endswith("rustc"):
        raise Refused("Rust for other platforms needs a linker that only Debian's images have at hand")
    if "CARGO_TARGET_DIR" in stage.settings or any(text.startswith("--target") for text in command.texts):
        raise Refused("the target, or its folder, is named already")
    edits: tuple[Edit, ...] = ()
    if command.find("build", "b"):
        release = "release" if command.find("--release", "-r") else "debug"
        copy = f" && mkdir -p target/{release} && cp -a target/*-linux-*/{release}/. target/{release}/"
        edits = (Edit(command.end, command.end, copy),)
    return Change(edits, ("TARGETARCH",), RUST_SETUP)


def _c(command: RawCommand, stage: Stage) -> Change:
    if not stage.apt:
        raise Refused("cross compilers are packages of Debian's, and this image does not use apt-get")
    program = command.words[0]
    name = program.text.rpartition("/")[2]
    after = program.end
    compilers = f"CC={_TRIPLET}-gcc CXX={_TRIPLET}-g++"
    match name:
        case _ if name in _TOOLS:
            edits = [Edit(program.start, program.end, f"{_TRIPLET}-{_TOOLS[name]}")]
        case "clang" | "clang++":
            edits = [Edit(after, after, f" --target={_TRIPLET}")]
        case "make" | "gmake":
            edits = [] if _sets(command, "CC") else [Edit(after, after, f" {compilers}")]
        case "configure":
            edits = [Edit(after, after, f" --host={_TRIPLET}")]
        case "cmake" if not command.find("--build", "--install", "-E", "-P"):
            options = f"-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_C_COMPILER={_TRIPLET}-gcc"
            edits = [Edit(after, after, f" {options} -DCMAKE_CXX_COMPILER={_TRIPLET}-g++")]
        case _:
            edits = []
    return Change(tuple(edits), ("TARGETARCH",), C_SETUP)


def _sets(command: RawCommand, name: str) -> bool:
    return any(text.startswith(f"{name}=") for text in command.texts)


def _same_everywhere(command: RawCommand, stage: Stage) -> Change:
    for path in stage.copied:
        if not _is_asset(path):
            raise Refused(f"{path} is copied out, which may hold what is not the same for all platforms")
    return Change()


def _is_asset(path: str) -> bool:
    """Whether what is copied is pages, jars and the like, which no platform matters for."""
    parts = [part for part in path.lower().strip("/").split("/") if part not in ("", ".")]
    if not parts or "node_modules" in parts:
        return False
    if parts[-1].endswith((".jar", ".war", ".ear", ".html", ".js", ".css")):
        return True
    return bool(_ASSETS.intersection(parts)) or (len(parts) > 1 and parts[-2:] == ["build", "libs"])


_ASSETS = frozenset("dist public www html assets static out _site site htdocs wwwroot export".split())
_CHANGES: dict[Compiler, Callable[[RawCommand, Stage], Change]] = {
    GO: _go,
    RUST: _rust,
    C: _c,
    ZIG: _zig,
    DOTNET: _dotnet,
    NODE: _same_everywhere,
    JAVA: _same_everywhere,
    PYTHON: _same_everywhere,
}


def packages(command: RawCommand) -> Iterable[Word]:
    """The libraries to link with that an ``apt-get install`` names: the target's are needed."""
    if command.words[0].text.rpartition("/")[2] not in ("apt-get", "apt") or not command.find("install"):
        return ()
    return [w for w in command.words[1:] if w.text.endswith("-dev") and w.text.startswith(("lib", "zlib"))]


def for_target(word: Word) -> Edit:
    """A library package of the target's architecture in place of the build platform's."""
    return Edit(word.end, word.end, f":{_DEBIAN}")
