"""Checks of how a Dockerfile is written: casing, names, comments. They need nothing but its text."""

from __future__ import annotations

from polyarch.dockerfile.ast import Node
from polyarch.dockerfile.lint import Context
from polyarch.errors import Location

_RESERVED = ("scratch", "context")


def check(context: Context) -> None:
    """Run every check of this module."""
    for node in context.dockerfile.nodes:
        _continuation(context, node)
        _deprecated(context, node)
        _description(context, node)
        if node.keyword == "FROM":
            _from_casing(context, node)
    _stage_names(context)
    _instruction_casing(context)


def _continuation(context: Context, node: Node) -> None:
    if node.empty_continuation:
        line = node.empty_continuation
        where = Location(context.dockerfile.file, line, line, source=context.dockerfile.source)
        message = f"empty line inside {node.keyword}: remove it, or put a comment there"
        context.report("NoEmptyContinuation", message, node, where)


def _deprecated(context: Context, node: Node) -> None:
    if node.keyword == "MAINTAINER":
        message = "MAINTAINER is deprecated; write LABEL org.opencontainers.image.authors=…"
        context.report("MaintainerDeprecated", message, node, None)


def _description(context: Context, node: Node) -> None:
    """A comment directly above an ARG or a named FROM is shown by ``--call outline`` and ``targets``."""
    match node.keyword:
        case "ARG":
            names = [word.partition("=")[0] for word in node.arguments]
        case "FROM" if len(node.arguments) == 3:
            names = [node.arguments[2].lower()]
        case _:
            return
    comments = [
        comment for comment in node.comments if not comment.replace(" ", "").startswith("check=skip=")
    ]
    if not comments or comments[-1].split(" ")[0] in names:
        return
    shown = names[0] if len(names) == 1 else "<name>"
    message = (
        f"the comment above {node.keyword} should read '# {shown} <description>', or stand apart from it"
    )
    context.report("InvalidDefinitionDescription", message, node, None)


def _from_casing(context: Context, node: Node) -> None:
    if len(node.arguments) != 3:
        return
    keyword, name = node.arguments[1:]
    if name != name.lower():
        context.report("StageNameCasing", f"the stage name {name!r} should be {name.lower()!r}", node, None)
    spelling = node.spelling
    if spelling in (spelling.lower(), spelling.upper()) and spelling.islower() != (
        keyword == keyword.lower()
    ):
        message = f"{keyword!r} and {spelling!r} should be in the same case"
        context.report("FromAsCasing", message, node, None)


def _stage_names(context: Context) -> None:
    seen: set[str] = set()
    for (node, _), stage in zip(context.body(), context.program.stages, strict=True):
        if stage.name in _RESERVED:
            message = f"the stage name {stage.name!r} is reserved, and cannot be used in FROM or --from"
            context.report("ReservedStageName", message, node, None)
        if stage.name in seen:
            message = (
                f"there is another stage called {stage.name!r} above; only the last can be reached by name"
            )
            context.report("DuplicateStageName", message, node, None)
        if stage.name:
            seen.add(stage.name)


def _instruction_casing(context: Context) -> None:
    nodes = [node for first, rest in context.body() for node in (first, *rest)]
    lower = sum(node.spelling == node.spelling.lower() for node in nodes)
    upper = sum(node.spelling == node.spelling.upper() for node in nodes)
    for node in nodes:
        wanted = node.spelling.lower() if lower > upper else node.spelling.upper()
        if node.spelling != wanted:
            message = f"{node.spelling!r} should be {wanted!r}, as most instructions here"
            context.report("ConsistentInstructionCasing", message, node, None)
