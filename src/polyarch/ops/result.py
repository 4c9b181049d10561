"""What solving a vertex gives: a root filesystem, of which the cache keeps the newest layers' ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from polyarch.layer.layer import Layer
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.store import LayerStore
from polyarch.solver.op import Identity, Input

KEY_RULES = 2  # raise it when what goes into keys, or what a result with a key is, changes


@dataclass(frozen=True)
class Result:
    """A root filesystem; ``added`` are the layers this vertex put on top of its base. ``how`` is "native",
    "emulated" or "accelerated" (emulated, with native twins) for what ran code."""

    rootfs: Rootfs
    added: tuple[Layer, ...] = ()
    how: str = ""
    emulation: float | None = None  # the share of a step's time that went into emulation, where it was seen


def rootfs_of(entry: Input) -> Rootfs:
    """The root filesystem behind an input."""
    result = entry.result()
    assert isinstance(result, Result)
    return result.rootfs


def base_identity(inputs: Sequence[Input], position: int | None) -> Identity:
    """The identity of the input a result stands on; empty without one."""
    return () if position is None else inputs[position].identity


def encode_record(result: Result) -> str:
    """The added layers' ids (and how they were made) as the cache keeps them."""
    return record_of([layer.id for layer in result.added], result.how)


def record_of(layer_ids: Sequence[str], how: str) -> str:
    """The record of a result that adds these layers."""
    return json.dumps({"layers": list(layer_ids), "how": how})


def record_layers(record: str) -> tuple[str, ...]:
    return tuple(json.loads(record)["layers"])


def restore(record: str, layers: LayerStore, base: Rootfs) -> Result | None:
    """The result a record stands for, or None where a layer has no form left."""
    found = []
    for layer_id in record_layers(record):
        layer = layers.load(layer_id)
        if layer is None:
            return None
        found.append(layer)
    rootfs = base
    for layer in found:
        rootfs = rootfs.with_layer(layer)
    return Result(rootfs, tuple(found), str(json.loads(record).get("how", "")))


def digest_of(*parts: str) -> str:
    """One digest of several texts, each kept apart from the next."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(f"{len(part)}:".encode() + part.encode("utf-8", "surrogateescape"))
    return "sha256:" + hasher.hexdigest()


def key_of(*parts: str) -> str:
    """A cache key made of these parts, under the rules by which keys are made now."""
    return digest_of(f"rules {KEY_RULES}", *parts)


def first_key(digest: str, *, local: bool) -> str:
    """A key made of identities. That of a directory holds the times of its files, which every checkout has
    others of."""
    return f"here:{digest}" if local else digest


def definition(op: object) -> str:
    """The digest of an operation's own definition, inputs aside."""
    import msgspec

    return "sha256:" + hashlib.sha256(msgspec.json.encode(op, order="deterministic")).hexdigest()
