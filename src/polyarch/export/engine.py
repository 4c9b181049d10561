"""``--load``: hand an image to the container engine of this machine, docker or podman.

A docker with the containerd image store, and podman through a manifest list, hold every platform; an older
docker holds one. What an engine cannot take is said, never dropped silently.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from polyarch.content.store import Store
from polyarch.errors import PolyarchError, UnsupportedError
from polyarch.export.archives import Content, write_docker, write_oci
from polyarch.export.result import ExportedPlatform
from polyarch.oci import platform as platforms
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference

_ANSWER_WITHIN = 20.0  # seconds for an engine to say what it is
_LOAD_WITHIN = 1800.0


@dataclass(frozen=True)
class Engine:
    """A container engine that answers. ``every_platform`` says whether it can hold an index."""

    kind: Literal["docker", "podman"]
    command: tuple[str, ...]
    every_platform: bool


@dataclass(frozen=True)
class Loaded:
    """What an engine took; ``left_out`` are platforms it cannot hold beside the one it got."""

    engine: Engine
    platforms: tuple[Platform, ...]
    left_out: tuple[Platform, ...] = ()

    def __str__(self) -> str:
        text = f"loaded into {self.engine.kind}"
        if self.left_out:
            names = ", ".join(str(platform) for platform in self.left_out)
            taken = ", ".join(str(platform) for platform in self.platforms)
            text += f" for {taken} only (its image store holds one platform; not loaded: {names})"
        return text


def find(context: str = "") -> Engine:
    """The engine ``--load`` means: docker where it answers, else podman. ``context`` is a docker context.
    UnsupportedError says what was tried."""
    tried = []
    if shutil.which("docker"):
        command = ("docker", *(("--context", context) if context else ()))
        engine, why = _docker(command)
        if engine is not None:
            return engine
        tried.append(f"docker: {why}")
    else:
        tried.append("docker: the command is not installed")
    if not context and shutil.which("podman"):
        engine, why = _podman(("podman",))
        if engine is not None:
            return engine
        tried.append(f"podman: {why}")
    elif not context:
        tried.append("podman: the command is not installed")
    raise UnsupportedError(
        "there is no container engine to load the image into",
        detail="\n".join(tried),
        hint="the image is in the local store: 'polyarch run' runs it, 'polyarch save' writes an archive",
        reason="no-engine",
    )


def load(
    engine: Engine,
    store: Store,
    whole: Descriptor,
    variants: Sequence[ExportedPlatform],
    names: Sequence[Reference],
) -> Loaded:
    """Give the image to ``engine`` under ``names``. PolyarchError shows what the engine said."""
    every = tuple(variant.platform for variant in variants)
    if len(variants) == 1 or engine.every_platform:
        if engine.kind == "podman" and len(variants) > 1:
            _podman_list(engine, store, variants, names)
        else:
            _docker_load(engine, store, whole, names, single=len(variants) == 1)
        return Loaded(engine, every)
    position = platforms.choose(platforms.host(), every)
    if position is None:
        there = ", ".join(str(platform) for platform in every)
        raise UnsupportedError(
            f"{engine.kind} holds one platform per image, and none of {there} is this machine's",
            hint="build for this machine's platform, or turn on docker's containerd image store",
            reason="no-platform",
        )
    chosen = variants[position]
    _docker_load(engine, store, chosen.manifest, names, single=True)
    left_out = tuple(platform for platform in every if platform != chosen.platform)
    return Loaded(engine, (chosen.platform,), left_out)


def _docker(command: tuple[str, ...]) -> tuple[Engine | None, str]:
    code, output, problem = _ask((*command, "info", "--format", "{{json .}}"))
    try:
        answer = json.loads(output) if output.strip() else {}
    except ValueError:
        answer = {}
    if not isinstance(answer, dict):
        answer = {}
    if answer.get("host") and "ServerVersion" not in answer:
        # podman's docker lookalike
        engine, _ = _podman(command)
        return engine, problem
    errors = answer.get("ServerErrors") or []
    if code != 0 or errors or not answer.get("ServerVersion"):
        said = "; ".join(str(error) for error in errors) or problem or "the daemon does not answer"
        return None, said.strip()
    status = answer.get("DriverStatus") or []
    containerd = ["driver-type", "io.containerd.snapshotter.v1"] in status
    return Engine("docker", command, containerd), ""


def _podman(command: tuple[str, ...]) -> tuple[Engine | None, str]:
    code, _, problem = _ask((*command, "info", "--format", "{{.Host.Arch}}"))
    if code != 0:
        return None, problem or "it does not answer"
    return Engine("podman", command, True), ""


def _docker_load(
    engine: Engine, store: Store, root: Descriptor, names: Sequence[Reference], *, single: bool
) -> None:
    write = write_docker if single else write_oci
    content = Content(root, names)
    _feed(engine, ("load",), lambda sink: write(store, [content], sink))


def _podman_list(
    engine: Engine, store: Store, variants: Sequence[ExportedPlatform], names: Sequence[Reference]
) -> None:
    """podman loads one variant at a time; a list under the names joins them. The list's digest is podman's
    own, the variants' are ours."""
    if not names:
        raise UnsupportedError(
            "podman keeps several platforms only under a name",
            hint="add -t NAME",
            reason="no-name",
        )
    with tempfile.TemporaryDirectory(prefix="polyarch-load-") as folder:
        archives = []
        for variant in variants:
            path = Path(folder) / f"{variant.manifest.digest.partition(':')[2]}.tar"
            with path.open("wb") as sink:
                write_oci(store, [Content(variant.manifest)], sink)
            archives.append(path)
        for name in names:
            _tell(engine, "manifest", "rm", str(name), may_fail=True)
            _tell(engine, "rmi", str(name), may_fail=True)
            _tell(engine, "manifest", "create", str(name))
            for path in archives:
                _tell(engine, "manifest", "add", str(name), f"oci-archive:{path}")


def _feed(engine: Engine, arguments: Sequence[str], produce: Callable[[BinaryIO], None]) -> None:
    command = [*engine.command, *arguments]
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
        )
        assert process.stdin is not None
        broken = False
        try:
            try:
                with process.stdin as sink:
                    produce(sink)  # type: ignore[arg-type]
            except BrokenPipeError:
                broken = True
            code = process.wait(_LOAD_WITHIN)
        except BaseException:
            process.kill()
            process.wait()
            raise
        if code != 0 or broken:
            said.seek(0)
            raise _refused(engine, said.read(4000))


def _tell(engine: Engine, *arguments: str, may_fail: bool = False) -> None:
    done = subprocess.run(
        [*engine.command, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=_LOAD_WITHIN,
    )
    if done.returncode != 0 and not may_fail:
        raise _refused(engine, done.stdout)


def _refused(engine: Engine, said: bytes) -> PolyarchError:
    return PolyarchError(
        f"{engine.kind} did not take the image",
        detail=said.decode("utf-8", "replace").strip(),
        hint="the image is in polyarch's local store; 'polyarch images' lists it",
        reason="engine-refused",
    )


def _ask(command: Sequence[str]) -> tuple[int, str, str]:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_ANSWER_WITHIN,
            env={**os.environ, "DOCKER_CLI_HINTS": "false"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, "", str(error)
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return done.returncode, done.stdout.decode("utf-8", "replace"), lines[-1] if lines else ""
