"""The builders that are measured: each takes a context and platforms, and pushes to the same registry."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.memory import Watch

# What images are built on, made of Debian's packages: how, and for which platforms.
BASES = {
    "busybox": (["--from", "busybox"], "linux/amd64,linux/arm64"),
    "golang": (
        ["--variant", "extract", "--include", "base-files,bash,dash,coreutils,libc-bin,golang-go"],
        "linux/amd64",
    ),
}
POLYARCH = str(Path(sys.executable).with_name("polyarch"))


@dataclass(frozen=True)
class Taken:
    """What one command needed: wall-clock seconds, and the peak of proportional memory in bytes, 0 when
    the work is done by a daemon elsewhere."""

    seconds: float
    memory: int


class Builder(ABC):
    """One builder; ``failure`` says why the last build failed."""

    name = ""

    def __init__(self, registry: str) -> None:
        self.registry = registry
        self.failure = ""

    @abstractmethod
    def build(self, context: Path, platforms: Sequence[str], name: str) -> Taken | None:
        """Build ``context`` and push the result as ``name``; None when it failed."""

    def run(
        self, words: Sequence[str], *, watch: bool = False, environment: Mapping[str, str] | None = None
    ) -> Taken | None:
        """Time one command; None, with `failure` set, when it ends with an error."""
        begun = time.perf_counter()
        process = subprocess.Popen(
            words,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        watcher = Watch(process.pid) if watch else None
        output, _ = process.communicate()
        seconds = time.perf_counter() - begun
        memory = watcher.stop() if watcher else 0
        if process.returncode != 0:
            lines = output.decode(errors="replace").strip().splitlines()
            self.failure = " / ".join(lines[-3:])
            return None
        return Taken(seconds, memory)


def prepare_base(kind: str, folder: Path, registry: str) -> str:
    """A base image in the registry, made by us; its name."""
    name = f"{registry}/polyarch-bench/{kind}:latest"
    how, platforms = BASES[kind]
    words = [POLYARCH, "base", "create", name, *how]
    words += ["--platform", platforms, "--push", "--quiet"]
    environment = {**os.environ, "POLYARCH_ROOT": str(folder / "base-state")}
    subprocess.run(words, env=environment, check=True, stdout=subprocess.DEVNULL)
    return name


class Own(Builder):
    """polyarch's command line, a new process for every build, its state in ``state``."""

    name = "polyarch"

    def __init__(self, state: Path, registry: str) -> None:
        super().__init__(registry)
        self.state = state

    def build(self, context: Path, platforms: Sequence[str], name: str) -> Taken | None:
        words = [str(Path(sys.executable).with_name("polyarch")), "build", "--progress=quiet", "--push"]
        words += [
            "--platform",
            ",".join(platforms),
            "-t",
            f"{self.registry}/polyarch-bench/own-{name}",
            str(context),
        ]
        return self.run(words, watch=True, environment={"POLYARCH_ROOT": str(self.state)})


class BuildKit(Builder):
    """docker buildx with the daemon's own BuildKit."""

    name = "buildkit"

    def __init__(self, script: str, registry: str) -> None:
        super().__init__(registry)
        self.script = script

    def build(self, context: Path, platforms: Sequence[str], name: str) -> Taken | None:
        target = f"{self.registry}/polyarch-bench/buildkit-{name}"
        words = [
            self.script,
            "run",
            "docker",
            "buildx",
            "build",
            "--quiet",
            "--network=host",
            "--provenance=false",
        ]
        words += ["--platform", ",".join(platforms), "-t", target, "--push", str(context)]
        return self.run(words)


class Buildah(Builder):
    """buildah with chroot isolation and layers, which is what works where limits may not be raised."""

    name = "buildah"

    def __init__(self, script: str, registry: str) -> None:
        super().__init__(registry)
        self.script = script

    def build(self, context: Path, platforms: Sequence[str], name: str) -> Taken | None:
        target = f"{self.registry}/polyarch-bench/buildah-{name}"
        local = f"localhost/polyarch-bench-{name}"
        build = ["buildah", "build", "--quiet", "--layers", "--isolation=chroot"]
        build += ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "--tls-verify=false"]
        build += ["--platform", ",".join(platforms), "--manifest", local, str(context)]
        push = [
            "buildah",
            "manifest",
            "push",
            "--quiet",
            "--tls-verify=false",
            "--all",
            local,
            f"docker://{target}",
        ]
        forget = ["buildah", "manifest", "rm", local]
        line = f"{shlex.join(forget)} >/dev/null 2>&1; {shlex.join(build)} && {shlex.join(push)}"
        return self.run([self.script, "run", "sh", "-c", line])
