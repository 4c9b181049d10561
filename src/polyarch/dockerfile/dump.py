"""Syntax trees, places and findings as plain data, for JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from polyarch.dockerfile.ast import Dockerfile, Heredoc, Node
from polyarch.dockerfile.lint import Finding
from polyarch.errors import DockerfileError, Location


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


def dump_location(location: Location) -> dict[str, Any]:
    """As docker has it: one range a line."""
    lines = range(location.start, location.end + 1)
    return {"ranges": [{"start": {"line": line}, "end": {"line": line}} for line in lines]}


def dump_findings(findings: Iterable[Finding], error: DockerfileError | None = None) -> dict[str, Any]:
    """What ``--call check,format=json`` prints, by docker's keys. ``error`` is what stopped the checks."""
    found: dict[str, Any] = {
        "warnings": [
            {
                "ruleName": finding.rule,
                "description": finding.description,
                "url": finding.url,
                "detail": finding.message,
                "location": dump_location(finding.location),
            }
            for finding in findings
        ]
    }
    if error is not None:
        place = dump_location(error.location) if error.location else {}
        found["buildError"] = {"message": error.summary, "location": place}
    return found
