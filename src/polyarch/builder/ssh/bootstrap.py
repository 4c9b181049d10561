"""Making a host a node: polyarch is put into the user's own folder there, over ssh, and looked at.

Every version has a folder of its own, so that clients of several versions can use one host.
"""

from __future__ import annotations

import io
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import msgspec

from polyarch.builder.instance import NodeRecord
from polyarch.builder.node import NodeLostError
from polyarch.builder.ssh import hello
from polyarch.builder.ssh.hello import Hello
from polyarch.builder.ssh.transport import Endpoint, Ssh, hint_for, remote_line, serve_words, ssh_command
from polyarch.builder.ssh.wheels import Target, wheels_for
from polyarch.errors import PolyarchError, UnsupportedError
from polyarch.version import VERSION

OLDEST_PYTHON = (3, 11)
_PYTHONS = ("python3", "python3.14", "python3.13", "python3.12", "python3.11")
_MARK = "polyarch-host "
_ROOM = 64 << 20  # bytes that an installation takes, generously
_WITHIN = 300.0  # seconds
Tell = Callable[[str], None]


class _Facts(msgspec.Struct, frozen=True):
    system: str
    machine: str
    python: tuple[int, int, int]
    implementation: str
    executable: str
    libc: tuple[str, str]
    folder: str
    writable: bool
    free: int


def bootstrap(record: NodeRecord, tell: Tell) -> None:
    """Make sure that polyarch of this version answers on the host of ``record``.

    NodeLostError when the host cannot be reached, UnsupportedError when it lacks what polyarch needs (a
    Python, a wheel for it, room); each says what.
    """
    there = _answer(record)
    if there is not None and (there.polyarch, there.protocol) == (VERSION, hello.PROTOCOL):
        tell(f"node {record.name} runs polyarch {VERSION}")
        return
    if record.driver_opts.get("command"):
        found = f"polyarch {there.polyarch}" if there is not None else "nothing"
        raise UnsupportedError(
            f"node {record.name}: the driver option command starts {found}, and not polyarch {VERSION}",
            hint="leave that option out, and --bootstrap installs what is needed",
            reason="node-version",
        )
    if there is not None:
        tell(f"node {record.name} has polyarch {there.polyarch}, and this is {VERSION}")
    facts = _look(record)
    _check(record, facts)
    _install(record, facts, tell)
    there = _answer(record)
    if there is None or there.polyarch != VERSION:
        raise PolyarchError(
            f"node {record.name}: polyarch was installed in {facts.folder}, but does not start",
            hint=f"see what it says there: {facts.folder}/{VERSION}/bin/polyarch doctor",
            reason="node-not-installed",
        )
    tell(f"node {record.name} runs polyarch {VERSION}")


def _answer(record: NodeRecord) -> Hello | None:
    """What polyarch on the host says of itself; None where there is none."""
    pipe = Ssh(record, remote_line(record, serve_words(record)))
    try:
        return hello.read(pipe, node=True)
    except (OSError, EOFError):
        if pipe.not_installed or _too_old_to_serve(pipe):
            return None
        said = pipe.said
        raise NodeLostError(
            record.name,
            f"node {record.name} ({pipe.endpoint}) cannot be reached",
            detail=said,
            hint=hint_for(said),
        ) from None
    finally:
        pipe.close()


def _too_old_to_serve(pipe: Ssh) -> bool:
    """Whether what is there is a polyarch from before there were nodes."""
    return pipe.status in (1, 2) and "node" in pipe.said


def _look(record: NodeRecord) -> _Facts:
    """What the host is, by the newest Python it has."""
    source = shlex.quote(_installer())
    tries = f"for p in {' '.join(_PYTHONS)}; do command -v $p >/dev/null 2>&1 && $p -c {source} look; done; :"
    done = _run(record, tries)
    found = []
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        if line.startswith(_MARK):
            try:
                found.append(msgspec.json.decode(line.removeprefix(_MARK), type=_Facts))
            except msgspec.DecodeError:
                continue
    if not found:
        raise UnsupportedError(
            f"node {record.name}: there is no Python on the host",
            detail=done.stderr.decode("utf-8", "replace")[-500:],
            hint="install Python 3.11 or newer there: apt-get install python3",
            reason="no-python",
        )
    able = [facts for facts in found if facts.python[:2] >= OLDEST_PYTHON]
    return max(able or found, key=lambda facts: facts.python)


def _check(record: NodeRecord, facts: _Facts) -> None:
    """UnsupportedError with everything the host lacks."""
    lacking = []
    version = ".".join(str(number) for number in facts.python)
    if facts.system != "Linux":
        lacking.append(f"Linux: it runs {facts.system}")
    if facts.python[:2] < OLDEST_PYTHON:
        lacking.append(f"Python 3.11 or newer: it has {version}")
    if facts.implementation != "CPython":
        lacking.append(f"CPython: it has {facts.implementation}")
    if not facts.writable:
        lacking.append(f"a folder to write to: {facts.folder} is not")
    if facts.free < _ROOM:
        lacking.append(f"room: {facts.free >> 20} MiB are free in {facts.folder}, {_ROOM >> 20} are needed")
    if lacking:
        raise UnsupportedError(
            f"node {record.name}: polyarch cannot be installed on its host",
            detail="\n".join(f"it lacks {what}" for what in lacking),
            hint="mend that there, and run inspect --bootstrap again",
            reason="node-unfit",
        )


def _install(record: NodeRecord, facts: _Facts, tell: Tell) -> None:
    version = tuple(int(part) for part in facts.libc[1].split(".")[:2] if part.isdigit())
    libc_version = (version[0], version[1]) if len(version) == 2 else (0, 0)
    target = Target(facts.python[:2], facts.machine, facts.libc[0], libc_version)
    tell(f"installing polyarch {VERSION} on node {record.name} for {target}")
    out = io.BytesIO()
    with (
        tempfile.TemporaryDirectory(prefix="polyarch-wheels-") as folder,
        tarfile.open(fileobj=out, mode="w") as archive,
    ):
        for wheel in wheels_for(target, Path(folder)):
            member = tarfile.TarInfo(wheel.name)
            member.size = len(wheel.data)
            archive.addfile(member, io.BytesIO(wheel.data))
    words = [facts.executable, "-c", _installer(), "install", facts.folder, VERSION]
    done = _run(record, shlex.join(words), out.getvalue())
    if done.returncode or b"polyarch-installed" not in done.stdout:
        raise PolyarchError(
            f"node {record.name}: polyarch could not be installed there",
            detail=done.stderr.decode("utf-8", "replace")[-1000:],
            reason="node-not-installed",
        )
    tell(f"installed in {facts.folder}/{VERSION}")


def _installer() -> str:
    """The text that runs on the host."""
    return resources.files("polyarch.builder.ssh").joinpath("installer.py").read_text(encoding="utf-8")


def _run(record: NodeRecord, script: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """A line for ``sh`` on the host."""
    endpoint = Endpoint.parse(record.endpoint)
    command = ssh_command(endpoint, f"exec sh -c {shlex.quote(script)}")
    try:
        done = subprocess.run(command, input=data, capture_output=True, timeout=_WITHIN, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NodeLostError(record.name, f"node {record.name} ({endpoint}): {error}") from None
    if done.returncode == 255:
        said = done.stderr.decode("utf-8", "replace")
        raise NodeLostError(
            record.name,
            f"node {record.name} ({endpoint}) cannot be reached",
            detail=said,
            hint=hint_for(said),
        )
    return done
