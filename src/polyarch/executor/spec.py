"""What is to be executed, as plain values: a process, its root filesystem and its mounts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Literal, Protocol

from polyarch.oci.platform import Platform


@dataclass(frozen=True)
class Identity:
    """Numeric user, group and supplementary groups inside the root filesystem."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


@dataclass(frozen=True)
class RootFilesystem:
    """An overlay: ``lowers`` lowest first, changes go to ``upper`` (with ``work`` beside it on the same
    file system). Without ``upper`` changes go to a tmpfs and are lost. ``links`` gives the owners of the
    symbolic links and fifos in it that are not root's, by path: asked for where no file can be given away."""

    lowers: tuple[Path, ...]
    upper: Path | None = None
    work: Path | None = None
    links: Callable[[], Mapping[str, tuple[int, int]]] = dict


@dataclass(frozen=True)
class Bind:
    """A host file or directory at ``target``. Missing mount points are made, and removed again after."""

    source: Path
    target: str
    read_only: bool = True
    kind: Literal["bind"] = "bind"


@dataclass(frozen=True)
class Overlay:
    """Directories joined at ``target``; ``path`` selects a file or directory inside them. Read-only, or with
    ``writable`` writes are allowed and discarded."""

    lowers: tuple[Path, ...]
    target: str
    path: str = ""
    writable: bool = False
    kind: Literal["overlay"] = "overlay"


@dataclass(frozen=True)
class Tmpfs:
    """An empty file system in memory; ``size`` in bytes, 0 for the kernel's default."""

    target: str
    size: int = 0
    mode: int = 0o1777
    kind: Literal["tmpfs"] = "tmpfs"


@dataclass(frozen=True)
class SecretFile:
    """``content`` as a file in memory that no layer and no disk ever sees."""

    target: str
    content: bytes = field(repr=False)
    uid: int = 0
    gid: int = 0
    mode: int = 0o400
    kind: Literal["secret"] = "secret"


Mount = Bind | Overlay | Tmpfs | SecretFile


@dataclass(frozen=True)
class Process:
    """One process. ``environment`` holds ``NAME=value``; its secrets never reach a log.

    ``network``: "default" and "host" share the host's network, "none" has a loopback only.
    ``security``: "sandbox" has docker's default capabilities, "insecure" all there are.
    ``terminal`` connects the caller's terminal; otherwise standard input is empty unless ``stdin`` is a
    file descriptor. An emulated process that writes nothing for ``emulator_patience`` seconds is killed (0:
    never): an emulator that hangs says nothing.
    """

    arguments: tuple[str, ...]
    platform: Platform
    environment: tuple[str, ...] = field(default=(), repr=False)
    directory: str = "/"
    identity: Identity = Identity()
    network: Literal["default", "host", "none"] = "default"
    security: Literal["sandbox", "insecure"] = "sandbox"
    hostname: str = "buildkitsandbox"
    hosts: tuple[tuple[str, str], ...] = ()  # (name, address) for /etc/hosts
    shm_size: int = 64 << 20
    limits: tuple[tuple[str, int, int], ...] = ()  # (name as ulimits have it: nofile, soft, hard); -1: none
    read_only: bool = False
    terminal: bool = False
    stdin: int | None = None
    emulator_patience: float = 0
    resources: tuple[tuple[str, int | str], ...] = ()  # limits by control groups, named as in cgroups.py


# "emulator": it was the emulator's fault; "unclear": a program got a signal, by its own fault or not.
Crash = Literal["", "emulator", "unclear"]


@dataclass(frozen=True)
class ExitStatus:
    """How a process ended: ``code`` as a shell gives it (128 + signal); whether it was emulated, and then
    what it seems to have died of, or that it was killed because it was ``silent`` for too long."""

    code: int
    emulated: bool = False
    crash: Crash = ""
    silent: bool = False
    emulation: float | None = None  # the share of its processor time that went into emulation, as sampled


Output = Callable[[int, bytes], None]  # (1 or 2, chunk): standard output or error as it comes


class Executor(Protocol):
    """Runs one process to its end; afterwards no process and no mount of it is left, whatever happened.

    UnsupportedError when this machine cannot (no namespaces, no emulator); CancelledError when ``cancelled``
    was set, after everything was killed.
    """

    def run(
        self,
        process: Process,
        root: RootFilesystem,
        mounts: tuple[Mount, ...],
        output: Output,
        cancelled: Event,
    ) -> ExitStatus: ...
