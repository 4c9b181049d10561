"""A syntax tree to a program: global arguments and stages of typed instructions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from polyarch.dockerfile.ast import Dockerfile, Node
from polyarch.dockerfile.instructions import Arg, From, Instruction, Stage
from polyarch.dockerfile.parser import parse
from polyarch.dockerfile.typed import typed
from polyarch.errors import DockerfileError, Location


@dataclass(frozen=True)
class Program:
    """What a Dockerfile says: ``arguments`` are the ARGs above the first FROM, in order."""

    arguments: tuple[Arg, ...]
    stages: tuple[Stage, ...]
    directives: dict[str, str] = field(default_factory=dict)
    escape: str = "\\"
    file: str = "Dockerfile"
    source: str = field(default="", repr=False)


def instructions(dockerfile: Dockerfile) -> Program:
    """The program of a parsed Dockerfile.

    DockerfileError, with its place and often a "did you mean", for whatever the reference does not allow.
    """
    arguments: list[Arg] = []
    stages: list[Stage] = []
    base: From | None = None
    body: list[Instruction] = []
    for node in dockerfile.nodes:
        instruction = typed(node, dockerfile.location(node))
        match instruction:
            case From():
                if base is not None:
                    stages.append(Stage(len(stages), base, tuple(body)))
                base, body = instruction, []
            case Arg() if base is None:
                arguments.append(instruction)
            case _ if base is None:
                raise DockerfileError(
                    f"{node.keyword} stands before the first FROM",
                    hint="start with FROM; only ARG may stand above it",
                    location=dockerfile.location(node),
                    reason="no-stage",
                )
            case _:
                body.append(instruction)
    if base is None:
        raise DockerfileError(
            f"{dockerfile.file} has no stage to build",
            hint="add a FROM, such as FROM debian",
            location=dockerfile.location(dockerfile.nodes[-1]),
            reason="no-stage",
        )
    stages.append(Stage(len(stages), base, tuple(body)))
    return Program(
        tuple(arguments),
        tuple(stages),
        dockerfile.directives,
        dockerfile.escape,
        dockerfile.file,
        dockerfile.source,
    )


def parse_one(text: str, *, location: Location, escape: str = "\\") -> Instruction:
    """The one instruction in ``text``: an ONBUILD trigger of a base image.

    ``location`` is where to point when it is wrong (the FROM of the child). An escape directive does not
    reach triggers: they are read with ``escape``, which docker leaves at the default.
    """
    try:
        node = _only_node(text, escape)
        if node.keyword in ("FROM", "ONBUILD"):
            raise DockerfileError(f"{node.keyword} cannot be an ONBUILD trigger", reason="onbuild")
        instruction = typed(node, location)
    except DockerfileError as error:
        raise DockerfileError(
            error.summary, detail=error.detail, hint=error.hint, location=location, reason=error.reason
        ) from None
    return replace(instruction, location=location)


def _only_node(text: str, escape: str) -> Node:
    header = "# escape=`\n" if escape == "`" else ""
    dockerfile = parse(header + text, file="ONBUILD")
    if len(dockerfile.nodes) != 1:
        raise DockerfileError("an ONBUILD trigger must be one instruction", reason="onbuild")
    return dockerfile.nodes[0]
