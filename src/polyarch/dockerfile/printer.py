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
    # The last line of a file may end in a continuation of nothing. Then what stands before it may look like
    # the end of a line, like another continuation, or like an empty line.
    unfinished = at_end and (
        line.endswith("\r") or not line.strip(SPACES) or line.rstrip(" \t").endswith(escape)
    )
    out.append(line + (escape if unfinished and line[-1:] != escape else "") + "\n")
    for heredoc in node.heredocs:
        out.append(f"{heredoc.content}{heredoc.name}\n")
    return out
