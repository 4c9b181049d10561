"""A syntax tree as plain data, for ``polyarch debug ast`` and for golden files."""

from __future__ import annotations

from typing import Any

from polyarch.dockerfile.ast import Dockerfile, Heredoc, Node


def dump(dockerfile: Dockerfile) -> dict[str, Any]:
    """The directives, the escape character and every instruction; lines are 1-based."""
    return {
        "directives": dict(dockerfile.directives),
        "escape": dockerfile.escape,
        "instructions": [dump_node(node) for node in dockerfile.nodes],
    }


def dump_node(node: Node) -> dict[str, Any]:
    """One instruction; ``json`` is there for the JSON form, ``trigger`` for ONBUILD, ``comments`` if any."""
    found: dict[str, Any] = {
        "name": node.keyword,
        "flags": list(node.flags),
        "arguments": list(node.arguments),
        "heredocs": [_heredoc(heredoc) for heredoc in node.heredocs],
        "start": node.start,
        "end": node.end,
        "original": node.original,
    }
    if node.json is not None:
        found["json"] = list(node.json)
    if node.trigger is not None:
        trigger = dump_node(node.trigger)
        found["trigger"] = {key: trigger[key] for key in trigger if key not in ("start", "end", "heredocs")}
    if node.comments:
        found["comments"] = list(node.comments)
    return found


def _heredoc(heredoc: Heredoc) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": heredoc.name,
        "expand": heredoc.expand,
        "chomp": heredoc.chomp,
        "content": heredoc.content,
    }
    if heredoc.file_descriptor:
        found["file_descriptor"] = heredoc.file_descriptor
    return found
