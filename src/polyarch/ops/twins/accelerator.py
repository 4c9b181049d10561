"""Gives emulated steps the native twins of their programs, taken from the native sibling of their base
image."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from threading import Event

import msgspec

from polyarch.content.state import State
from polyarch.errors import PolyarchError
from polyarch.executor.spec import Bind, Executor, Mount, Overlay, Process, RootFilesystem
from polyarch.graph.vertex import ImageOp
from polyarch.layer.layer import Layer
from polyarch.layer.rootfs import Rootfs
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform
from polyarch.ops.twins import links
from polyarch.ops.twins.choose import Twins, choose

_SHELLS = ("sh", "ash")
RULES = "1"  # changes with what counts as a twin
TARGETS = (
    "amd64",
    "arm64",
    "riscv64",
    "ppc64le",
    "loong64",
)  # 64-bit, little-endian: data of both are the same
# How dpkg names architectures. It can be told another only where both names are as long.
_DEBIAN = {"amd64": b"amd64", "arm64": b"arm64", "riscv64": b"riscv64", "ppc64le": b"ppc64el"}

Sibling = Callable[[ImageOp, Platform], Sequence[Layer] | None]


class Accelerator:
    """Twins for the steps of one build. Thread-safe; what was found for a pair of images is kept.

    ``images`` are the build's bases; ``sibling`` gives the layers of the variant of one for this machine's
    platform, None when it has none. ``strict`` asks for every step to be run both ways.
    """

    def __init__(
        self, state: State, images: Iterable[ImageOp], sibling: Sibling, *, strict: bool = False
    ) -> None:
        self.strict = strict
        self._state = state
        self._bases = {image.diff_ids: image for image in images}
        self._sibling = sibling
        self._lock = threading.Lock()
        self._known: dict[tuple[str, ...], tuple[Rootfs, Twins, dict[str, bytes]] | None] = {}

    def mounts(
        self, base: Rootfs, platform: Platform, executor: Executor, stack: ExitStack, cancelled: Event
    ) -> tuple[Mount, ...]:
        """The mounts that give a step on ``base`` its twins; none when there are no twins for it. What must
        be removed after the step is put on ``stack``."""
        host = platforms.host().architecture
        if platform.architecture == host or platform.architecture not in TARGETS or host not in TARGETS:
            return ()
        image = self._image(base)
        if image is None:
            return ()
        with self._lock:  # the first step finds out, others wait for it
            if image.diff_ids not in self._known:
                self._known[image.diff_ids] = self._prepare(image, base, platform, executor, cancelled)
            known = self._known[image.diff_ids]
        if known is None:
            return ()
        sibling, twins, patched = known
        self._state.temporary.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="twins.", dir=self._state.temporary))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        folder.chmod(0o755)
        if not links.write(folder, twins, base, patched):
            return ()
        return (Bind(folder, links.PLACE), Overlay(sibling.trees(), links.NATIVE))

    def _image(self, base: Rootfs) -> ImageOp | None:
        """The image ``base`` was started from."""
        ids = tuple(layer.id for layer in base.layers)
        for count in range(len(ids), 0, -1):
            image = self._bases.get(ids[:count])
            if image is not None:
                return image
        return None

    def _prepare(
        self, image: ImageOp, base: Rootfs, platform: Platform, executor: Executor, cancelled: Event
    ) -> tuple[Rootfs, Twins, dict[str, bytes]] | None:
        try:
            layers = self._sibling(image, platforms.host())
            if layers is None:
                return None
            sibling = Rootfs(layers)
            foreign = Rootfs(base.layers[: len(image.diff_ids)])
            twins = self._chosen(foreign, sibling)
            if not twins.twins:
                return None
            trial = _Trial(sibling, executor, platform, cancelled)
            return sibling, *self._tried(twins, sibling, platform, trial)
        except PolyarchError:
            if cancelled.is_set():
                raise
            return None  # a step without twins is slow, not wrong

    def _tried(
        self, twins: Twins, sibling: Rootfs, platform: Platform, trial: _Trial
    ) -> tuple[Twins, dict[str, bytes]]:
        """What stays of the twins when those were run that cannot be trusted otherwise, and the bytes of
        those that were told their architecture, by path."""
        kept, patched = [], {}
        for twin in twins.twins:
            if twin.patch:
                content = sibling.read(twin.native, 32 << 20)
                changed = told(content, platforms.host().architecture, platform.architecture)
                if changed is None:
                    continue
                if twin.native.endswith("/dpkg") and not trial.dpkg(changed, self._state.temporary):
                    continue
                patched[twin.path] = changed
            if twin.applets and not trial.busybox(twin.native):
                twin = msgspec.structs.replace(
                    twin, applets=tuple(n for n in twin.applets if n not in _SHELLS)
                )
            kept.append(twin)
        return Twins(tuple(kept), twins.loader, twins.libraries), patched

    def _chosen(self, foreign: Rootfs, sibling: Rootfs) -> Twins:
        """``choose``, remembered on disk."""
        key = hashlib.sha256(f"{RULES} {foreign.id} {sibling.id}".encode()).hexdigest()[:32]
        place = self._state.root / "twins" / f"{key}.json"
        try:
            return msgspec.json.decode(place.read_bytes(), type=Twins)
        except (OSError, msgspec.DecodeError):
            pass  # not known yet, or of another version
        twins = choose(foreign, sibling)
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=place.parent, delete=False) as file:
            file.write(msgspec.json.encode(twins))
        Path(file.name).replace(place)
        return twins


def told(content: bytes, native: str, foreign: str) -> bytes | None:
    """A program of dpkg that believes to be of the architecture ``foreign``; None when that cannot be done:
    the names must be as long, and the program must hold its own once at most."""
    own, other = _DEBIAN.get(native, b""), _DEBIAN.get(foreign, b"")
    mark = b"\0" + own + b"\0"
    if not own or len(own) != len(other) or content.count(mark) > 1:
        return None
    told = content.replace(mark, b"\0" + other + b"\0")
    return told.replace(b"(" + own + b")\0", b"(" + other + b")\0")  # in what --version prints


class _Trial:
    """Runs twins once, natively in the sibling's root filesystem, where reading them does not tell enough."""

    def __init__(self, sibling: Rootfs, executor: Executor, platform: Platform, cancelled: Event) -> None:
        self._root = RootFilesystem(sibling.trees())
        self._executor = executor
        self._platform = platform
        self._cancelled = cancelled

    def busybox(self, path: str) -> bool:
        """Whether its shell looks programs up in PATH, and does not run its own applets in their place: one
        of those could be uname."""
        code, _ = self._run((f"/{path}", "sh", "-c", "PATH=/nowhere; uname"), ())
        return code == 127

    def dpkg(self, content: bytes, folder: Path) -> bool:
        """Whether a dpkg that was told another architecture believes it."""
        with tempfile.TemporaryDirectory(dir=folder, prefix="dpkg.") as place:
            file = Path(place, "dpkg")
            file.write_bytes(content)
            file.chmod(0o755)
            code, output = self._run(("/dev/dpkg", "--print-architecture"), (Bind(file, "/dev/dpkg"),))
        return code == 0 and output.strip() == _DEBIAN.get(self._platform.architecture)

    def _run(self, command: tuple[str, ...], mounts: tuple[Mount, ...]) -> tuple[int, bytes]:
        output = bytearray()
        process = Process(command, platforms.host(), network="none")
        status = self._executor.run(
            process, self._root, mounts, lambda stream, data: output.extend(data), self._cancelled
        )
        return status.code, bytes(output)
