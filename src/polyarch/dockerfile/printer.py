"""A syntax tree to text that reads back as the same tree: one line an instruction, heredocs below it."""

from __future__ import annotations

from polyarch.dockerfile.ast import Dockerfile, Node
from polyarch.dockerfile.characters import SPACES


def text(dockerfile: Dockerfile) -> str:
    """``dockerfile`` as text, without line breaks inside instructions and without loose comments."""
    out = [f"# {name}={value}\n" for name, value in dockerfile.directives.items()]
    out.append("\n")  # whatever follows is not a directive
    last = len(dockerfile.nodes) - 1
    for position, node in enumerate(dockerfile.nodes):
        out += _node(node, dockerfile.escape, at_end=position == last)
    return "".join(out)


def _node(node: Node, escape: str, *, at_end: bool) -> list[str]:
    out = ["#\n"] if node.comments else []
    out += [f"# {comment}\n" for comment in node.comments]
    line = node.original
    if line[:1] in SPACES:  # also when empty: white space at the start survives only behind a continuation
        out.append(f"{escape}\n")
    # A carriage return at the end would be taken for part of the line break, but not before a continuation.
    out.append(line + (escape if at_end and line.endswith("\r") and not node.heredocs else "") + "\n")
    for heredoc in node.heredocs:
        out.append(f"{heredoc.content}{heredoc.name}\n")
    return out
