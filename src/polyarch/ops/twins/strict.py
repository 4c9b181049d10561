"""``--accelerate strict``: a step's layer must be the same with native twins and without."""

from __future__ import annotations

from collections.abc import Callable

from polyarch.errors import PolyarchError
from polyarch.graph.vertex import ExecOp
from polyarch.layer.entry import Entry
from polyarch.layer.layer import Layer
from polyarch.layer.rootfs import Rootfs

_SHOWN = 20


def compare(accelerated: Layer, plain: Callable[[], Layer], op: ExecOp) -> None:
    """Run the step again without twins; PolyarchError (``twins-differ``) when the trees differ. What also
    differs between two runs without twins (logs, random names) is left out: only then is there a third
    run."""
    first, second = contents(accelerated), contents(plain())
    wrong = _differ(first, second)
    if wrong:
        wrong -= _differ(second, contents(plain()))
    if wrong:
        listed, command = sorted(wrong), " ".join(op.arguments)
        lines = [f"/{path}: {_what(first.get(path), second.get(path))}" for path in listed[:_SHOWN]]
        if len(listed) > _SHOWN:
            lines.append(f"and {len(listed) - _SHOWN} more")
        raise PolyarchError(
            f"{command!r} gives another result for {op.platform} with native twins than without",
            detail="\n".join(lines),
            hint="build with --accelerate off, and report the program that differs",
            reason="twins-differ",
        )


def contents(layer: Layer) -> dict[str, Entry]:
    """What a layer holds, by path, with digests and without times. Two entries may stand for a directory:
    the mark that it is opaque has a name of its own."""
    toc = layer.toc()
    files = [entry.path for entry in toc.entries if entry.type in ("file", "hardlink")]
    digests = {entry.path: entry.digest for entry in Rootfs((layer,)).files(files)}
    found: dict[str, Entry] = {}
    for entry in toc.entries:
        name = f"{entry.path}/(opaque)" if entry.type == "opaque" else entry.path
        found[name] = Entry(
            entry.path,
            entry.type,
            entry.mode,
            entry.uid,
            entry.gid,
            entry.size,
            0,
            entry.link,
            entry.major,
            entry.minor,
            entry.xattrs,
            digests.get(entry.path, ""),
        )
    return found


def _differ(one: dict[str, Entry], other: dict[str, Entry]) -> set[str]:
    return {path for path in one.keys() | other.keys() if one.get(path) != other.get(path)}


def _what(accelerated: Entry | None, plain: Entry | None) -> str:
    if accelerated is None:
        return "missing with twins"
    if plain is None:
        return "only there with twins"
    for name in ("type", "mode", "uid", "gid", "link", "xattrs", "digest"):
        if getattr(accelerated, name) != getattr(plain, name):
            return f"another {'content' if name == 'digest' else name}"
    return "different"
