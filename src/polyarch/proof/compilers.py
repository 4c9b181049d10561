"""Compilers that can compile for another platform than the one they run on, and how they are told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from polyarch.proof.commands import is_asking


@dataclass(frozen=True)
class Compiler:
    """``native`` when what it makes is machine code."""

    name: str
    native: bool = True


GO = Compiler("Go")
RUST = Compiler("Rust")
C = Compiler("a cross compiler (gcc-…-linux-gnu, clang --target)")
ZIG = Compiler("Zig")
DOTNET = Compiler(".NET", native=False)
NODE = Compiler("Node, whose output is the same for all platforms,", native=False)
JAVA = Compiler("Java, whose output is the same for all platforms,", native=False)
PYTHON = Compiler("a generator, whose output is the same for all platforms,", native=False)
_C_COMPILERS = frozenset("gcc g++ cc c++ clang clang++ ninja".split())
_BUNDLERS = frozenset("tsc webpack vite rollup esbuild parcel ng".split())
_GRADLE = frozenset("build assemble jar bootJar shadowJar installDist distTar distZip war".split())
_PACKAGERS = frozenset("npm pnpm yarn bun".split())


def compiler_of(words: Sequence[str]) -> Compiler | None:
    """The compiler that a simple command runs, None when it runs none."""
    name, rest = words[0].rpartition("/")[2], list(words[1:])
    if is_asking(list(words)):
        return None
    verb = next((word for word in rest if not word.startswith("-")), "")
    match name:
        case "go" if verb in ("build", "install"):
            return GO
        case "cargo" if verb in ("build", "install", "b", "rustc") or verb.startswith("+"):
            return RUST
        case "rustc" if rest:
            return RUST
        case "zig" if verb in ("build", "build-exe", "build-lib", "cc", "c++"):
            return ZIG
        case "dotnet" if verb in ("build", "publish"):
            return DOTNET
        case "make" | "gmake" if verb not in ("install", "clean", "distclean", "test", "check", "help"):
            return C
        case "cmake" if "--build" in rest:
            return C
        case _ if name in _C_COMPILERS and rest:
            return C
        case _ if name in _PACKAGERS:
            return NODE if _builds(name, rest) else None
        case "npx" if verb in _BUNDLERS:
            return NODE
        case "mvn" | "mvnw" if {"package", "install", "verify", "compile"}.intersection(rest):
            return JAVA
        case "gradle" | "gradlew" if _GRADLE.intersection(rest):
            return JAVA
        case "javac" | "sbt" if rest:
            return JAVA
        case "mkdocs" | "hugo" | "jekyll" if verb in ("build", ""):
            return PYTHON
        case "sphinx-build" if rest:
            return PYTHON
        case _ if name in _BUNDLERS and verb in ("build", "", "--mode"):
            return NODE
    return None


def _builds(name: str, rest: list[str]) -> bool:
    words = [word for word in rest if not word.startswith("-")]
    if words[:1] == ["run"]:
        words = words[1:]
        return bool(words) and words[0].startswith("build")
    return name != "npm" and bool(words) and words[0] == "build"
