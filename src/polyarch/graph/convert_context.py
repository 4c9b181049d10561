"""Build contexts as vertices: the main one and the named ones."""

from __future__ import annotations

from polyarch.graph.stages import NamedContext
from polyarch.graph.vertex import GitOp, HttpOp, LocalOp, VertexMeta
from polyarch.oci.platform import Platform


def context_op(context: NamedContext) -> LocalOp | GitOp | HttpOp:
    """The operation that gives a context's files."""
    match context.kind:
        case "git":
            return GitOp(url=context.value)
        case "http":
            return HttpOp(url=context.value)
    return LocalOp(name=context.name)


def context_meta(context: NamedContext, target: Platform) -> VertexMeta:
    """How a context is shown."""
    what = "build context" if context.name == "context" else f"context {context.name}"
    shown = context.value if context.kind in ("git", "http") else what
    return VertexMeta(name=f"[internal] load {shown}", slot=f"context {context.name}", targets=(target,))
