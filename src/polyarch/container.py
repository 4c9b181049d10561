"""Runs one variant of an image: finds it (pulling it if need be), puts its layers under an overlay, and runs
a command in it, natively or emulated. What it changes is lost when it ends.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Literal

from polyarch.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from polyarch.content.layout import Layout
    from polyarch.content.state import State
    from polyarch.content.store import Store
    from polyarch.executor.spec import ExitStatus, Output, Process
    from polyarch.image.locate import Located
    from polyarch.layer.rootfs import Rootfs
    from polyarch.oci.config import ImageConfig
    from polyarch.oci.descriptor import Descriptor
    from polyarch.oci.manifest import Manifest
    from polyarch.oci.platform import Platform
    from polyarch.registry.client import Client

_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAXIMUM_CONFIG = 16 << 20
_MAXIMUM_ACCOUNTS = 4 << 20


@dataclass(frozen=True)
class Volume:
    """A host file or directory for the container."""

    source: Path
    target: str
    read_only: bool = False

    @classmethod
    def parse(cls, text: str) -> Volume:
        """``SOURCE:TARGET[:ro|:rw]``; UsageError for anything else."""
        source, colon, rest = text.partition(":")
        target, _, options = rest.partition(":")
        words = [word for word in options.split(",") if word]
        if not colon or not target.startswith("/") or set(words) - {"ro", "rw", "z", "Z"}:
            raise UsageError(
                f"-v {text!r} is not a volume",
                hint="write it as SOURCE:TARGET or SOURCE:TARGET:ro, TARGET being an absolute path",
                reason="invalid-volume",
            )
        if not source.startswith(("/", "./", "../")) and source not in (".", ".."):
            raise UsageError(
                f"-v {text!r} names a volume, and there are none: only host paths can be mounted",
                hint=f"for a folder of this name, write ./{source}",
                reason="invalid-volume",
            )
        return cls(Path(source).absolute(), target, "ro" in words)


def run(
    reference: str,
    command: Sequence[str] = (),
    *,
    platform: str | None = None,
    environment: Mapping[str, str] | None = None,
    directory: str = "",
    user: str = "",
    entrypoint: str | None = None,
    volumes: Sequence[Volume] = (),
    network: Literal["default", "host", "none"] = "default",
    terminal: bool = False,
    stdin: int | None = None,
    hostname: str = "",
    read_only: bool = False,
    state: State | None = None,
    output: Output | None = None,
    cancelled: Event | None = None,
) -> int:
    """Run ``command`` (default: the image's) and return its exit code, 128 + n for signal n.

    ``platform`` None takes this machine's variant, or the only one there is. ``entrypoint`` "" removes the
    image's. ``output`` gets (1 or 2, chunk); by default it goes to this process's own output.
    """
    from polyarch.builder.quota import keep_within
    from polyarch.content.state import State
    from polyarch.executor.sandbox import Sandbox
    from polyarch.executor.spec import Bind, RootFilesystem
    from polyarch.image.locate import local_store, locate
    from polyarch.layer.store import LayerStore
    from polyarch.registry.client import Client

    state = state or State.default()
    with Client() as client, Sandbox.start(state) as sandbox:
        image = _find(locate(reference, state=state, client=client), state, client, platform)
        sandbox.emulators.require(image.platform)  # before anything is downloaded and unpacked
        store = local_store(state, client)
        layers = LayerStore(state, store.layout, sandbox.privilege)
        keep_within(state, store.layout, layers)
        if not image.local:
            _pull(image, store.layout, state)
        try:
            rootfs = image.rootfs(layers, store if image.local or image.pulled else image.store)
            process = _process(
                image,
                rootfs,
                _words(image.config, command, entrypoint, reference),
                environment or {},
                directory=directory,
                user=user,
                network=network,
                hostname=hostname,
                read_only=read_only,
                terminal=terminal,
                stdin=stdin,
            )
            mounts = tuple(Bind(v.source, v.target, v.read_only) for v in volumes)
            status: ExitStatus = sandbox.run(
                process, RootFilesystem(rootfs.trees()), mounts, output or _write, cancelled or Event()
            )
            return status.code
        finally:
            layers.settle()
            layers.close()


def _write(stream: int, data: bytes) -> None:
    """The container's output is this process's."""
    view = memoryview(data)
    while view:
        view = view[os.write(stream, view) :]


# --- the image ----------------------------------------------------------------------------------------------


@dataclass
class _Image:
    """One variant of an image, and the store that has it."""

    store: Store
    root: Descriptor
    name: str
    local: bool
    chosen: Descriptor
    manifest: Manifest
    config: ImageConfig
    platform: Platform
    pulled: bool = False

    def rootfs(self, layers: object, origin: Store) -> Rootfs:
        from polyarch.layer.rootfs import Rootfs
        from polyarch.layer.store import LayerStore

        assert isinstance(layers, LayerStore)
        diff_ids = (self.config.rootfs.diff_ids if self.config.rootfs else None) or ()
        if len(diff_ids) != len(self.manifest.layers):
            from polyarch.errors import ContentError

            raise ContentError(
                f"{self.chosen.digest} has {len(self.manifest.layers)} layers, its config {len(diff_ids)}",
                reason="invalid-image",
            )
        pairs = zip(self.manifest.layers, diff_ids, strict=True)
        return Rootfs([layers.image_layer(descriptor, diff_id, origin) for descriptor, diff_id in pairs])


def _find(found: Located, state: State, client: Client, wanted: str | None) -> _Image:
    from polyarch.content.verify import read, read_manifest
    from polyarch.content.walk import select
    from polyarch.oci.config import ImageConfig
    from polyarch.oci.platform import choose, host, parse_known

    platform = parse_known(wanted) if wanted else None
    try:
        chosen = select(found.store, found.descriptor, platform or host())
    except NotFoundError as error:
        if error.reason != "no-platform":
            raise
        only = _only(found) if platform is None else None
        if only is None:
            raise NotFoundError(
                f"{found.name} has no variant for {platform or host()}", hint=error.hint, reason=error.reason
            ) from None
        chosen = only
    manifest = read_manifest(found.store, chosen).manifest
    config = ImageConfig.parse(read(found.store, manifest.config, limit=_MAXIMUM_CONFIG))
    declared = config.platform
    if platform is not None and choose(platform, [declared]) is None:
        raise NotFoundError(
            f"{found.name} has no variant for {platform}",
            hint=f"it is an image for {declared} alone",
            reason="no-platform",
        )
    return _Image(
        found.store, found.descriptor, found.name, found.is_local, chosen, manifest, config, declared
    )


def _only(found: Located) -> Descriptor | None:
    """The one variant of an index that has no other."""
    from polyarch.content.verify import read_manifest
    from polyarch.content.walk import children, variants

    there = variants(found.store, children(read_manifest(found.store, found.descriptor)))
    return there[0] if len(there) == 1 else None


def _pull(image: _Image, layout: Layout, state: State) -> None:
    """Keep an image of a registry: the chosen variant whole, of the others manifest and config, and where
    their layers are."""
    from polyarch.content.copy import copy
    from polyarch.content.verify import read_manifest
    from polyarch.content.walk import children, variants
    from polyarch.image.origins import Origins
    from polyarch.oci import media_types
    from polyarch.oci.reference import Reference

    try:
        reference = Reference.parse(image.name)
    except UsageError:
        return  # a layout or an archive on disk: used from there
    copy(image.store, layout, image.chosen)
    if image.root.media_type in media_types.INDEXES:
        places: dict[str, tuple[str, ...]] = {}
        for entry in variants(image.store, children(read_manifest(image.store, image.root))):
            manifest = read_manifest(image.store, entry).manifest
            for below in (entry, manifest.config):
                if not layout.exists(below.digest):
                    with image.store.open(below) as stream:
                        layout.push(stream, below)
            for layer in manifest.layers:
                if not layout.exists(layer.digest):
                    places[layer.digest] = (reference.name,)
        Origins(state).record(places)
        with image.store.open(image.root) as stream:
            layout.push(stream, image.root)
    if reference.tag:
        layout.tag(str(reference), image.root)
    image.pulled = True


# --- the process --------------------------------------------------------------------------------------------


def _words(
    config: ImageConfig, command: Sequence[str], entrypoint: str | None, reference: str
) -> tuple[str, ...]:
    """Docker's rules: an entrypoint given replaces the image's and forgets its command."""
    settings = config.config
    first: Sequence[str] = (settings.entrypoint if settings else None) or ()
    rest: Sequence[str] = command or (settings.cmd if settings else None) or ()
    if entrypoint is not None:
        first = (entrypoint,) if entrypoint else ()
        rest = command
    words = (*first, *rest)
    if not words:
        raise UsageError(
            f"{reference} does not say what to run",
            hint="name a command: polyarch run IMAGE COMMAND",
            reason="no-command",
        )
    return words


def _process(
    image: _Image,
    rootfs: Rootfs,
    words: tuple[str, ...],
    extra: Mapping[str, str],
    *,
    directory: str,
    user: str,
    network: Literal["default", "host", "none"],
    hostname: str,
    read_only: bool,
    terminal: bool,
    stdin: int | None,
) -> Process:
    from polyarch.executor.spec import Process
    from polyarch.ops.owner import process_identity

    settings = image.config.config
    identity, home = process_identity(
        user or (settings.user if settings else ""), lambda path: _account_file(rootfs, path)
    )
    hostname = hostname or secrets.token_hex(6)
    values = dict(line.partition("=")[::2] for line in (_PATH, f"HOSTNAME={hostname}"))
    if terminal:
        values["TERM"] = "xterm"
    values |= dict(line.partition("=")[::2] for line in (settings.env if settings else None) or ())
    values |= extra
    values.setdefault("HOME", home)
    return Process(
        arguments=words,
        platform=image.platform,
        environment=tuple(f"{name}={value}" for name, value in values.items()),
        directory=directory or (settings.working_dir if settings else "") or "/",
        identity=identity,
        network=network,
        hostname=hostname,
        read_only=read_only,
        terminal=terminal,
        stdin=stdin,
    )


def _account_file(rootfs: Rootfs, path: str) -> bytes | None:
    resolved = rootfs.resolve(path)
    entry = rootfs.get(resolved)
    if entry is None or entry.type not in ("file", "hardlink"):
        return None
    return rootfs.read(resolved, _MAXIMUM_ACCOUNTS)
