"""RUN as the daemon is told of it: the process, its mounts, what it may."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from polyarch.builder.buildkit import llb_file
from polyarch.builder.buildkit.protocol import llb_pb2 as pb
from polyarch.graph.vertex import ExecMount, ExecOp
from polyarch.oci.platform import Platform
from polyarch.ops.cache_mounts import SHARED_PREFIX
from polyarch.ops.exec_mounts import SSH_DIRECTORY

_UNSET = -1
_NETWORKS = {"host": pb.NetMode.HOST, "none": pb.NetMode.NONE}
_SHARING = {"private": pb.CacheSharing.PRIVATE, "locked": pb.CacheSharing.LOCKED}
_SEED = "/cache"

Put = Callable[[pb.Op, str], str]  # adds an operation and gives its digest


def platform(wanted: Platform) -> pb.Platform:
    """A platform in their words."""
    return pb.Platform(
        architecture=wanted.architecture,
        os=wanted.os,
        variant=wanted.variant,
        os_version=wanted.os_version,
        os_features=wanted.os_features,
    )


@dataclass(frozen=True)
class Given:
    """What the client has for steps: proxy settings (``NAME=value``), and the ids of its ssh agents."""

    proxies: tuple[str, ...] = ()
    agents: frozenset[str] = frozenset()


def exec_op(op: ExecOp, digests: Sequence[str], put: Put, given: Given) -> pb.Op:
    """The step ``op`` on inputs that ``digests`` name."""
    inputs = llb_file.Inputs()
    root = pb.Mount(input=inputs.add(digests[0]), dest="/", output=0)
    mounts = [root, *_Mounts(op, digests, inputs, put).messages()]
    run = pb.ExecOp(
        meta=_meta(op, given),
        mounts=mounts,
        network=_NETWORKS.get(op.network, pb.NetMode.SANDBOXED),
        security=pb.SecurityMode.INSECURE if op.security == "insecure" else pb.SecurityMode.SANDBOX,
        secret_env=[
            pb.SecretEnv(id=mount.id, name=mount.env, optional=not mount.required)
            for mount in op.mounts
            if mount.type == "secret" and mount.env
        ],
    )
    return pb.Op(inputs=inputs.messages(), exec=run, platform=platform(op.platform))


def _meta(op: ExecOp, given: Given) -> pb.Meta:
    environment = list(op.environment)
    agents = [mount for mount in op.mounts if mount.type == "ssh"]
    if agents and agents[0].id in given.agents:
        environment.append(f"SSH_AUTH_SOCK={agents[0].target or SSH_DIRECTORY + '/ssh_agent.0'}")
    meta = pb.Meta(
        args=op.arguments,
        env=environment,
        cwd=op.directory,
        user=op.user,
        hostname=op.hostname,
        extra_hosts=[pb.HostIP(host=name, ip=address) for name, address in op.hosts],
        ulimit=[pb.Ulimit(name=name, soft=soft, hard=hard) for name, soft, hard in op.limits],
        remove_mount_stubs_recursive=True,
    )
    known = {field.name for field in pb.ProxyEnv.DESCRIPTOR.fields}
    for pair in given.proxies:
        name, _, value = pair.partition("=")
        if name.lower() in known:
            setattr(meta.proxy_env, name.lower(), value)
    return meta


class _Mounts:
    """The mounts of one step besides its root."""

    def __init__(self, op: ExecOp, digests: Sequence[str], inputs: llb_file.Inputs, put: Put) -> None:
        self._op = op
        self._digests = digests
        self._inputs = inputs
        self._put = put
        self._agents = 0

    def messages(self) -> Iterator[pb.Mount]:
        for mount in self._op.mounts:
            match mount.type:
                case "bind":
                    yield self._shown(mount, pb.MountType.BIND)
                case "cache":
                    yield self._cache(mount)
                case "tmpfs":
                    yield _tmpfs(mount.target, mount.size)
                case "secret" if mount.target:
                    yield self._secret(mount)
                case "ssh":
                    yield self._agent(mount)
        if self._op.shm_size:
            yield _tmpfs("/dev/shm", self._op.shm_size)

    def _shown(self, mount: ExecMount, kind: pb.MountType) -> pb.Mount:
        digest = self._digests[mount.input] if mount.input is not None else ""
        return pb.Mount(
            type=kind,
            input=self._inputs.add(digest),
            selector="" if mount.source == "/" else mount.source,
            dest=mount.target,
            output=_UNSET,
            readonly=mount.read_only,
        )

    def _cache(self, mount: ExecMount) -> pb.Mount:
        message = self._shown(mount, pb.MountType.CACHE)
        if mount.input is None and (mount.mode is not None or mount.uid or mount.gid):
            mode = 0o755 if mount.mode is None else mount.mode
            seed = llb_file.directory(_SEED, mode, mount.uid or 0, mount.gid or 0)
            digest = self._put(seed, "[internal] settings cache mount permissions")
            message.input, message.selector = self._inputs.add(digest), _SEED
        id = mount.id if mount.id.startswith(SHARED_PREFIX) else f"{self._op.platform}/{mount.id}"
        message.cache.CopyFrom(
            pb.CacheOpt(id=id, sharing=_SHARING.get(mount.sharing, pb.CacheSharing.SHARED))
        )
        return message

    def _secret(self, mount: ExecMount) -> pb.Mount:
        secret = pb.SecretOpt(
            id=mount.id,
            uid=mount.uid or 0,
            gid=mount.gid or 0,
            mode=0o400 if mount.mode is None else mount.mode,
            optional=not mount.required,
        )
        target = posixpath.join("/", self._op.directory, mount.target)
        return pb.Mount(type=pb.MountType.SECRET, input=_UNSET, output=_UNSET, dest=target, secret=secret)

    def _agent(self, mount: ExecMount) -> pb.Mount:
        target = mount.target or f"{SSH_DIRECTORY}/ssh_agent.{self._agents}"
        self._agents += 1
        ssh = pb.SSHOpt(
            id=mount.id,
            uid=mount.uid or 0,
            gid=mount.gid or 0,
            mode=0o600 if mount.mode is None else mount.mode,
            optional=not mount.required,
        )
        return pb.Mount(type=pb.MountType.SSH, input=_UNSET, output=_UNSET, dest=target, ssh=ssh)


def _tmpfs(target: str, size: int) -> pb.Mount:
    return pb.Mount(
        type=pb.MountType.TMPFS, input=_UNSET, output=_UNSET, dest=target, tmpfs=pb.TmpfsOpt(size=size)
    )


def caps(op: pb.Op) -> tuple[str, ...]:
    """What the daemon must be able to do for a step."""
    run = op.exec
    found = {"exec.meta.base", "exec.mount.bind"}
    words = {
        pb.MountType.CACHE: "exec.mount.cache",
        pb.MountType.TMPFS: "exec.mount.tmpfs",
        pb.MountType.SECRET: "exec.mount.secret",
        pb.MountType.SSH: "exec.mount.ssh",
    }
    for mount in run.mounts:
        found |= {words[mount.type]} if mount.type in words else set()
        found |= {"exec.mount.selector"} if mount.selector else set()
        found |= {"exec.mount.cache.sharing"} if mount.cache.sharing else set()
        found |= {"exec.mount.tmpfs.size"} if mount.tmpfs.size else set()
        if mount.type == pb.MountType.BIND and mount.output < 0 and not mount.readonly:
            found.add("exec.mount.bind.readwrite-nooutput")
    if run.network:
        found.add("exec.meta.network")
    if run.security:
        found.add("exec.meta.security")
    if run.meta.ulimit:
        found.add("exec.meta.ulimit")
    if run.meta.HasField("proxy_env"):
        found.add("exec.meta.proxyenv")
    if run.secret_env:
        found.add("exec.secretenv")
    return tuple(sorted(found))
