"""Variables in instructions: which words of each are expanded, and how.

    ENV, LABEL               keys and values
    COPY, ADD                sources, destination, --chown, --chmod, --checksum; bodies of heredocs whose
                             name is not quoted (there, quotes are ordinary characters)
    WORKDIR, USER, STOPSIGNAL, VOLUME
    EXPOSE                   and a variable may hold several ports
    ARG                      defaults, each seeing those to its left
    RUN                      options of --mount and --device; the command is the shell's business

Nothing else is expanded: not RUN's, CMD's and ENTRYPOINT's commands, not HEALTHCHECK, SHELL, ONBUILD,
``--exclude``, nor ``--from`` (a stage must be known before any variable is).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from polyarch.dockerfile import shell
from polyarch.dockerfile.instructions import (
    Add,
    Arg,
    ArgDefinition,
    Copy,
    Env,
    Expose,
    InlineFile,
    Instruction,
    Label,
    Run,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from polyarch.dockerfile.mounts import parse_mount
from polyarch.errors import DockerfileError

# A heredoc's body always has the default escape character, and quotes mean nothing in it.
_BODY = shell.Style("\\", quotes=False)


@dataclass
class Variables:
    """An environment that remembers which names were looked up.

    ``used`` are those found; ``missed`` those not found, once for every word they stand in.
    """

    env: Mapping[str, str]
    escape: str = "\\"
    used: set[str] = field(default_factory=set)
    missed: list[str] = field(default_factory=list)

    def word(self, word: str) -> str:
        """``word`` expanded to one text."""
        return self._process(word, shell.Style(self.escape)).text

    def words(self, word: str) -> tuple[str, ...]:
        """``word`` expanded and split."""
        return self._process(word, shell.Style(self.escape)).words

    def body(self, text: str) -> str:
        """The body of a heredoc, expanded."""
        return self._process(text, _BODY).text

    def _process(self, word: str, style: shell.Style) -> shell.Expansion:
        if "$" not in word and "'" not in word and '"' not in word and style.escape not in word:
            return shell.Expansion(word, tuple(shell.split(word, {})), frozenset(), frozenset())
        expansion = shell.process(word, self.env, style)
        self.used |= expansion.used
        self.missed += sorted(expansion.unmatched)
        return expansion


def expand(instruction: Instruction, env: Mapping[str, str], *, escape: str = "\\") -> Instruction:
    """``instruction`` with its words expanded in ``env``; for RUN also with its ``mounts``.

    All words of one instruction see the same environment. DockerfileError at the instruction's place.
    """
    return expand_with(instruction, Variables(env, escape))


def expand_with(instruction: Instruction, variables: Variables) -> Instruction:
    """As ``expand``, leaving in ``variables`` what was used and what was missed."""
    try:
        return _expand(instruction, variables)
    except DockerfileError as error:
        if error.location is not None:
            raise
        raise DockerfileError(
            error.summary,
            detail=error.detail,
            hint=error.hint,
            location=instruction.location,
            reason=error.reason,
        ) from None


def _expand(instruction: Instruction, variables: Variables) -> Instruction:
    one = variables.word
    match instruction:
        case Env(pairs=pairs) | Label(pairs=pairs):
            return replace(instruction, pairs=tuple((one(name), one(value)) for name, value in pairs))
        case Copy() | Add():
            return _files(instruction, variables)
        case Workdir(path=path):
            return replace(instruction, path=one(path))
        case User(user=user):
            return replace(instruction, user=one(user))
        case StopSignal(signal=signal):
            return replace(instruction, signal=one(signal))
        case Volume(paths=paths):
            return replace(instruction, paths=_each(paths, one))
        case Expose(ports=ports):
            return replace(instruction, ports=tuple(port for word in ports for port in variables.words(word)))
        case Arg(arguments=arguments):
            return replace(instruction, arguments=_defaults(arguments, variables))
        case Run(mount_flags=mounts, devices=devices):
            return replace(
                instruction,
                mounts=tuple(parse_mount(mount, one) for mount in mounts),
                devices=_each(devices, one),
            )
    return instruction


def _each(words: tuple[str, ...], expander: Callable[[str], str]) -> tuple[str, ...]:
    return tuple(expander(word) for word in words)


def _files(instruction: Copy | Add, variables: Variables) -> Copy | Add:
    one = variables.word
    found = replace(
        instruction,
        chown=one(instruction.chown),
        chmod=one(instruction.chmod),
        sources=_each(instruction.sources, one),
        destination=one(instruction.destination),
    )
    if isinstance(found, Add):
        found = replace(found, checksum=one(found.checksum))
    inline = tuple(
        InlineFile(file.name, variables.body(file.content) if file.expand else file.content, file.expand)
        for file in instruction.inline
    )
    return replace(found, inline=inline)


def _defaults(definitions: tuple[ArgDefinition, ...], variables: Variables) -> tuple[ArgDefinition, ...]:
    before = variables.env
    env = dict(before)
    variables.env = env
    found = []
    for definition in definitions:
        if definition.value is not None:
            definition = replace(definition, value=variables.word(definition.value))
            env[definition.name] = definition.value or ""
        found.append(definition)
    variables.env = before
    return tuple(found)
