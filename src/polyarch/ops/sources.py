"""Sources: images, the client's directories, git, http, and files written in the Dockerfile.

None of them is looked up in the cache: each finds out what it is now, cheaply, and its result's identity
tells those above whether anything changed.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from typing import BinaryIO

from polyarch.graph.vertex import GitOp, HttpOp, ImageOp, InlineOp, LocalOp
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.rootfs import Rootfs
from polyarch.oci import digest as digests
from polyarch.oci.descriptor import Descriptor
from polyarch.ops.canvas import TIMELESS_NS
from polyarch.ops.result import Result, encode_record, record_layers
from polyarch.ops.session import Session
from polyarch.solver.events import VertexStatus
from polyarch.solver.op import CacheKey, Identity, Input, Step


class SourceOperation:
    """A vertex without inputs."""

    cacheable = False
    exclusive = False

    def __init__(self, op: ImageOp | LocalOp | GitOp | HttpOp | InlineOp, session: Session) -> None:
        self.op = op
        self.session = session

    def keys(self, inputs: Sequence[Input], step: Step) -> Iterator[CacheKey]:
        return iter(())

    def run(self, inputs: Sequence[Input], step: Step) -> Result:
        match self.op:
            case ImageOp():
                return self._image(self.op, step)
            case LocalOp(name=name):
                return _whole(self.session.context(name))
            case GitOp():
                return self._git(self.op)
            case HttpOp():
                return self._http(self.op)
            case InlineOp():
                return self._inline(self.op)

    def record(self, result: Result) -> str:
        return encode_record(result)

    def identity(self, record: str, inputs: Sequence[Input]) -> Identity:
        return record_layers(record)

    def restore(self, record: str, inputs: Sequence[Input]) -> Result | None:
        return None

    def _image(self, op: ImageOp, step: Step) -> Result:
        origin = self.session.origins(op.origin)

        def tell(blob: Descriptor, count: int) -> None:
            done = count >= blob.size
            step.events(VertexStatus(step.digest, blob.digest, count, blob.size, time.time(), done=done))

        self.session.layers.watchers.update((descriptor.digest, tell) for descriptor in op.layers)
        return _whole(
            Rootfs(
                [
                    self.session.layers.image_layer(descriptor, diff_id, origin)
                    for descriptor, diff_id in zip(op.layers, op.diff_ids, strict=True)
                ]
            )
        )

    def _git(self, op: GitOp) -> Result:
        from polyarch.context import git

        _, rootfs = git.fetch(op.url, self.session.state, keep_git_dir=op.keep_git_dir, checksum=op.checksum)
        return _whole(rootfs)

    def _http(self, op: HttpOp) -> Result:
        from polyarch.context import http

        file = http.fetch(op.url, self.session.state, checksum=op.checksum)
        mtime = file.last_modified_ns
        entry = Entry(op.file_name, "file", 0o600, size=file.size, mtime_ns=mtime, digest=file.digest)
        return self._file(entry, lambda _: open(file.path, "rb"))

    def _inline(self, op: InlineOp) -> Result:
        content = op.content.encode("utf-8", "surrogateescape")
        digest = digests.of(content)
        entry = Entry(op.name, "file", op.mode, size=len(content), mtime_ns=TIMELESS_NS, digest=digest)
        return self._file(entry, lambda _: io.BytesIO(content))

    def _file(self, entry: Entry, opener: Callable[[Entry], BinaryIO]) -> Result:
        layer = self.session.layers.file_layer(Toc((entry,)), opener)
        return _whole(Rootfs((layer,)))


def _whole(rootfs: Rootfs) -> Result:
    return Result(rootfs, rootfs.layers)
