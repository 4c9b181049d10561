"""Reaching a builder's nodes before the rest of the command is imported: ssh needs that time."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from polyarch.builder.instance import Builder
from polyarch.builder.ssh.transport import Ssh, remote_line, serve_words
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform

AT_MOST = 8  # nodes that are reached before it is clear which will be used


def begin(builder: Builder, wanted: Sequence[Platform], stack: ExitStack) -> dict[str, Ssh]:
    """An ssh to every node that will probably be used, by the node's name. They end with ``stack``."""
    found: dict[str, Ssh] = {}
    for record in builder.nodes:
        if record.driver != "ssh" or len(found) == AT_MOST:
            continue
        declared = record.platforms
        if declared and wanted and all(platforms.choose(one, declared) is None for one in wanted):
            continue
        found[record.name] = Ssh(record, remote_line(record, serve_words(record)))
        stack.callback(found[record.name].close)
    return found
