"""Making and changing builders: what ``polyarch create`` is told, and the builder that becomes of it."""

from __future__ import annotations

import csv
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import msgspec

from polyarch.builder import options
from polyarch.builder.daemon_config import load
from polyarch.builder.endpoint import resolve
from polyarch.builder.instance import DEFAULT, Builder, NodeRecord, valid_name
from polyarch.builder.records import Builders
from polyarch.builder.words import new_name
from polyarch.errors import NotFoundError, UsageError
from polyarch.oci.platform import parse_list


@dataclass(frozen=True)
class Wish:
    """What a user asks for, in the words of the command line; empty where nothing was said."""

    name: str = ""
    node: str = ""
    driver: str = ""
    endpoint: str = ""
    platforms: Sequence[str] = ()
    driver_opts: Sequence[str] = ()
    flags: str = ""
    config: str = ""
    append: bool = False


@dataclass(frozen=True)
class Created:
    """The builder, the nodes of it that were made or changed, and what the user should hear."""

    builder: Builder
    nodes: tuple[NodeRecord, ...]
    notes: tuple[str, ...] = ()


def create(builders: Builders, wish: Wish, environment: Mapping[str, str] = os.environ) -> Created:
    """Record a new builder, or a new or changed node of one that is there. UsageError and NotFoundError say
    what is wrong; nothing has changed then."""
    if wish.append and not wish.name:
        raise UsageError("append requires a builder name", hint="add --name NAME", reason="name-missing")
    name = valid_name(wish.name) if wish.name else new_name(builders.names())
    if name == DEFAULT.name:
        raise UsageError(
            "default is a reserved name and cannot be used to identify a builder",
            hint="it is this machine; choose another name",
            reason="reserved-name",
        )
    made: list[tuple[NodeRecord, list[str]]] = []

    def change(old: Builder | None) -> Builder:
        _check_exists(old, wish, name)
        builder = old or Builder(name=name)
        node, notes = _node(builder, wish, environment)
        for one in _parts(builder, node, named=bool(wish.node)):
            made.append((one, notes))
            builder = builder.put(one)
        return builder

    builder = builders.change(name, change)
    return Created(builder, tuple(node for node, _ in made), tuple(made[0][1]))


def _parts(builder: Builder, node: NodeRecord, *, named: bool) -> list[NodeRecord]:
    """The node; in a cluster a node for each architecture of machines that its platforms need."""
    from polyarch.builder.kubernetes.settings import grouped

    groups = grouped(node.platforms) if node.driver == "kubernetes" else []
    if len(groups) < 2:
        return [node]
    if builder.find(node.name) is not None:
        raise UsageError(
            f"node {node.name}: machines of one architecture cannot be for "
            f"{', '.join(architecture for architecture, _ in groups)}",
            hint="append a node for the other platforms: --append --platform P",
            reason="several-architectures",
        )
    found: list[NodeRecord] = []
    for architecture, platforms in groups:
        name = f"{node.name}-{architecture}" if named else builder.next_name()
        endpoint = _in_cluster(builder.name, name)
        found.append(msgspec.structs.replace(node, name=name, endpoint=endpoint, platforms=platforms))
        builder = builder.put(found[-1])
    return found


def _in_cluster(builder: str, node: str) -> str:
    """What tells a node in a cluster from others."""
    return f"kubernetes:///{builder}?deployment={node}"


def leave(builders: Builders, name: str, node: str) -> Builder:
    """Take a node out of a builder."""
    if not name:
        raise UsageError("leave requires a builder name", hint="add --name NAME", reason="name-missing")
    if not node:
        raise UsageError("leave requires a node name", hint="add --node NAME", reason="node-missing")

    def change(old: Builder | None) -> Builder:
        if old is None:
            raise NotFoundError(
                f'failed to find builder "{name}" for leave', hint="polyarch ls", reason="builder-not-found"
            )
        return old.without(node)

    return builders.change(name, change)


def _check_exists(old: Builder | None, wish: Wish, name: str) -> None:
    if old is None:
        if wish.append:
            raise NotFoundError(
                f'failed to find builder "{name}" for append',
                hint="leave --append out to make it",
                reason="builder-not-found",
            )
        return
    if wish.append:
        return
    if not wish.node:
        raise UsageError(
            f'existing builder for "{name}" but no append mode, specify the node name to make changes for '
            "existing builders",
            hint=f"--append adds a node; --node NAME changes one of {', '.join(n.name for n in old.nodes)}",
            reason="builder-exists",
        )
    if old.find(valid_name(wish.node)) is None:
        raise UsageError(
            f"node {wish.node} not found, did you mean to append?", hint="--append", reason="node-not-found"
        )


def _node(builder: Builder, wish: Wish, environment: Mapping[str, str]) -> tuple[NodeRecord, list[str]]:
    """The node as it is to be recorded; what is not said stays as it was."""
    name = valid_name(wish.node) if wish.node else builder.next_name()
    known = builder.find(name)
    if known is not None and not (wish.endpoint or wish.driver):
        driver, endpoint = known.driver, known.endpoint
    else:
        endpoint = wish.endpoint
        if not endpoint and not wish.driver and not builder.nodes:
            endpoint = environment.get("BUILDKIT_HOST", "")
        if not endpoint and known is not None:
            endpoint = known.endpoint
        driver, endpoint = resolve(wish.driver, endpoint, environment)
    if driver == "kubernetes":
        endpoint = _in_cluster(builder.name, name)
    fresh = known is None or known.driver != driver
    given = options.parse(driver, _pairs(wish.driver_opts)) if wish.driver_opts else None
    kept = {} if known is None or fresh else known.driver_opts
    if given is None and fresh:
        given = options.parse(driver, {})
    node = NodeRecord(
        name=name,
        endpoint=endpoint,
        driver=driver,
        platforms=parse_list(wish.platforms) or (known.platforms if known else ()),
        driver_opts=kept if given is None else given,
        flags=_flags(wish.flags) if wish.flags else (known.flags if known else ()),
        files=load(wish.config) if wish.config else (known.files if known else {}),
    )
    return node, _notes(wish, known, node)


def _notes(wish: Wish, known: NodeRecord | None, node: NodeRecord) -> list[str]:
    """What else should be known."""
    notes = []
    if wish.append and known is not None:
        notes.append(f"node {node.name} was there already, and was changed")
    if node.driver != "kubernetes":
        for option, given in (("--buildkitd-flags", wish.flags), ("--buildkitd-config", wish.config)):
            if given:
                notes.append(f"{option} has no effect: the driver {node.driver} starts no daemon")
    elif find_spec("kubernetes") is None:
        notes.append("the driver kubernetes needs a Python package: pip install 'polyarch[kubernetes]'")
    elif known is not None and node != known:
        notes.append("new settings are used by the next inspect --bootstrap")
    return notes


def _pairs(texts: Sequence[str]) -> dict[str, str]:
    """``KEY=VALUE``, several in one text separated by commas as in CSV."""
    found: dict[str, str] = {}
    for text in texts:
        try:
            fields = next(csv.reader([text], strict=True), [])
        except csv.Error as error:
            raise UsageError(f"--driver-opt {text!r}: {error}", reason="invalid-driver-option") from None
        for field in fields:
            key, equals, value = field.partition("=")
            if not equals or not key.strip():
                raise UsageError(
                    f"--driver-opt {field!r} is not KEY=VALUE",
                    hint="a value with commas is quoted: --driver-opt '\"nodeselector=a=b,c=d\"'",
                    reason="invalid-driver-option",
                )
            found[key.strip()] = value
    return found


def _flags(text: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise UsageError(f"--buildkitd-flags {text!r}: {error}", reason="invalid-flags") from None
