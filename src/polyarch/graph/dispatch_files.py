"""COPY and ADD as vertices: where sources come from, and what is done with each of them."""

from __future__ import annotations

import posixpath
import re

from polyarch.context.git_url import is_git_url
from polyarch.context.git_url import parse as parse_git_url
from polyarch.context.http import is_http_url, is_valid_url
from polyarch.dockerfile.instructions import Add, Copy, Instruction
from polyarch.errors import DockerfileError, UsageError
from polyarch.graph.convert_context import context_meta, context_op
from polyarch.graph.dispatch_meta import step_meta
from polyarch.graph.stages import StagePlan, StageState
from polyarch.graph.vertex import (
    CopyAction,
    FileOp,
    GitOp,
    Graph,
    HttpOp,
    InlineOp,
    MergeOp,
    Vertex,
    VertexMeta,
)
from polyarch.oci import digest as digests

_CHMOD_OCTAL = re.compile(r"0*[0-7]{1,4}")
_CHMOD_SYMBOLIC = re.compile(
    r"[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+(?:,[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+)*"
)


def main_context(plan: StagePlan, graph: Graph) -> Vertex:
    """The build context's vertex."""
    context = plan.options.context
    return graph.add(Vertex(context_op(context)), context_meta(context, plan.target_platform))


def stage_vertex(source: StageState, user: StageState, plan: StagePlan, name: str) -> Vertex | None:
    """The result of a stage or image that ``user`` copies or mounts from; None when it is empty."""
    if not source.external and plan.states.index(source) >= plan.states.index(user):
        raise DockerfileError(
            f"cannot copy from stage {name!r}: it needs to be defined before the current stage",
            hint="move it up in the Dockerfile",
            reason="stage-order",
        )
    return source.vertex


def copy_vertex(
    instruction: Copy | Add, written: Instruction, state: StageState, plan: StagePlan, graph: Graph, name: str
) -> None:
    """Add the vertex, make it the stage's state, and commit the history."""
    image = state.image
    assert image is not None
    _check(instruction)
    builder = _Actions(instruction, written, state, plan, graph)
    builder.collect()
    detached = (instruction.link and not instruction.chmod) or state.vertex is None
    meta = step_meta(name, state, instruction, plan)
    epoch = plan.options.epoch
    if detached:
        op = FileOp(actions=tuple(builder.actions), detached=True, epoch=epoch)
        layer = graph.add(Vertex(op, tuple(builder.inputs)), meta)
        state.vertex = (
            layer
            if state.vertex is None
            else graph.add(Vertex(MergeOp(), (state.vertex, layer)), _merge_meta(meta))
        )
    else:
        assert state.vertex is not None
        actions = tuple(_shifted(action) for action in builder.actions)
        op = FileOp(actions=actions, epoch=epoch)
        state.vertex = graph.add(Vertex(op, (state.vertex, *builder.inputs)), meta)
    image.commit(_history(instruction), layer=True, marked=True)


def _merge_meta(meta: VertexMeta) -> VertexMeta:
    from dataclasses import replace

    return replace(meta, name=re.sub(r"\] ", "] LINK ", meta.name, count=1), slot=meta.slot + " link")


def _shifted(action: CopyAction) -> CopyAction:
    """Input 0 is the base."""
    import msgspec

    return msgspec.structs.replace(action, input=action.input + 1)


def _check(instruction: Copy | Add) -> None:
    mode = instruction.chmod
    if mode and not _CHMOD_OCTAL.fullmatch(mode) and not _CHMOD_SYMBOLIC.fullmatch(mode):
        raise DockerfileError(
            f"invalid chmod parameter: {mode!r}",
            hint="give an octal number between 0 and 07777, or symbols such as u=rwX,go=rX",
            reason="invalid-chmod",
        )
    for source in instruction.sources:
        if is_http_url(source) and not is_valid_url(source):
            raise DockerfileError(
                f"{source}: invalid URL", hint="it looks like https://example.com/file", reason="invalid-url"
            )
    if isinstance(instruction, Add) and instruction.checksum:
        if len(instruction.sources) != 1 or instruction.inline:
            raise DockerfileError(
                "ADD --checksum: checksum can't be specified for multiple sources", reason="invalid-checksum"
            )
        source = instruction.sources[0]
        if not is_http_url(source) and not is_git_url(source):
            raise DockerfileError(
                "ADD --checksum: checksum requires HTTP(S) or Git sources", reason="invalid-checksum"
            )
        if is_http_url(source) and not is_git_url(source):
            digests.parse(instruction.checksum)


def _history(instruction: Copy | Add) -> str:
    words = ["ADD" if isinstance(instruction, Add) else "COPY"]
    if isinstance(instruction, Copy) and instruction.parents:
        words.append("--parents")
    if instruction.chown:
        words.append(f"--chown={instruction.chown}")
    if instruction.chmod:
        words.append(f"--chmod={instruction.chmod}")
    words += instruction.sources
    words += [f"<<{file.name}" for file in instruction.inline]
    return " ".join([*words, instruction.destination])


class _Actions:
    """The actions of one COPY or ADD and the vertices they read; action inputs count from 0."""

    def __init__(
        self, instruction: Copy | Add, written: Instruction, state: StageState, plan: StagePlan, graph: Graph
    ) -> None:
        self.instruction = instruction
        self.state = state
        self.plan = plan
        self.graph = graph
        self.actions: list[CopyAction] = []
        self.inputs: list[Vertex] = []
        stages = state.sources.get(id(written), [])
        self.origin = stages[0] if stages else None
        self.destination = _destination(instruction.destination, state)

    def collect(self) -> None:
        for source in self.instruction.sources:
            if is_git_url(source):
                self._git(source)
            elif is_http_url(source):
                self._http(source)
            else:
                self._local(source)
        for file in self.instruction.inline:
            vertex = Vertex(InlineOp(name=posixpath.basename(file.name), content=file.content))
            self._act(vertex, "/" + posixpath.basename(file.name), name="preparing inline document")

    def _act(self, vertex: Vertex, source: str, *, name: str = "", **options: object) -> None:
        vertex = self.graph.add(
            vertex, VertexMeta(name=f"[internal] {name or source}", targets=(self.plan.target_platform,))
        )
        if vertex not in self.inputs:
            self.inputs.append(vertex)
        self.actions.append(
            CopyAction(
                input=self.inputs.index(vertex),
                source=source,
                destination=self.destination,
                chown=self.instruction.chown,
                chmod=self.instruction.chmod,
                exclude=self.instruction.excludes,
                **options,  # type: ignore[arg-type]  # each is a field of CopyAction
            )
        )

    def _refuse_copy(self, what: str) -> None:
        if isinstance(self.instruction, Copy):
            raise DockerfileError(
                f"COPY: source can't be a {what}", hint="use ADD for it", reason="remote-copy"
            )

    def _git(self, source: str) -> None:
        self._refuse_copy("git ref")
        assert isinstance(self.instruction, Add)
        try:
            parse_git_url(source)
        except UsageError as error:
            raise DockerfileError(error.summary, hint=error.hint, reason=error.reason) from None
        op = GitOp(
            url=source,
            keep_git_dir=bool(self.instruction.keep_git_dir),
            checksum=self.instruction.checksum,
        )
        self._act(Vertex(op), "/", name=source, contents_only=False)

    def _http(self, source: str) -> None:
        self._refuse_copy("URL")
        assert isinstance(self.instruction, Add)
        op = HttpOp(url=source, checksum=self.instruction.checksum)
        self._act(Vertex(op), "/" + op.file_name, name=source, unpack=bool(self.instruction.unpack))

    def _local(self, source: str) -> None:
        instruction = self.instruction
        vertex = self._origin_vertex()
        include: tuple[str, ...] = ()
        required: tuple[str, ...] = ()
        if isinstance(instruction, Copy) and instruction.parents:
            parent, found, pattern = source.partition("/./")
            if not found:
                parent, pattern = "/", source
            pattern = _clean(pattern).lstrip("/")
            include = (pattern,)
            if not _has_wildcards(parent) and not _has_wildcards(pattern):
                required = (posixpath.join(_clean(parent), pattern),)
            source = parent
        unpack = isinstance(instruction, Add) and instruction.unpack is not False
        if vertex is None:  # an empty stage: there is nothing that could be found in it
            vertex = Vertex(FileOp(actions=(), detached=True))
        self._act(
            vertex,
            _clean(source),
            name="scratch",
            include=include,
            required=required,
            follow=True,
            contents_only=True,
            wildcards=True,
            unpack=unpack,
        )

    def _origin_vertex(self) -> Vertex | None:
        if self.origin is None:
            return main_context(self.plan, self.graph)
        assert isinstance(self.instruction, Copy)
        return stage_vertex(self.origin, self.state, self.plan, self.instruction.from_)


def _has_wildcards(name: str) -> bool:
    return re.search(r"(?<!\\)[*?\[]", name) is not None


def _clean(path: str) -> str:
    """Absolute and normalised; a trailing slash means nothing in a source."""
    return "/" + posixpath.normpath(posixpath.join("/", path)).lstrip("/")


def _destination(path: str, state: StageState) -> str:
    working_dir = state.image.working_dir if state.image is not None else "/"
    if path in (".", ""):
        path = "./"
    keep_slash = path.endswith(("/", "/."))
    cleaned = posixpath.normpath(posixpath.join("/", working_dir or "/", path))
    cleaned = "/" + cleaned.lstrip("/")
    return cleaned + "/" if keep_slash and cleaned != "/" else cleaned
