"""What each instruction does to a stage: to its configuration, its environment and its vertices."""

from __future__ import annotations

import posixpath
from dataclasses import replace

from polyarch.dockerfile import shell
from polyarch.dockerfile.expand import expand
from polyarch.dockerfile.instructions import (
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    Healthcheck,
    Instruction,
    Label,
    Maintainer,
    OnBuild,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from polyarch.dockerfile.ports import port_specifications
from polyarch.errors import DockerfileError, PolyarchError
from polyarch.graph import gotext
from polyarch.graph.dispatch_files import copy_vertex
from polyarch.graph.dispatch_meta import step_meta
from polyarch.graph.dispatch_run import run_vertex
from polyarch.graph.draft import Draft
from polyarch.graph.naming import StepNames
from polyarch.graph.signals import check_signal
from polyarch.graph.stages import StagePlan, StageState
from polyarch.graph.vertex import FileOp, Graph, MakeDirectoryAction, Vertex
from polyarch.oci.config import Healthcheck as HealthcheckConfig

# Settings of the builder that are declared like arguments but never become variables.
_NOT_VARIABLES = frozenset({"BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"})


class Dispatcher:
    """Converts the stages of one plan into vertices of a graph."""

    def __init__(self, plan: StagePlan, graph: Graph, names: StepNames) -> None:
        self.plan = plan
        self.graph = graph
        self.names = names

    def run(self, state: StageState) -> None:
        """Convert every instruction of ``state``, in order."""
        self.names.begin(state)
        cmd_set = False
        for position, instruction in enumerate(state.instructions):
            triggered = position < state.triggers
            try:
                expanded = self._expanded(instruction, state)
                cmd_set |= isinstance(expanded, Cmd)
                self._dispatch(expanded, instruction, state, triggered=triggered, cmd_set=cmd_set)
            except PolyarchError as error:
                raise _located(error, instruction) from None

    def _expanded(self, instruction: Instruction, state: StageState) -> Instruction:
        if isinstance(instruction, Arg):
            return instruction  # values the user overrides are not expanded at all
        return expand(instruction, state.environment, escape=self.plan.program.escape)

    def _dispatch(
        self,
        instruction: Instruction,
        written: Instruction,
        state: StageState,
        *,
        triggered: bool,
        cmd_set: bool,
    ) -> None:
        image = state.image
        assert image is not None
        match instruction:
            case Run():
                name = self.names.next(state, instruction, triggered=triggered)
                run_vertex(instruction, written, state, self.plan, self.graph, name)
            case Copy() | Add():
                name = self.names.next(state, instruction, triggered=triggered)
                copy_vertex(instruction, written, state, self.plan, self.graph, name)
            case Workdir():
                self._workdir(instruction, state, image, triggered=triggered)
            case Arg():
                self._arg(instruction, state, image)
            case Env(pairs=pairs):
                for name, value in pairs:
                    state.environment[name] = value
                    image.set_env(name, value)
                image.commit("ENV" + _pairs(pairs), layer=False)
            case Entrypoint(command=command):
                image.entrypoint = _words(command.words, image, shell_form=command.shell)
                if not cmd_set:
                    image.cmd = None
                image.commit(f"ENTRYPOINT {gotext.quote_list(image.entrypoint)}", layer=False)
            case Cmd(command=command):
                image.cmd = _words(command.words, image, shell_form=command.shell)
                image.args_escaped = True
                image.commit(f"CMD {gotext.quote_list(image.cmd)}", layer=False)
            case _:
                _configure(instruction, image)

    def _workdir(self, instruction: Workdir, state: StageState, image: Draft, *, triggered: bool) -> None:
        written = instruction.path
        path = posixpath.normpath(posixpath.join("/", image.working_dir, written))
        path = "/" + path.lstrip("/")
        image.working_dir = written if written.startswith("/") else path  # as docker: what is absolute stays
        name = self.names.next(state, instruction, triggered=triggered)
        if path != "/":
            action = MakeDirectoryAction(path=path, owner=image.user)
            inputs = (state.vertex,) if state.vertex is not None else ()
            op = FileOp(actions=(action,), detached=not inputs, epoch=self.plan.options.epoch)
            state.vertex = self.graph.add(Vertex(op, inputs), step_meta(name, state, instruction, self.plan))
        image.commit(f"WORKDIR {image.working_dir}", layer=path != "/")

    def _arg(self, instruction: Arg, state: StageState, image: Draft) -> None:
        given, inherited = self.plan.options.build_args, self.plan.global_args
        shown = []
        for definition in instruction.arguments:
            value = definition.value
            if definition.name in given:
                value = given[definition.name]
            elif value is not None:
                value = shell.expand(value, state.environment, escape=self.plan.program.escape)
            else:
                value = inherited.get(definition.name)
            if value is not None and definition.name not in _NOT_VARIABLES:
                state.environment[definition.name] = value
            state.arguments[definition.name] = value
            shown.append(definition.name if value is None else f"{definition.name}={value}")
        image.commit("ARG " + " ".join(shown), layer=False)


def _configure(instruction: Instruction, image: Draft) -> None:
    """The instructions that change nothing but the configuration."""
    match instruction:
        case Label(pairs=pairs):
            image.labels = {**(image.labels or {}), **dict(pairs)}
            image.commit("LABEL" + _pairs(pairs), layer=False)
        case Expose(ports=words):
            ports = port_specifications(words)
            image.exposed_ports = {**(image.exposed_ports or {}), **dict.fromkeys(ports)}
            image.commit(f"EXPOSE {gotext.plain_list(ports)}", layer=False)
        case User(user=user):
            image.user = user
            image.commit(f"USER {user}", layer=False)
        case Volume(paths=paths):
            if not all(paths):
                raise DockerfileError("VOLUME: a path is empty", reason="empty-volume")
            image.volumes = {**(image.volumes or {}), **dict.fromkeys(paths)}
            image.commit(f"VOLUME {gotext.plain_list(paths)}", layer=False)
        case StopSignal(signal=signal):
            check_signal(signal)
            image.stop_signal = signal
            image.commit(f"STOPSIGNAL {signal}", layer=False)
        case Shell(words=words):
            image.shell = words
            image.commit(f"SHELL {gotext.plain_list(words)}", layer=False)
        case Healthcheck():
            image.healthcheck = _healthcheck(instruction)
            image.commit(f"HEALTHCHECK {gotext.healthcheck(image.healthcheck)}", layer=False)
        case OnBuild(expression=expression):
            image.on_build.append(expression)
        case Maintainer(name=name):
            image.author = name
            image.commit(f"MAINTAINER {name}", layer=False)
        case _:
            raise AssertionError(f"unknown instruction {instruction!r}")


def _healthcheck(check: Healthcheck) -> HealthcheckConfig:
    return HealthcheckConfig(
        test=check.test,
        interval=check.interval,
        timeout=check.timeout,
        start_period=check.start_period,
        start_interval=check.start_interval,
        retries=check.retries,
    )


def _words(words: tuple[str, ...], image: Draft, *, shell_form: bool) -> tuple[str, ...]:
    return image.with_shell(" ".join(words)) if shell_form else words


def _pairs(pairs: tuple[tuple[str, str], ...]) -> str:
    return "".join(f" {name}={value}" for name, value in pairs)


def _located(error: PolyarchError, instruction: Instruction) -> PolyarchError:
    if error.location is None:
        error.location = replace(instruction.location)
    return error
