"""Typed instructions: what each Dockerfile instruction says, before and after its words are expanded.

``expand.expand(instruction, environment)`` returns the same instruction with every word expanded that the
reference expands (and RUN's mounts parsed); words are kept raw until then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from polyarch.dockerfile.ast import Heredoc
from polyarch.errors import Location


@dataclass(frozen=True)
class Instruction:
    """What all instructions have: where they stand, and the text for the image's history (``original``)."""

    location: Location = field(compare=False, repr=False)
    original: str


@dataclass(frozen=True)
class From(Instruction):
    """``FROM [--platform=P] BASE [AS NAME]``; ``name`` is lower case."""

    base: str
    platform: str = ""
    name: str = ""
    comment: str = ""


@dataclass(frozen=True)
class ArgDefinition:
    """One ``NAME[=default]`` of an ARG; ``value`` is None without a default."""

    name: str
    value: str | None = None
    comment: str = ""


@dataclass(frozen=True)
class Arg(Instruction):
    arguments: tuple[ArgDefinition, ...]


@dataclass(frozen=True)
class Env(Instruction):
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Label(Instruction):
    pairs: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Command:
    """A command line: JSON (``shell`` False: one word an item) or shell form (one item, the text)."""

    words: tuple[str, ...]
    shell: bool
    heredocs: tuple[Heredoc, ...] = ()


@dataclass(frozen=True)
class RunMount:
    """One ``--mount`` of RUN, parsed. None means "not given"; sizes in bytes, modes as numbers."""

    type: Literal["bind", "cache", "tmpfs", "secret", "ssh"] = "bind"
    source: str = ""
    target: str = ""
    from_: str = ""
    read_only: bool | None = None
    id: str = ""
    sharing: Literal["shared", "private", "locked"] = "shared"
    required: bool = False
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int = 0
    env: str | None = None


@dataclass(frozen=True)
class Run(Instruction):
    """``mount_flags`` are raw ``--mount`` values; ``mounts`` is filled by ``expand``."""

    command: Command
    mount_flags: tuple[str, ...] = ()
    network: str = "default"
    security: str = "sandbox"
    devices: tuple[str, ...] = ()
    mounts: tuple[RunMount, ...] = ()


@dataclass(frozen=True)
class InlineFile:
    """A heredoc as a source of COPY or ADD: the file ``name`` with ``content``."""

    name: str
    content: str
    expand: bool


@dataclass(frozen=True)
class Copy(Instruction):
    """COPY. ``chmod`` and ``chown`` are raw words ("" when not given)."""

    sources: tuple[str, ...]
    destination: str
    inline: tuple[InlineFile, ...] = ()
    from_: str = ""
    chown: str = ""
    chmod: str = ""
    link: bool = False
    parents: bool = False
    excludes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Add(Instruction):
    """ADD. ``unpack`` is None when not given (local archives are unpacked, remote ones are not)."""

    sources: tuple[str, ...]
    destination: str
    inline: tuple[InlineFile, ...] = ()
    chown: str = ""
    chmod: str = ""
    link: bool = False
    excludes: tuple[str, ...] = ()
    checksum: str = ""
    keep_git_dir: bool | None = None
    unpack: bool | None = None


@dataclass(frozen=True)
class Workdir(Instruction):
    path: str


@dataclass(frozen=True)
class User(Instruction):
    user: str


@dataclass(frozen=True)
class Volume(Instruction):
    paths: tuple[str, ...]


@dataclass(frozen=True)
class Expose(Instruction):
    """``ports`` are the raw words: ``80``, ``8000-8010/udp``."""

    ports: tuple[str, ...]


@dataclass(frozen=True)
class StopSignal(Instruction):
    signal: str


@dataclass(frozen=True)
class Cmd(Instruction):
    command: Command


@dataclass(frozen=True)
class Entrypoint(Instruction):
    command: Command


@dataclass(frozen=True)
class Shell(Instruction):
    words: tuple[str, ...]


@dataclass(frozen=True)
class Healthcheck(Instruction):
    """``test`` is docker's: ``("NONE",)``, ``("CMD", …)`` or ``("CMD-SHELL", text)``; nanoseconds."""

    test: tuple[str, ...]
    interval: int = 0
    timeout: int = 0
    start_period: int = 0
    start_interval: int = 0
    retries: int = 0


@dataclass(frozen=True)
class OnBuild(Instruction):
    """``expression`` is the instruction text that a child build executes (heredocs included)."""

    expression: str


@dataclass(frozen=True)
class Maintainer(Instruction):
    name: str


@dataclass(frozen=True)
class Stage:
    """A FROM and the instructions under it. ``index`` is 0-based; ``name`` "" when it has none."""

    index: int
    base: From
    instructions: tuple[Instruction, ...]

    @property
    def name(self) -> str:
        return self.base.name
