"""What the mounts of a RUN are on this machine: directories, layers, secrets, agents, caches."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event

from polyarch.errors import NotFoundError, PolyarchError
from polyarch.executor.spec import Bind, Mount, Overlay, SecretFile, Tmpfs
from polyarch.graph.vertex import ExecMount, ExecOp
from polyarch.ops.cache_mounts import CacheMounts
from polyarch.ops.result import digest_of, rootfs_of
from polyarch.ops.session import Session
from polyarch.solver.op import Input

SSH_DIRECTORY = "/run/buildkit"


class MountPlan:
    """Prepares the mounts of one step; what must be released afterwards is put on ``stack``."""

    def __init__(self, op: ExecOp, session: Session, stack: ExitStack, cancelled: Event) -> None:
        self.op = op
        self.session = session
        self.stack = stack
        self.cancelled = cancelled
        self.caches = CacheMounts(session.state.cache_mounts, session.layers)

    def prepare(self, inputs: Sequence[Input]) -> tuple[tuple[Mount, ...], tuple[str, ...]]:
        """The mounts in the order given, and environment variables that come with them."""
        mounts: list[Mount] = []
        environment: list[str] = []
        agents = 0
        for mount in self.op.mounts:
            match mount.type:
                case "bind":
                    mounts.append(self._bind(mount, inputs))
                case "tmpfs":
                    mounts.append(Tmpfs(mount.target, mount.size))
                case "cache":
                    mounts.append(self._cache(mount, inputs))
                case "secret":
                    self._secret(mount, mounts, environment)
                case "ssh":
                    socket = self._agent(mount, agents)
                    if socket is not None:
                        mounts.append(socket)
                        environment.append(f"SSH_AUTH_SOCK={socket.target}")
                        agents += 1
        return tuple(mounts), tuple(environment)

    def _bind(self, mount: ExecMount, inputs: Sequence[Input]) -> Mount:
        if mount.input is None:
            return Tmpfs(mount.target)
        rootfs = rootfs_of(inputs[mount.input])
        path = rootfs.resolve(mount.source)
        if rootfs.get(path) is None:
            raise NotFoundError(
                f"RUN --mount: the source {mount.source!r} is not there",
                hint="the path is relative to the source's root; .dockerignore may leave it out",
                reason="mount-source-not-found",
            )
        return Overlay(rootfs.trees(), mount.target, path, writable=not mount.read_only)

    def _cache(self, mount: ExecMount, inputs: Sequence[Input]) -> Mount:
        seed, origin = None, ""
        if mount.input is not None:
            seed, origin = rootfs_of(inputs[mount.input]), digest_of(*inputs[mount.input].identity)
        directory = self.stack.enter_context(
            self.caches.use(mount, self.op.platform, seed, self.cancelled, origin)
        )
        return Bind(directory, mount.target, read_only=mount.read_only)

    def _secret(self, mount: ExecMount, mounts: list[Mount], environment: list[str]) -> None:
        read = self.session.secrets.get(mount.id)
        if read is None:
            if mount.required:
                raise PolyarchError(
                    f"secret {mount.id}: not found",
                    hint=f"give it with --secret id={mount.id},src=FILE or id={mount.id},env=NAME",
                    reason="secret-not-found",
                )
            return
        content = read()
        if mount.env:
            environment.append(f"{mount.env}={content.decode('utf-8', 'surrogateescape')}")
        if mount.target:
            target = posixpath.join("/", self.op.directory, mount.target)
            mode = 0o400 if mount.mode is None else mount.mode
            mounts.append(SecretFile(target, content, mount.uid or 0, mount.gid or 0, mode))

    def _agent(self, mount: ExecMount, number: int) -> Bind | None:
        socket = self.session.agents.get(mount.id)
        if socket is None:
            if mount.required:
                raise PolyarchError(
                    f"ssh agent {mount.id}: not found",
                    hint=f"give it with --ssh {mount.id} or --ssh {mount.id}=SOCKET_OR_KEY",
                    reason="ssh-not-found",
                )
            return None
        target = mount.target or f"{SSH_DIRECTORY}/ssh_agent.{number}"
        return Bind(Path(socket), target, read_only=False)
