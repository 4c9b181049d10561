"""``--runtime crun|runc``: the same steps in an OCI runtime, by a bundle (OCI runtime-spec, config.md).

Our helper mounts the root filesystem in a pid and mount namespace of the step's own and starts the runtime
there, so that here too everything ends with the step. The runtime does the rest. It needs root, and programs
of another platform run only by handlers of the host: a runtime has no binfmt_misc of its own.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from threading import Event
from typing import Any

from polyarch.content.state import State
from polyarch.errors import UnsupportedError
from polyarch.executor import assembly, binfmt, capabilities, idmap, machines, seccomp
from polyarch.executor.emulator import Emulators
from polyarch.executor.sandbox import Sandbox
from polyarch.executor.spec import ExitStatus, Mount, Output, Process, RootFilesystem
from polyarch.layer.layer import Privilege

_HYBRID = b"cgroups in hybrid mode not supported"  # crun before 1.9


class RuntimeExecutor:
    """An ``Executor`` over an OCI runtime. Close it, as a ``Sandbox``."""

    def __init__(self, runtime: str, state: State, *, emulators: Emulators | None = None) -> None:
        """``runtime`` is crun, runc or the path of a program with the same command line. UnsupportedError
        when it is not there or this is not root."""
        path = runtime if "/" in runtime else idmap.find_program(runtime)
        if path is None or not os.access(path, os.X_OK):
            raise UnsupportedError(
                f"the runtime {runtime} is not installed",
                hint=f"apt-get install {runtime}, or leave out --runtime: the built-in sandbox needs none",
                reason="no-runtime",
            )
        self._path = path
        self._sandbox = Sandbox.start(state, emulators=emulators)
        if self._sandbox.userxattr:
            raise UnsupportedError(
                f"--runtime {runtime} needs root",
                hint="leave out --runtime: the built-in sandbox works for ordinary users",
                reason="runtime-needs-root",
            )

    def close(self) -> None:
        """End what still runs."""
        self._sandbox.close()

    @property
    def privilege(self) -> Privilege:
        return self._sandbox.privilege

    def run(
        self,
        process: Process,
        root: RootFilesystem,
        mounts: tuple[Mount, ...],
        output: Output,
        cancelled: Event,
    ) -> ExitStatus:
        """See ``Executor.run``. UnsupportedError for a foreign platform without a handler of the host."""
        self._check(process)
        name = f"polyarch-{secrets.token_hex(8)}"

        def adapt(step: dict[str, Any]) -> None:
            step["runtime"] = {
                "path": self._path,
                "name": name,
                "config": json.dumps(config(step, name)).encode(),
            }
            step["emulators"], step["identity_namespace"] = [], False

        refused = False

        def watch(stream: int, data: bytes) -> None:
            nonlocal refused
            refused = refused or _HYBRID in data
            output(stream, data)

        try:
            status = self._sandbox.run_step(process, root, mounts, watch, cancelled, adapt)
        finally:
            _remove_cgroups(name)
        if status.code and refused:
            raise UnsupportedError(
                f"{self._path} refuses this machine: control groups of both generations are mounted",
                hint="use a newer crun, --runtime runc, or leave out --runtime",
                reason="runtime-refuses",
            )
        return status

    def _check(self, process: Process) -> None:
        strategy = self._sandbox.emulators.require(process.platform)
        if strategy.kind == "native" or strategy.via == "host":
            return
        machine = machines.find(process.platform.normalized().architecture)
        if machine and any(h.serves(machine) and "F" in h.flags for h in binfmt.host_handlers()):
            return
        raise UnsupportedError(
            f"programs of {process.platform} cannot run in {os.path.basename(self._path)}: "
            "a runtime emulates only with handlers of the host, and there is none with flag F",
            hint="leave out --runtime (the built-in sandbox brings its own handlers), or register them: "
            "docker run --privileged --rm tonistiigi/binfmt --install all",
            reason="no-host-handler",
        )


def _remove_cgroups(name: str) -> None:
    """A runtime that was killed leaves its control groups behind."""
    base = Path("/sys/fs/cgroup")
    for folder in (base, *(base.iterdir() if base.is_dir() else ())):
        try:
            (folder / name).rmdir()
        except OSError:
            continue


# --- the bundle ---------------------------------------------------------------------------------------------


def config(step: dict[str, Any], name: str) -> dict[str, Any]:
    """The bundle's config.json. Sources of mounts are where ``bundle.prepare`` puts them."""
    uid, gid, groups = step["identity"]
    names = _every_capability() if step["insecure"] else sorted(capabilities.DOCKER_DEFAULT)
    held = names if uid == 0 else []
    spaces = ["pid", "ipc", "uts", "mount"] + (["network"] if step["network"] == "none" else [])
    linux: dict[str, Any] = {
        "namespaces": [{"type": space} for space in spaces],
        "cgroupsPath": f"/{name}",
    }
    if not step["insecure"]:
        linux |= {
            "resources": {"devices": [{"allow": False, "access": "rwm"}, *_ALLOWED_DEVICES]},
            "maskedPaths": ["/" + path for path in assembly.MASKED],
            "readonlyPaths": ["/" + path for path in assembly.READ_ONLY],
            "seccomp": _seccomp(),
        }
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": step["terminal"],
            "user": {"uid": uid, "gid": gid, "additionalGids": list(groups), "umask": 0o022},
            "args": step["arguments"],
            "env": step["environment"],
            "cwd": step["directory"],
            "capabilities": {"bounding": names, "effective": held, "permitted": held},
            "noNewPrivileges": False,
            "rlimits": [
                {"type": f"RLIMIT_{name.upper()}", "soft": soft & _UNLIMITED, "hard": hard & _UNLIMITED}
                for name, soft, hard in step["limits"]
            ],
        },
        "root": {"path": f"{step['scratch']}/root", "readonly": step["read_only"]},
        "hostname": step["hostname"],
        "mounts": [*_system_mounts(step), *_mounts(step)],
        "linux": linux,
    }


_UNLIMITED = (1 << 64) - 1  # what -1 is to a runtime
_ALLOWED_DEVICES = [
    {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"}
    for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2), (136, -1))
]


# In the order of their numbers. Runtimes refuse names they do not know, so the list ends at Linux 5.7.
_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
    "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
    "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
    "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ"
)


def _every_capability() -> list[str]:
    have = capabilities.permitted()
    return ["CAP_" + name for number, name in enumerate(_CAPABILITIES.split()) if have >> number & 1]


def _system_mounts(step: dict[str, Any]) -> list[dict[str, Any]]:
    def mount(target: str, kind: str, *options: str) -> dict[str, Any]:
        return {"destination": target, "type": kind, "source": kind, "options": list(options)}

    return [
        mount("/proc", "proc", "nosuid", "noexec", "nodev"),
        mount("/dev", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount("/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
        mount("/dev/shm", "tmpfs", "nosuid", "noexec", "nodev", "mode=1777", f"size={step['shm_size']}"),
        mount("/dev/mqueue", "mqueue", "nosuid", "noexec", "nodev"),
        mount("/sys", "sysfs", "nosuid", "noexec", "nodev", "ro"),
    ]


def _mounts(step: dict[str, Any]) -> list[dict[str, Any]]:
    found = [
        _bind(f"{step['scratch']}/etc{index}", target, read_only=True)
        for index, target in enumerate(step["files"])
    ]
    for index in sorted(range(len(step["mounts"])), key=lambda i: step["mounts"][i]["target"].count("/")):
        one = step["mounts"][index]
        if one["kind"] == "tmpfs":
            options = ["nosuid", "nodev", f"mode={one['mode']:o}"]
            options += [f"size={one['size']}"] if one["size"] else []
            found.append(
                {"destination": one["target"], "type": "tmpfs", "source": "tmpfs", "options": options}
            )
            continue
        read_only = {
            "bind": one.get("read_only", True),
            "overlay": not one.get("writable", False),
            "secret": True,
        }[one["kind"]]
        found.append(_bind(f"{step['scratch']}/mount{index}", one["target"], read_only=read_only))
    return found


def _bind(source: str, target: str, *, read_only: bool) -> dict[str, Any]:
    options = ["rbind", "rprivate", "ro" if read_only else "rw"]
    return {"destination": target, "type": "bind", "source": source, "options": options}


def _seccomp() -> dict[str, Any]:
    # One rule for each kind of namespace: a masked comparison tells one value from the rest.
    spaces = [
        {
            "names": ["clone"],
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": 1,
            "args": [{"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}],
        }
        for flag in seccomp.NAMESPACES
    ]
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [
            {"names": seccomp.refused_names(), "action": "SCMP_ACT_ERRNO", "errnoRet": 1},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
            *spaces,
        ],
    }
