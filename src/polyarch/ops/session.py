"""What operations need from the build they belong to: stores, sources, secrets, an executor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from polyarch.content.state import State
from polyarch.content.store import Store
from polyarch.errors import NotFoundError
from polyarch.executor.spec import Executor
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.store import LayerStore
from polyarch.ops.drawings import Drawings
from polyarch.solver.cache import CacheStore

if TYPE_CHECKING:
    from polyarch.ops.twins.accelerator import Accelerator

ContextFiles = Callable[[LayerStore], Rootfs]  # the files of a context, with a store for their trees


@dataclass
class Session:
    """One build's surroundings. Secrets are read when a step asks for them and kept nowhere else.

    ``contexts`` gives the files of a named local context; ``origins`` the store behind an image's origin;
    ``executor`` starts the sandbox when the first RUN needs it; ``agents`` are ssh agents' sockets by id;
    ``proxies`` are ``NAME=value`` for RUN only; ``accelerator`` has native twins for emulated steps,
    which may be silent for ``emulator_patience`` seconds (0: for ever).
    ``resources`` are limits of every step by control groups; they change no result and are in no key.
    """

    state: State
    layers: LayerStore
    cache: CacheStore
    contexts: Mapping[str, ContextFiles]
    origins: Callable[[str], Store]
    executor: Callable[[], Executor]
    secrets: Mapping[str, Callable[[], bytes]] = field(default_factory=dict)
    agents: Mapping[str, Path] = field(default_factory=dict)
    proxies: tuple[str, ...] = ()
    allow: frozenset[str] = frozenset()
    accelerator: Accelerator | None = None
    emulator_patience: float = 0
    resources: tuple[tuple[str, int | str], ...] = ()
    drawings: Drawings = field(default_factory=Drawings)

    def context(self, name: str) -> Rootfs:
        """The files of the context ``name``."""
        try:
            opener = self.contexts[name]
        except KeyError:
            raise NotFoundError(f"there is no build context {name!r}", reason="unknown-context") from None
        return opener(self.layers)
