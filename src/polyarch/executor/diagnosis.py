"""What a machine offers for running steps, found out by doing it. Owns the rows of ``polyarch doctor``."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from polyarch.content.state import State
from polyarch.errors import PolyarchError
from polyarch.executor import idmap, machines, probe, syscalls
from polyarch.executor.emulator import Emulators, install_hint
from polyarch.executor.sandbox import Sandbox
from polyarch.executor.spec import Process, RootFilesystem
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform

# What most images are made for; others are shown when there is an emulator.
_USUAL = ("amd64", "386", "arm64", "arm", "riscv64", "ppc64le", "s390x")
_LITTLE_SPACE = 2 << 30


@dataclass(frozen=True)
class Finding:
    """One row. ``state``: "ok", "missing", or "optional" for what is missing and rarely needed. ``needed``:
    without it no RUN step is possible. ``remedy`` is a command or what to change."""

    subject: str
    state: Literal["ok", "missing", "optional"]
    detail: str
    remedy: str = ""
    needed: bool = False


def diagnose(state: State) -> list[Finding]:
    """Every row, in the order of a ladder: what the next ones need comes first. Takes a second or two."""
    emulators = Emulators.discover(taken=state.emulators / "taken")
    return [
        _kernel(),
        _namespaces(),
        *_ids(),
        _step(state, emulators),
        _private_handlers(),
        *_platforms(emulators),
        *_programs(),
        *_registries(),
        _space(state),
    ]


def lacking(state: State) -> list[Finding]:
    """What is missing here without which no RUN step is possible; a part of ``diagnose``."""
    rows = [
        _kernel(),
        _namespaces(),
        *_ids(),
        _step(state, Emulators.discover(taken=state.emulators / "taken")),
    ]
    return [row for row in rows if row.state == "missing" and row.needed]


def _kernel() -> Finding:
    release = os.uname().release
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdecimal())
    if numbers >= (5, 12):
        return Finding("kernel", "ok", f"Linux {release}", needed=True)
    return Finding(
        "kernel",
        "missing",
        f"Linux {release}; mounts by descriptor need 5.12",
        "use a newer kernel",
        needed=True,
    )


def _namespaces() -> Finding:
    kind = "as root" if _privileged() else "in a user namespace"
    failure = probe.run("namespaces")
    if not failure:
        return Finding("namespaces", "ok", f"mount, pid, ipc and uts namespaces, {kind}", needed=True)
    from polyarch.executor.connection import no_user_namespaces

    return Finding("namespaces", "missing", failure, no_user_namespaces(failure).hint, needed=True)


def _privileged() -> bool:
    return os.geteuid() == 0 and syscalls.may_mount()


def _ids() -> Iterator[Finding]:
    if _privileged():
        yield Finding("ids", "ok", "root: every user and group id")
        return
    try:
        users, _ = idmap.plan()
        count = sum(extent[2] for extent in users)
        yield Finding("ids", "ok", f"{count} user ids in a user namespace", needed=True)
    except idmap.NoIds as error:
        detail = f"one user id, so owners are recorded instead of given: {error.summary}"
        failure = probe.run("notification")
        if failure:
            yield Finding("ids", "missing", f"{error.summary}; and {failure}", error.hint, needed=True)
        else:
            yield Finding("ids", "optional", detail, error.hint, needed=True)


def _step(state: State, emulators: Emulators) -> Finding:
    """A whole step over an overlay: the smallest program, which ends with 0."""
    machine = machines.find(platforms.host().architecture)
    if machine is None:
        return Finding("sandbox", "missing", f"{platforms.host()} is not known here", needed=True)
    try:
        state.temporary.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="doctor.", dir=state.temporary) as name:
            folder = Path(name)
            for part in ("root", "upper", "work"):
                (folder / part).mkdir()
            (folder / "root/program").write_bytes(machine.program())
            (folder / "root/program").chmod(0o755)
            root = RootFilesystem((folder / "root",), folder / "upper", folder / "work")
            lines: list[bytes] = []
            with Sandbox.start(state, emulators=emulators) as sandbox:
                status = sandbox.run(
                    Process(("/program",), platforms.host()),
                    root,
                    (),
                    lambda _stream, data: lines.append(data),
                    threading.Event(),
                )
                sandbox.privilege.call("shutil:rmtree", str(folder / "work"), True)
        if status.code == 0:
            return Finding("sandbox", "ok", "a step ran over an overlay", needed=True)
        detail = b"".join(lines).decode(errors="replace").strip() or f"it ended with {status.code}"
        return Finding("sandbox", "missing", detail, "polyarch --debug doctor shows more", needed=True)
    except PolyarchError as error:
        return Finding("sandbox", "missing", error.summary, error.hint, needed=True)
    except OSError as error:
        remedy = "set POLYARCH_ROOT to a folder you may write"
        return Finding("sandbox", "missing", f"{state.root}: {error.strerror}", remedy, needed=True)


def _private_handlers() -> Finding:
    failure = probe.run("private-binfmt")
    if not failure:
        return Finding("handlers", "ok", "binfmt_misc in a step's own user namespace; the host needs none")
    return Finding(
        "handlers",
        "optional",
        f"no binfmt_misc of one's own ({failure}): emulation needs handlers of the host",
        "Linux 6.7 or newer; or docker run --privileged --rm tonistiigi/binfmt --install all",
    )


def _platforms(emulators: Emulators) -> Iterator[Finding]:
    names = dict.fromkeys([*_USUAL, *(e.architecture for e in emulators.found)])
    for architecture in names:
        platform = Platform(os="linux", architecture=architecture).normalized()
        strategy = emulators.strategy(platform)
        emulator = emulators.find(platform)
        detail = f"{strategy.kind}: {strategy.reason}"
        if strategy.kind == "emulated" and emulator is not None and strategy.via == "private":
            version = ".".join(str(part) for part in emulator.version())
            detail = f"emulated by {emulator.path}" + (f" {version}" if version else "")
        known = "optional" if strategy.kind == "unsupported" else "ok"
        yield Finding(str(platform), known, detail, strategy.hint)  # type: ignore[arg-type]
    if not emulators.found and not emulators.rejected:
        yield Finding("emulators", "optional", "none found", install_hint())


def _programs() -> Iterator[Finding]:
    for name, use in (
        ("crun", "--runtime crun"),
        ("runc", "--runtime runc"),
        ("docker", "--load"),
        ("podman", "--load"),
    ):
        path = idmap.find_program(name)
        if path is None:
            yield Finding(name, "optional", f"not installed; only {use} needs it")
            continue
        yield Finding(name, "ok", f"{path} {_version(path)}".rstrip())


def _version(path: str) -> str:
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, timeout=10, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return "(does not answer)"
    line = done.stdout.decode(errors="replace").partition("\n")[0].strip()
    return f"({line})" if line else ""


def _registries() -> Iterator[Finding]:
    """Who this user is to registries, and whether they agree."""
    from polyarch.registry.diagnosis import logins

    found = logins()
    for login in found:
        state: Literal["ok", "optional"] = "ok" if login.works else "optional"
        yield Finding(f"login {login.registry}", state, login.detail, login.remedy)
    if not found:
        remedy = "polyarch login REGISTRY, before pushing"
        yield Finding("logins", "optional", "no credentials for any registry", remedy)


def _space(state: State) -> Finding:
    place = state.root
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    detail = f"{free / 1e9:.1f} GB free for {state.root}"
    if free >= _LITTLE_SPACE:
        return Finding("disk", "ok", detail)
    return Finding("disk", "optional", detail, "free some space, or set POLYARCH_ROOT to a larger disk")
