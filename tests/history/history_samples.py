"""Records made by hand: builds with everything a page or a list must be able to show."""

from __future__ import annotations

from pathlib import Path

from polyarch.history.lines import Began, Variant
from polyarch.history.reader import BuildRecord, find, load
from polyarch.history.recorder import Recorder
from polyarch.solver.events import (
    Event,
    Planned,
    PlannedVertex,
    VertexCompleted,
    VertexLog,
    VertexStarted,
    VertexStatus,
    Warning,
)

AMD, ARM = "linux/amd64", "linux/arm64"
BOTH = (AMD, ARM)
HOSTILE = """<img src="http://evil.example/x.png" onerror="document.title='pwned'">"""
DOCKERFILE = f"""FROM base AS build
COPY . /src  # </code></section><script>document.title='pwned'</script>
RUN make {HOSTILE}
FROM base
COPY --from=build /out /
"""
PLAN = Planned(
    (
        PlannedVertex("sha256:a", "[linux/amd64 internal] FROM base", (), BOTH, 1, 1),
        PlannedVertex("sha256:b", "[linux/amd64 build 2/3] COPY . /src", ("sha256:a",), BOTH, 2, 2),
        PlannedVertex("sha256:c", f"[linux/amd64 build 3/3] RUN make {HOSTILE}", ("sha256:b",), (AMD,), 3, 3),
        PlannedVertex("sha256:d", f"[linux/arm64 build 3/3] RUN make {HOSTILE}", ("sha256:b",), (ARM,), 3, 3),
        PlannedVertex("sha256:e", "[linux/arm64 2/2] COPY --from=build /out /", ("sha256:d",), (ARM,), 5, 5),
    ),
    "Dockerfile",
    DOCKERFILE,
)


def began(id: str, at: float, **more: object) -> Began:
    """The first line of a build for two platforms."""
    fields: dict[str, object] = {"platforms": BOTH, "tags": ("docker.io/library/app:1",)}
    fields |= {"id": id, "at": at, "version": "0.1.0", "context": "/src/app", "folder": "/"}
    return Began(**(fields | more))  # type: ignore[arg-type]


def events(at: float) -> list[Event]:
    """What happened, from time ``at``: the arm64 step takes longest."""
    return [
        PLAN,
        VertexStarted("sha256:a", "", at),
        VertexStatus("sha256:a", "sha256:layer", 5_000_000, 10_000_000, at + 0.1),
        VertexStatus("sha256:a", "sha256:layer", 10_000_000, 10_000_000, at + 0.2, done=True),
        VertexCompleted("sha256:a", "", at + 0.2, reason="source"),
        VertexStarted("sha256:b", "", at + 0.2),
        VertexCompleted("sha256:b", "", at + 0.2, cached=True),
        VertexStarted("sha256:c", "", at + 0.2),
        VertexStarted("sha256:d", "", at + 0.2),
        VertexLog("sha256:c", 1, f"building {HOSTILE}\n".encode(), at + 0.3),
        VertexLog("sha256:d", 2, b"half a line, \x1b[31mred\x1b[0m", at + 0.4),
        VertexLog("sha256:d", 2, b" and the rest", at + 0.5),
        VertexCompleted("sha256:c", "", at + 1.0, reason="changed: src/<b>.c", how="native"),
        VertexCompleted("sha256:d", "", at + 3.0, reason="never built", how="emulated"),
        VertexStarted("sha256:e", "", at + 3.0),
        VertexCompleted("sha256:e", "", at + 3.1, reason="never built"),
        Warning("Rule", "a <warning>", "", "Dockerfile", 3),
        VertexStarted("sha256:x", "exporting to image", at + 3.1),
        VertexCompleted("sha256:x", "exporting to image", at + 3.5),
    ]


def recorded(folder: Path, *, finish: bool = True) -> BuildRecord:
    """A build that took place, read back."""
    recorder = Recorder(folder, began, lambda event: None)
    first = find(folder, recorder.id).began.at
    for event in events(first):
        recorder(event)
    if finish:
        recorder.succeeded(
            digest="sha256:" + "1" * 64,
            names=("docker.io/library/app:1",),
            variants=(
                Variant(platform=AMD, how="native", manifest="sha256:" + "2" * 64, size=1_500_000),
                Variant(platform=ARM, how="emulated", manifest="sha256:" + "3" * 64, size=1_400_000),
            ),
            sizes={"sha256:c": 1_200_000},
        )
    return load(find(folder, recorder.id))
