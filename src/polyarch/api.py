"""polyarch from Python: the same as the command line, typed, with return values and errors.

These functions are re-exported by ``import polyarch``, which is cheap: everything is imported when used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from threading import Event as Cancellation
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from polyarch.content.state import State
    from polyarch.image.inspect import Inspection
    from polyarch.ops.twins.mode import Mode as Acceleration
    from polyarch.proof.finding import Mode
    from polyarch.request import BuildOutcome
    from polyarch.solver.events import Event

Progress = Callable[["Event"], None]


def build(
    context: str | PathLike[str] = ".",
    *,
    platforms: Iterable[str] = (),
    tags: Iterable[str] = (),
    dockerfile: str | PathLike[str] | None = None,
    target: str = "",
    build_args: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Iterable[str] = (),
    outputs: Iterable[str] = (),
    push: bool = False,
    load: bool = False,
    build_contexts: Mapping[str, str] | None = None,
    secrets: Mapping[str, bytes] | None = None,
    no_cache: bool = False,
    cache_from: Iterable[str] = (),
    cache_to: Iterable[str] = (),
    pull: bool = False,
    network: str = "default",
    allow: Iterable[str] = (),
    builder: str = "",
    fallback: str = "",
    proof: Mode = "default",
    proof_ignore: Iterable[str] = (),
    if_tag_is: str = "",
    part: str | PathLike[str] | None = None,
    part_of: Iterable[str] = (),
    accelerate: Acceleration = "auto",
    root: str | PathLike[str] | None = None,
    progress: Progress | None = None,
    cancelled: Cancellation | None = None,
    stdin: BinaryIO | None = None,
) -> BuildOutcome:
    """Build a Dockerfile for one or many platforms.

    ``platforms`` such as ``["linux/amd64", "linux/arm64"]`` (empty: this machine's); ``outputs``,
    ``cache_from`` and ``cache_to`` as the command line's ``-o``, ``--cache-from`` and ``--cache-to``;
    ``secrets`` by id; ``root`` is the state directory (default: ``$POLYARCH_ROOT``), ``builder`` one of the
    builders recorded there (default: the current one). Other words mean what the command line's do. Events of
    ``solver.events`` go to ``progress``, from several threads; ``cancelled`` stops all. PolyarchError.
    """
    from polyarch import pipeline
    from polyarch.builder.records import Builders
    from polyarch.export import annotations as annotation_texts
    from polyarch.export import cache_options, output
    from polyarch.graph.named import build_contexts as parse_contexts
    from polyarch.oci.platform import parse_list
    from polyarch.request import BuildRequest, names_of
    from polyarch.solver.events import ignore

    state = _state(root)
    request = BuildRequest(
        context=str(context),
        dockerfile=None if dockerfile is None else str(dockerfile),
        platforms=parse_list(platforms),
        tags=names_of(list(tags)),
        outputs=output.parse_all(outputs, push=push, load=load),
        target=target,
        build_args=dict(build_args or {}),
        labels=dict(labels or {}),
        annotations=annotation_texts.parse_all(annotations),
        contexts=parse_contexts(f"{name}={value}" for name, value in (build_contexts or {}).items()),
        secrets={name: _constant(content) for name, content in (secrets or {}).items()},
        no_cache=no_cache,
        cache_from=cache_options.parse_from(cache_from),
        cache_to=cache_options.parse_to(cache_to),
        pull=pull,
        network=network,
        allow=frozenset(allow),
        builder=Builders(state).selected(builder),
        fallback=fallback,
        proof=proof,
        proof_ignore=tuple(proof_ignore),
        if_tag_is=if_tag_is,
        part="" if part is None else str(part),
        part_of=parse_list(part_of),
        accelerate=accelerate,
    )
    return pipeline.run(request, state=state, events=progress or ignore, cancelled=cancelled, stdin=stdin)


def merge(
    parts: Iterable[str | PathLike[str]],
    *,
    tags: Iterable[str],
    push: bool = False,
    platforms: Iterable[str] = (),
    annotations: Iterable[str] = (),
    accept: Iterable[str] = (),
    if_tag_is: str = "",
    root: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> str:
    """Join parts that ``build(part=…)`` left in folders, and return the digest of the whole.

    Words mean what ``polyarch merge``'s do. PolyarchError where the parts are not complete, or not from the
    same source; every tag is then as it was.
    """
    from polyarch.merging import MergeRequest
    from polyarch.merging import merge as join
    from polyarch.oci.platform import parse_list
    from polyarch.request import names_of
    from polyarch.solver.events import ignore

    request = MergeRequest(
        folders=tuple(Path(folder) for folder in parts),
        names=names_of(list(tags)),
        push=push,
        wanted=parse_list(platforms),
        annotations=tuple(annotations),
        accepted=tuple(accept),
        expected=if_tag_is,
    )
    return join(request, state=_state(root), events=progress or ignore).digest


def inspect(reference: str, *, remote: bool = False, root: str | PathLike[str] | None = None) -> Inspection:
    """An image of the local store or a registry: its index, and every variant with config and layers.

    ``remote`` asks the registry even when the local store has the name. NotFoundError when nobody has it.
    """
    from polyarch.image.inspect import inspect as look
    from polyarch.image.locate import locate
    from polyarch.registry.client import Client

    with Client() as client:
        found = locate(reference, state=_state(root), client=client, local=not remote)
        return look(found.store, found.descriptor, name=found.name)


def push(
    reference: str,
    *,
    to: str = "",
    root: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> str:
    """Push an image of the local store, every platform of it, and return its digest.

    ``to`` is the name to push as (default: ``reference``). The tag is written last.
    """
    from polyarch.export.push import push as send
    from polyarch.image.locate import locate
    from polyarch.oci.reference import Reference
    from polyarch.registry.client import Client
    from polyarch.solver.events import ignore

    with Client() as client:
        found = locate(reference, state=_state(root), client=client, remote=False)
        names = [Reference.parse(to or reference)]
        send(found.store, found.descriptor, names, client=client, progress=progress or ignore)
        return found.descriptor.digest


def run(
    reference: str,
    command: Sequence[str] = (),
    *,
    platform: str = "",
    environment: Mapping[str, str] | None = None,
    root: str | PathLike[str] | None = None,
) -> int:
    """Run one variant of an image, native or emulated, and return its exit code."""
    from polyarch import container

    return container.run(
        reference,
        command,
        platform=platform or None,
        environment=dict(environment or {}),
        state=_state(root),
    )


def _state(root: str | PathLike[str] | None) -> State:
    from polyarch.content.state import State

    return State.default() if root is None else State(Path(root).absolute())


def _constant(content: bytes) -> Callable[[], bytes]:
    return lambda: content
