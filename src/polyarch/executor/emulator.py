"""Emulators of this machine, and for each platform how its programs run here: natively, emulated, or not.

QEMU's user-mode emulators are found under the names of Debian, Fedora, Arch and Alpine and in
``$POLYARCH_QEMU_PATH`` (folders or files, separated by ``:``). They must be static: the kernel opens the
emulator ahead of time, but its libraries would be looked for in the step's root filesystem.

How an answer is found is by doing: a tiny program of the platform is run, directly and under the emulator
registered in a user namespace of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from polyarch.errors import UnsupportedError
from polyarch.executor import binfmt, machines, probe
from polyarch.executor.machines import MACHINES, Machine
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform

# What a processor may run besides its own programs, if processor and kernel were made so.
ALSO_NATIVE = {("amd64", "386"), ("arm64", "arm")}

_FOLDERS = ("/usr/local/bin", "/usr/bin", "/usr/libexec/qemu-binfmt", "/usr/lib/binfmt-support")


@dataclass(frozen=True)
class Emulator:
    """A static QEMU user-mode emulator for programs of ``machine``."""

    path: Path
    machine: Machine

    @property
    def architecture(self) -> str:
        """OCI's name of the architecture it emulates."""
        return self.machine.architecture

    def version(self) -> tuple[int, ...]:
        """QEMU's version, () when it does not say."""
        try:
            done = subprocess.run(
                [self.path, "--version"],
                capture_output=True,
                timeout=10,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            return ()
        match = re.search(rb"version (\d+)\.(\d+)(?:\.(\d+))?", done.stdout)
        return tuple(int(part) for part in match.groups() if part) if match else ()


@dataclass(frozen=True)
class Strategy:
    """How programs of a platform run here, why, and for "unsupported" what would help.

    ``via``: "private" handlers in the step's own user namespace, or the "host"'s binfmt_misc handler.
    """

    kind: Literal["native", "emulated", "unsupported"]
    reason: str
    hint: str = ""
    via: Literal["", "private", "host"] = ""


@dataclass(frozen=True)
class Emulators:
    """The emulators found on this machine. Answers are probed once and remembered; thread-safe."""

    found: tuple[Emulator, ...]
    rejected: Mapping[str, str] = field(default_factory=dict)  # OCI architecture → why one found is of no use
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)
    _answers: dict[str, Strategy] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def discover(cls, environment: Mapping[str, str] = os.environ, *, taken: Path | None = None) -> Emulators:
        """Look in the usual places and, after them, in the folder ``taken``; nothing is run yet."""
        found: list[Emulator] = []
        rejected: dict[str, str] = {}
        for machine in MACHINES:
            for candidate in _candidates(machine, environment, taken):
                flaw = _flaw(candidate)
                if not flaw:
                    found.append(Emulator(candidate, machine))
                    rejected.pop(machine.architecture, None)
                    break
                rejected.setdefault(machine.architecture, f"{candidate} {flaw}")
        return cls(tuple(found), rejected)

    def find(self, platform: Platform) -> Emulator | None:
        """The emulator for programs of ``platform``, whether or not it is needed."""
        for emulator in self.found:
            if emulator.architecture == platform.normalized().architecture:
                return emulator
        return None

    def strategy(self, platform: Platform) -> Strategy:
        """How programs of ``platform`` run on this machine. The first question for a platform takes up to
        a tenth of a second."""
        platform = platform.normalized()
        with self._lock:
            key = platform.architecture if platform.os == "linux" else platform.os + "/"
            if key not in self._answers:
                self._answers[key] = self._probe(platform)
            return self._answers[key]

    def registrations(self) -> tuple[tuple[str, str, bool], ...]:
        """(QEMU's name of the machine, real path, whether it can keep argv[0]) of every emulator but those of
        machines that run natively here: what a private binfmt_misc gets."""
        with self._lock:
            if "\0" not in self._answers:  # argv[0] is kept by emulators that know how (QEMU 6)
                self._answers["\0"] = Strategy("native", " ".join(self._modern()))
            modern = self._answers["\0"].reason.split()
        wanted = []
        for emulator in self.found:
            if not self._native(emulator.architecture):
                keep = emulator.machine.qemu in modern
                wanted.append((emulator.machine.qemu, os.path.realpath(emulator.path), keep))
        return tuple(wanted)

    def require(self, platform: Platform) -> Strategy:
        """``strategy``, but UnsupportedError where the platform cannot run."""
        strategy = self.strategy(platform)
        if strategy.kind == "unsupported":
            raise UnsupportedError(
                f"cannot run programs of {platform} on this machine: {strategy.reason}",
                hint=strategy.hint,
                reason="no-emulator",
            )
        return strategy

    def _native(self, architecture: str) -> bool:
        host = platforms.host().architecture
        if (host, architecture) in ALSO_NATIVE:
            return self.strategy(Platform(os="linux", architecture=architecture)).kind == "native"
        return host == architecture

    def _modern(self) -> Iterable[str]:
        versions: dict[Path, tuple[int, ...]] = {}
        for emulator in self.found:
            folder = emulator.path.parent
            if folder not in versions:  # emulators of one folder come from one package
                versions[folder] = emulator.version()
            if versions[folder] >= (6,):
                yield emulator.machine.qemu

    def _probe(self, platform: Platform) -> Strategy:
        if platform.os != "linux":
            return Strategy(
                "unsupported",
                f"{platform.os} programs run on {platform.os} only",
                "build such a variant without RUN steps on the target platform, or on a node of that system",
            )
        machine = machines.find(platform.architecture)
        host = platforms.host()
        if host.os == "linux" and host.architecture == platform.architecture:
            return Strategy("native", "this machine's own platform")
        if machine is None:
            return Strategy(
                "unsupported",
                f"no emulator for {platform.architecture} is known",
                "use a node of that platform",
            )
        handler = _host_handler(machine)
        likely = handler is not None or (host.architecture, machine.architecture) in ALSO_NATIVE
        if likely and not probe.run("native", machine.qemu):
            if handler is None:
                return Strategy("native", f"this processor also runs {platform.architecture} programs")
            if "F" in handler.flags and self.find(platform) is None:
                return _through_host(handler)
        return self._probe_emulator(platform, machine, handler)

    def _probe_emulator(
        self, platform: Platform, machine: Machine, handler: binfmt.HostHandler | None
    ) -> Strategy:
        emulator = self.find(platform)
        if emulator is None:
            flaw = self.rejected.get(
                machine.architecture, f"no emulator for {machine.architecture} was found"
            )
            return Strategy("unsupported", flaw, install_hint())
        failure = probe.run("binfmt", machine.qemu, str(emulator.path))
        if not failure:
            return Strategy("emulated", f"by {emulator.path}, registered for the step alone", via="private")
        if handler is not None and "F" in handler.flags:
            return _through_host(handler)
        if probe.run("private-binfmt"):
            return Strategy(
                "unsupported",
                "handlers of one's own need Linux 6.7 and user namespaces, and the host has none for "
                f"{machine.architecture} with flag F",
                "docker run --privileged --rm tonistiigi/binfmt --install "
                + machine.architecture
                + ", or install qemu-user-static with binfmt-support",
            )
        return Strategy("unsupported", f"{emulator.path} does not work: {failure}", install_hint())


def _through_host(handler: binfmt.HostHandler) -> Strategy:
    return Strategy("emulated", f"by {handler.interpreter}, registered on the host", via="host")


def _host_handler(machine: Machine) -> binfmt.HostHandler | None:
    return next((handler for handler in binfmt.host_handlers() if handler.serves(machine)), None)


def install_hint() -> str:
    """The command that installs static emulators on this distribution."""
    try:
        release = Path("/etc/os-release").read_text(errors="replace")
    except OSError:
        release = ""
    like = " ".join(re.findall(r'^ID(?:_LIKE)?="?([^"\n]*)', release, re.MULTILINE))
    for name, command in (
        ("debian", "apt-get install qemu-user-static"),
        ("fedora", "dnf install qemu-user-static"),
        ("arch", "pacman -S qemu-user-static"),
        ("suse", "zypper install qemu-linux-user"),
        ("alpine", "apk add qemu-aarch64 (and qemu-… of other architectures)"),
    ):
        if name in like:
            return f"install the emulators: {command}"
    return (
        "install the package with the static qemu-user emulators, or set POLYARCH_QEMU_PATH to their folder"
    )


def _candidates(machine: Machine, environment: Mapping[str, str], taken: Path | None) -> Iterable[Path]:
    names = (f"qemu-{machine.qemu}-static", f"qemu-{machine.qemu}", f"{machine.qemu}-binfmt-P")
    for place in filter(None, environment.get("POLYARCH_QEMU_PATH", "").split(":")):
        path = Path(place).absolute()
        if path.name in names and path.is_file():
            yield path
        yield from (path / name for name in names if (path / name).is_file())
    folders = [*environment.get("PATH", "").split(":"), *_FOLDERS, *([str(taken)] if taken else [])]
    for folder in dict.fromkeys(folder for folder in folders if folder.startswith("/")):
        yield from (Path(folder, name) for name in names if os.path.isfile(os.path.join(folder, name)))


def _flaw(path: Path) -> str:
    """Why the file cannot be a step's emulator, "" when it can."""
    try:
        with path.open("rb") as file:
            header = file.read(4096)
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    machine = machines.identify(header)
    if machine is None:
        return "is not a program"
    if machine.architecture != platforms.host().architecture:
        return f"is itself a program of {machine.architecture}"
    if machines.interpreter(header):
        return "is dynamically linked, but a step has not its libraries: a static one is needed"
    return "" if os.access(path, os.X_OK) else "is not executable"
