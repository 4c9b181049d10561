"""Emulators out of an image, for machines without: taken once, by digest, into the state folder."""

from __future__ import annotations

import os
import posixpath
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from polyarch.builder.embedded import EmbeddedNode
from polyarch.content.state import State
from polyarch.errors import PolyarchError
from polyarch.executor import machines
from polyarch.graph.vertex import ExecOp, Graph
from polyarch.layer.rootfs import Rootfs
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.proof.bases import BaseResolver
from polyarch.proof.preflight import Check, Problem
from polyarch.solver.events import EventSink, Warning

DEFAULT = "docker.io/tonistiigi/binfmt:latest"
_FOLDERS = ("usr/bin", "bin", "usr/local/bin")
_LARGEST = 256 << 20
_PIN = "image"  # the file that says which image was used, by digest


def image_wanted() -> str:
    """The image to take emulators from (``POLYARCH_EMULATOR_IMAGE``), "" when none is to be taken."""
    image = os.environ.get("POLYARCH_EMULATOR_IMAGE", DEFAULT)
    return "" if image == "off" else image


def take_missing(
    found: Sequence[Problem | Check],
    graph: Graph,
    preview: Callable[[], Sequence[tuple[object, str, str]]],
    node: EmbeddedNode,
    events: EventSink,
) -> bool:
    """Take the emulators that steps lack which will run; whether there are more now than before."""
    lacking = [one for one in found if isinstance(one, Problem) and one.error.reason == "no-emulator"]
    image = image_wanted()
    if not lacking or not image:
        return False
    running = {digest for _, digest, verdict in preview() if verdict not in ("cached", "source")}
    ops = (graph.vertices[digest].op for one in lacking for digest in one.vertices if digest in running)
    wanted = dict.fromkeys(op.platform for op in ops if isinstance(op, ExecOp))
    if not wanted:
        return False
    try:
        taken = take(wanted, image, node)
    except PolyarchError as error:
        events(Warning("Preflight", f"emulators could not be taken from {image}: {error.summary}"))
        return False
    node.sandbox().look_again()
    names = ", ".join(path.name for path in taken)
    events(Warning("Preflight", f"no emulator was installed here: took {names} from {image}"))
    return True


def take(wanted: Iterable[Platform], image: str, node: EmbeddedNode) -> list[Path]:
    """Put the image's emulators for ``wanted`` into the state folder, where ``Emulators.discover`` looks.

    What is taken first pins the image: later ones come from the same digest, as long as the same image is
    asked for. PolyarchError when the image cannot be had or holds none of them.
    """
    folder = node.state.emulators / "taken"
    reference = _pinned(node.state, image)
    found = BaseResolver(node.local, node.client).image(str(reference), platforms.host())
    rootfs = Rootfs(
        [
            node.layers.image_layer(descriptor, diff_id, node.origin(found.origin))
            for descriptor, diff_id in zip(found.layers, found.diff_ids, strict=True)
        ]
    )
    taken = []
    for platform in wanted:
        path = _emulator(rootfs, platform)
        if path:
            taken.append(_write(folder, posixpath.basename(path), rootfs.read(path, _LARGEST)))
    if not taken:
        raise PolyarchError(
            f"{image} holds no emulator for {', '.join(map(str, wanted))}",
            hint="name another image in POLYARCH_EMULATOR_IMAGE, or install QEMU's static emulators",
            reason="no-emulator",
        )
    _write(folder, _PIN, f"{image} {found.reference}\n".encode())
    return taken


def _pinned(state: State, image: str) -> Reference:
    try:
        asked, _, pinned = (state.emulators / "taken" / _PIN).read_text().strip().partition(" ")
    except OSError:
        asked, pinned = "", ""
    return Reference.parse(pinned if asked == image and pinned else image)


def _emulator(rootfs: Rootfs, platform: Platform) -> str:
    """The path of the emulator for ``platform`` in the image, "" when there is none."""
    machine = machines.find(platform.normalized().architecture)
    if machine is None:
        return ""
    for folder in _FOLDERS:
        for name in (f"qemu-{machine.qemu}-static", f"qemu-{machine.qemu}"):
            path = rootfs.resolve(f"{folder}/{name}")
            entry = rootfs.get(path)
            if entry is not None and entry.type in ("file", "hardlink"):
                return path
    return ""


def _write(folder: Path, name: str, content: bytes) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".taking.", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), 0o755)
            os.fsync(file.fileno())
        os.replace(temporary, folder / name)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return folder / name
