"""RUN as a vertex: the command, its environment, its mounts and what they show."""

from __future__ import annotations

import posixpath

from polyarch.dockerfile.heredoc import SCRIPT_FOLDER, run_script
from polyarch.dockerfile.instructions import Instruction, Run, RunMount
from polyarch.errors import DockerfileError
from polyarch.graph.arguments import PROXIES
from polyarch.graph.dispatch_files import main_context, stage_vertex
from polyarch.graph.dispatch_meta import step_meta
from polyarch.graph.stages import SCRATCH, StagePlan, StageState
from polyarch.graph.vertex import ExecMount, ExecOp, FileOp, Graph, InlineOp, Vertex, VertexMeta


def run_vertex(
    instruction: Run, written: Instruction, state: StageState, plan: StagePlan, graph: Graph, name: str
) -> None:
    """Add the vertex, make it the stage's state, and commit the history."""
    image = state.image
    assert image is not None and state.platform is not None
    arguments, script = run_script(instruction.command, image.shell_words)
    inputs: list[Vertex] = []
    if state.vertex is not None:
        inputs.append(state.vertex)
    else:
        inputs.append(graph.add(Vertex(FileOp(actions=(), detached=True)), VertexMeta(name="FROM scratch")))
    mounts = _mounts(instruction, written, state, plan, graph, inputs)
    if script is not None:
        file_name, content, mode = script
        vertex = graph.add(
            Vertex(InlineOp(name=file_name, content=content, mode=mode)),
            VertexMeta(name="[internal] preparing inline document", targets=(plan.target_platform,)),
        )
        inputs.append(vertex)
        mounts.append(ExecMount(type="bind", target=SCRIPT_FOLDER, input=len(inputs) - 1, read_only=True))
    options = plan.options
    op = ExecOp(
        arguments=arguments,
        environment=tuple(
            f"{key}={value}" for key, value in state.environment.items() if not _is_proxy(key, state)
        ),
        directory=posixpath.normpath("/" + image.working_dir.lstrip("/")),
        platform=state.platform,
        user=image.user,
        mounts=tuple(mounts),
        network=instruction.network if instruction.network != "default" else options.network,
        security=instruction.security,
        hosts=options.hosts,
        hostname=options.hostname,
        shm_size=options.shm_size,
        limits=options.limits,
    )
    state.vertex = graph.add(Vertex(op, tuple(inputs)), step_meta(name, state, instruction, plan))
    image.commit(f"RUN {_history(arguments, state)}", layer=True, marked=True)


def _is_proxy(name: str, state: StageState) -> bool:
    """A proxy setting is no part of the step unless the Dockerfile declares it as its own."""
    return name.lower() in PROXIES and name not in state.arguments and name not in _image_names(state)


def _image_names(state: StageState) -> set[str]:
    return set(state.image.environment()) if state.image is not None else set()


def _history(arguments: tuple[str, ...], state: StageState) -> str:
    """The command as the history has it: ``|2 A=1 B=2 /bin/sh -c …``."""
    shown = [f"{name}={state.environment.get(name, value or '')}" for name, value in state.arguments.items()]
    count = [f"|{len(shown)}"] if shown else []
    return " ".join([*count, *shown, *arguments])


def _mounts(
    instruction: Run,
    written: Instruction,
    state: StageState,
    plan: StagePlan,
    graph: Graph,
    inputs: list[Vertex],
) -> list[ExecMount]:
    sources = state.sources.get(id(written), [])
    mounts = []
    for position, mount in enumerate(instruction.mounts):
        source = sources[position] if position < len(sources) else None
        mounts.append(_mount(mount, source, state, plan, graph, inputs))
    return mounts


def _mount(
    mount: RunMount,
    source: StageState | None,
    state: StageState,
    plan: StagePlan,
    graph: Graph,
    inputs: list[Vertex],
) -> ExecMount:
    if mount.type == "secret":
        return _secret(mount)
    if mount.type == "ssh":
        return ExecMount(
            type="ssh",
            target=mount.target,
            id=mount.id or "default",
            required=mount.required,
            mode=mount.mode,
            uid=mount.uid,
            gid=mount.gid,
        )
    target = _target(mount, state)
    if mount.type == "tmpfs":
        return ExecMount(type="tmpfs", target=target, size=mount.size, read_only=False)
    vertex = _mount_source(mount, source, state, plan, graph)
    number = None
    if vertex is not None:
        inputs.append(vertex)
        number = len(inputs) - 1
    read_only = mount.read_only if mount.read_only is not None else mount.type == "bind"
    return ExecMount(
        type=mount.type,
        target=target,
        input=number,
        source=posixpath.join("/", mount.source),
        read_only=read_only,
        id=_cache_id(mount.id or target, plan) if mount.type == "cache" else "",
        sharing=mount.sharing,
        mode=mount.mode,
        uid=mount.uid,
        gid=mount.gid,
    )


def _cache_id(id: str, plan: StagePlan) -> str:
    namespace = plan.options.cache_namespace
    shared = "any/" if id.startswith("any/") else ""  # for all platforms: that stays in front
    return f"{shared}{namespace}/{id.removeprefix(shared)}" if namespace else id


def _mount_source(
    mount: RunMount, source: StageState | None, state: StageState, plan: StagePlan, graph: Graph
) -> Vertex | None:
    if source is not None:
        if source.base_name == SCRATCH and source.external:
            return None
        return stage_vertex(source, state, plan, mount.from_)
    if mount.type == "cache":
        return None
    return main_context(plan, graph)


def _target(mount: RunMount, state: StageState) -> str:
    working_dir = state.image.working_dir if state.image is not None else "/"
    target = posixpath.normpath(posixpath.join("/", working_dir, mount.target))
    if target == "/":
        raise DockerfileError(
            f"RUN --mount: invalid mount target {mount.target!r}",
            hint="mount to a directory below /",
            reason="invalid-mount",
        )
    return target


def _secret(mount: RunMount) -> ExecMount:
    secret_id = mount.source or mount.id or posixpath.basename(mount.target)
    if not secret_id:
        raise DockerfileError(
            "RUN --mount=type=secret: one of id, source and target is required", reason="invalid-mount"
        )
    target = mount.target
    if not target and mount.env is None:
        target = "/run/secrets/" + posixpath.basename(secret_id)
    return ExecMount(
        type="secret",
        target=target,
        id=secret_id,
        required=mount.required,
        env=mount.env or "",
        mode=mount.mode,
        uid=mount.uid,
        gid=mount.gid,
    )
