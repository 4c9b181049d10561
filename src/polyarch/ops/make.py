"""From a vertex to the operation that does it."""

from __future__ import annotations

from polyarch.graph.vertex import ExecOp, FileOp, GitOp, HttpOp, ImageOp, InlineOp, LocalOp, MergeOp, Vertex
from polyarch.ops.exec import ExecOperation
from polyarch.ops.file import FileOperation, MergeOperation
from polyarch.ops.session import Session
from polyarch.ops.sources import SourceOperation
from polyarch.solver.op import Op


def operation(vertex: Vertex, session: Session) -> Op:
    """What to do for ``vertex``."""
    local = frozenset(n for n, source in enumerate(vertex.inputs) if isinstance(source.op, LocalOp))
    match vertex.op:
        case ExecOp() as op:
            return ExecOperation(op, session, local)
        case FileOp() as op:
            return FileOperation(op, session, local)
        case MergeOp() as op:
            return MergeOperation(op, session)
        case ImageOp() | LocalOp() | GitOp() | HttpOp() | InlineOp() as op:
            return SourceOperation(op, session)
