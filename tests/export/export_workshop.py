"""A build's result made of real layers, and what exporters need around it."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.export.exporter import export
from polyarch.export.output import Output
from polyarch.export.result import BuildResult, ExportSummary, PlatformResult
from polyarch.layer.direct import DirectPrivilege
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.layer import Layer
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.store import LayerStore
from polyarch.oci.config import ContainerConfig, History, ImageConfig
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.registry.client import Client

CREATED = "2024-05-06T07:08:09Z"


@dataclass
class Workshop:
    """One state directory and a client, with short words for what tests do."""

    state: State
    client: Client
    layout: Layout = field(init=False)
    layers: LayerStore = field(init=False)

    def __post_init__(self) -> None:
        self.layout = Layout(self.state.content)
        self.layers = LayerStore(self.state, self.layout, DirectPrivilege())

    def layer(self, files: dict[str, bytes], *more: Entry) -> Layer:
        """A layer of files (mode 0644, or 0755 under bin/), the directories above them, and other entries."""
        contents = dict(files.items())
        entries = [
            Entry(
                path,
                "file",
                0o755 if path.startswith("bin/") else 0o644,
                size=len(data),
                mtime_ns=1_700_000_000_000_000_000,
                digest="sha256:" + hashlib.sha256(data).hexdigest(),
            )
            for path, data in files.items()
        ]
        folders = {str(p) for e in (*entries, *more) for p in Path(e.path).parents if str(p) != "."}
        given = {e.path for e in more}
        entries += [Entry(p, "directory", 0o755) for p in folders - given]

        def open_file(entry: Entry) -> BinaryIO:
            return io.BytesIO(contents[entry.path])

        return self.layers.file_layer(Toc((*entries, *more)), open_file)

    def result(self, layers: dict[str, list[Layer]], **more: Any) -> BuildResult:
        """A result with these layers by platform."""
        results = []
        for text, stack in layers.items():
            platform = Platform.parse(text)
            config = ImageConfig(
                architecture=platform.architecture,
                os=platform.os,
                variant=platform.variant,
                created=CREATED,
                config=ContainerConfig(cmd=("/bin/app",), env=("PATH=/bin",)),
                history=tuple(History(created=CREATED, created_by=f"COPY {n}") for n in range(len(stack))),
            )
            results.append(PlatformResult(platform, Rootfs(stack), config))
        return BuildResult(tuple(results), **more)

    def two(self, **more: Any) -> BuildResult:
        """A result for two platforms that share a layer."""
        shared = self.layer({"etc/motd": b"hello\n"})
        return self.result(
            {
                "linux/amd64": [shared, self.layer({"bin/app": b"amd64 program"})],
                "linux/arm64": [shared, self.layer({"bin/app": b"arm64 program"})],
            },
            **more,
        )

    def one(self, **more: Any) -> BuildResult:
        """A result for one platform."""
        return self.result({"linux/amd64": [self.layer({"bin/app": b"amd64 program"})]}, **more)

    def export(
        self, result: BuildResult, *outputs: Output, tags: tuple[str, ...] = (), **more: Any
    ) -> ExportSummary:
        return export(
            result,
            outputs,
            state=self.state,
            layout=self.layout,
            layers=self.layers,
            client=self.client,
            tags=[Reference.parse(tag) for tag in tags],
            **more,
        )
