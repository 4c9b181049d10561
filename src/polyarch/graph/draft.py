"""An image configuration while a stage is being read: what each instruction changes, and the history."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import msgspec

from polyarch.oci.config import ContainerConfig, Healthcheck, History, ImageConfig
from polyarch.oci.platform import Platform

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHELL = ("/bin/sh", "-c")
_WINDOWS_SHELL = ("cmd", "/S", "/C")
COMMENT = "buildkit.dockerfile.v0"  # docker's tools look for it in the history


@dataclass
class Draft:
    """The mutable form of an ImageConfig. Lists and maps that are None are absent from the result."""

    platform: Platform
    author: str = ""
    user: str = ""
    working_dir: str = ""
    env: list[str] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    exposed_ports: dict[str, None] | None = None
    volumes: dict[str, None] | None = None
    labels: dict[str, str] | None = None
    healthcheck: Healthcheck | None = None
    stop_signal: str = ""
    shell: tuple[str, ...] | None = None
    args_escaped: bool = False
    on_build: list[str] = field(default_factory=list)
    history: list[History] = field(default_factory=list)
    epoch: str = ""  # RFC 3339, when SOURCE_DATE_EPOCH was given

    @classmethod
    def from_config(cls, config: ImageConfig) -> Draft:
        """What a child of the image starts with."""
        inner = config.config or ContainerConfig()
        return cls(
            platform=config.platform,
            author=config.author,
            user=inner.user,
            working_dir=inner.working_dir,
            env=None if inner.env is None else list(inner.env),
            entrypoint=inner.entrypoint,
            cmd=inner.cmd,
            exposed_ports=None if inner.exposed_ports is None else dict.fromkeys(inner.exposed_ports),
            volumes=None if inner.volumes is None else dict.fromkeys(inner.volumes),
            labels=None if inner.labels is None else dict(inner.labels),
            healthcheck=inner.healthcheck,
            stop_signal=inner.stop_signal,
            shell=inner.shell,
            args_escaped=inner.args_escaped,
            on_build=list(inner.on_build or ()),
            history=list(config.history or ()),
        )

    def clone(self) -> Draft:
        """A copy for a child stage: triggers do not carry over."""
        child = copy.copy(self)
        child.env = copy.copy(self.env)
        child.exposed_ports = copy.copy(self.exposed_ports)
        child.volumes = copy.copy(self.volumes)
        child.labels = copy.copy(self.labels)
        child.history = list(self.history)
        child.on_build = []
        return child

    def set_env(self, name: str, value: str) -> None:
        """Replace ``name`` in place, or append it."""
        self.env = self.env if self.env is not None else []
        for position, pair in enumerate(self.env):
            if pair.partition("=")[0] == name:
                self.env[position] = f"{name}={value}"
                return
        self.env.append(f"{name}={value}")

    def environment(self) -> dict[str, str]:
        """The variables by name."""
        pairs = (pair.partition("=") for pair in self.env or ())
        return {name: value for name, _, value in pairs}

    def commit(self, text: str, *, layer: bool, marked: bool = False) -> None:
        """Add a line to the history; ``marked`` ones end in docker's " # buildkit"."""
        self.history.append(
            History(
                created=self.epoch,
                created_by=text + (" # buildkit" if marked else ""),
                comment=COMMENT,
                empty_layer=not layer,
            )
        )

    def with_shell(self, text: str) -> tuple[str, ...]:
        """A shell-form command as the words to execute."""
        return (*self.shell_words, text)

    @property
    def shell_words(self) -> tuple[str, ...]:
        """What SHELL says, or the usual shell of the image's operating system."""
        return self.shell or (_WINDOWS_SHELL if self.platform.os == "windows" else _SHELL)

    def freeze(self) -> ImageConfig:
        """The configuration without layers; ``created`` and empty times in the history come later."""
        return ImageConfig(
            architecture=self.platform.architecture,
            os=self.platform.os,
            variant=self.platform.variant,
            os_version=self.platform.os_version,
            os_features=self.platform.os_features,
            author=self.author,
            config=ContainerConfig(
                user=self.user,
                exposed_ports=_set(self.exposed_ports),
                env=None if self.env is None else tuple(self.env),
                entrypoint=self.entrypoint,
                cmd=self.cmd,
                healthcheck=self.healthcheck,
                args_escaped=self.args_escaped,
                volumes=_set(self.volumes),
                working_dir=self.working_dir,
                labels=None if self.labels is None else dict(self.labels),
                stop_signal=self.stop_signal,
                on_build=tuple(self.on_build) or None,
                shell=self.shell,
            ),
            history=tuple(self.history),
        )


def _set(names: dict[str, None] | None) -> dict[str, dict[str, object]] | None:
    return None if names is None else {name: {} for name in names}


def stamped(config: ImageConfig, created: str, base_history: int) -> ImageConfig:
    """``config`` with ``created`` as its time and as that of the history lines behind ``base_history``."""
    history = tuple(
        line if position < base_history or line.created else msgspec.structs.replace(line, created=created)
        for position, line in enumerate(config.history or ())
    )
    return msgspec.structs.replace(config, created=created, history=history)
