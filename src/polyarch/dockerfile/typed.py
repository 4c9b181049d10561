"""Nodes to typed instructions: every instruction's own rules on flags and arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from polyarch.dockerfile.arguments import KEYWORDS
from polyarch.dockerfile.ast import Node
from polyarch.dockerfile.characters import SPACES, did_you_mean
from polyarch.dockerfile.durations import parse_duration
from polyarch.dockerfile.flags import Flags, read_flags
from polyarch.dockerfile.heredoc import as_heredoc, body
from polyarch.dockerfile.instructions import (
    Add,
    Arg,
    ArgDefinition,
    Cmd,
    Command,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    InlineFile,
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
from polyarch.dockerfile.mounts import mount_from
from polyarch.errors import DockerfileError, Location

_STAGE_NAME = re.compile(r"[a-z][a-z0-9._-]*")
_ONBUILD = re.compile(r"[\t\n\f\r ]*ONBUILD[\t\n\f\r ]*", re.IGNORECASE)
NETWORKS = ("default", "none", "host")
SECURITY = ("sandbox", "insecure")
_MINIMUM_INTERVAL = 1_000_000  # nanoseconds

Fields = dict[str, Any]


def typed(node: Node, location: Location) -> Instruction:
    """The instruction that ``node`` says. DockerfileError, at ``location``, when it is none."""
    build = _BUILDERS.get(node.keyword)
    try:
        if build is None:
            raise DockerfileError(
                f"unknown instruction: {node.spelling[:100] or '(nothing)'}",
                hint=did_you_mean(node.keyword, KEYWORDS) or "instructions are " + ", ".join(KEYWORDS),
                reason="unknown-instruction",
            )
        kind, fields = build(node)
    except DockerfileError as error:
        raise DockerfileError(
            error.summary, detail=error.detail, hint=error.hint, location=location, reason=error.reason
        ) from None
    instruction: Instruction = kind(location=location, original=node.original.strip(SPACES), **fields)
    return instruction


def _flags(node: Node) -> Flags:
    return read_flags(node.keyword, node.flags)


def _bad(node: Node, summary: str, hint: str, reason: str = "arguments") -> DockerfileError:
    return DockerfileError(f"{node.keyword} {summary}", hint=hint, reason=reason)


def _some(node: Node) -> Sequence[str]:
    if not node.arguments:
        raise _bad(node, "needs at least one argument", f"write {node.keyword} and what it applies to")
    return node.arguments


def _one(node: Node) -> str:
    if len(node.arguments) != 1:
        raise _bad(node, "needs exactly one argument", f"write {node.keyword} and one value")
    return node.arguments[0]


def description(comments: Sequence[str], name: str) -> str:
    """What the comment above an instruction says of ``name``: the rest of a line that starts with it."""
    for comment in comments:
        if name and comment.startswith(name + " "):
            return comment[len(name) + 1 :]
    return ""


def _from(node: Node) -> tuple[type, Fields]:
    words = node.arguments
    name = ""
    if len(words) == 3 and words[1].lower() == "as":
        name = words[2].lower()
        if not _STAGE_NAME.fullmatch(name):
            raise _bad(
                node,
                f"… AS {words[2][:100]}: this is not a name for a stage",
                "a name starts with a letter, and has letters, digits, '.', '_' and '-'",
                "stage-name",
            )
    elif len(words) != 1:
        raise _bad(node, "takes one argument or three", "write FROM image, or FROM image AS name")
    platform = _flags(node).value("platform")
    comment = description(node.comments, name)
    return From, {"base": words[0], "platform": platform, "name": name, "comment": comment}


def _arg(node: Node) -> tuple[type, Fields]:
    # Flags of ARG are not looked at, by the reference implementation neither.
    _some(node)
    definitions = []
    for word in node.arguments:
        name, equals, value = word.partition("=")
        if equals and not name:
            raise _bad(node, f"{word[:100]} has no name", "write ARG NAME=default")
        definitions.append(ArgDefinition(name, value if equals else None, description(node.comments, name)))
    return Arg, {"arguments": tuple(definitions)}


def _pairs(node: Node) -> Fields:
    _flags(node)
    words = _some(node)
    for name in words[::3]:
        if not name:
            raise _bad(node, "has a value without a name", f"write {node.keyword} name=value")
    return {"pairs": tuple(zip(words[::3], words[1::3], strict=True))}


def _command(node: Node, words: tuple[str, ...]) -> Command:
    if node.json is not None:
        return Command(words, False)
    return Command((" ".join(words),), True, node.heredocs)


def _run(node: Node) -> tuple[type, Fields]:
    flags = _flags(node)
    for mount in flags.all("mount"):
        mount_from(mount)
    if flags.all("device"):
        raise _bad(
            node,
            "--device is not supported",
            "steps see no devices; this is a feature of BuildKit's labs",
            "device",
        )
    return Run, {
        "command": _command(node, node.arguments),
        "mount_flags": flags.all("mount"),
        "network": _choice(node, "network", flags.value("network", "default"), NETWORKS),
        "security": _choice(node, "security", flags.value("security", "sandbox"), SECURITY),
        "devices": flags.all("device"),
    }


def _choice(node: Node, flag: str, value: str, known: tuple[str, ...]) -> str:
    if value not in known:
        hint = did_you_mean(value, known) or f"--{flag} is one of " + ", ".join(known)
        raise _bad(node, f"--{flag}={value[:100]} is not supported", hint, "flag")
    return value


def _copy(node: Node) -> tuple[type, Fields]:
    flags, fields = _files(node)
    if "$" in flags.value("from"):
        raise _bad(
            node,
            f"--from={flags.value('from')[:100]} cannot use a variable",
            "add a stage, FROM the variable AS name, above this one, and copy from that name",
            "variable-from",
        )
    return Copy, {**fields, "from_": flags.value("from"), "parents": bool(flags.switch("parents"))}


def _add(node: Node) -> tuple[type, Fields]:
    flags, fields = _files(node)
    return Add, {
        **fields,
        "checksum": flags.value("checksum"),
        "keep_git_dir": flags.switch("keep-git-dir"),
        "unpack": flags.switch("unpack"),
    }


def _files(node: Node) -> tuple[Flags, Fields]:
    """What COPY and ADD share."""
    if len(node.arguments) < 2:
        raise _bad(
            node,
            "needs a source and a destination",
            f"write {node.keyword} source destination",
            "destination",
        )
    flags = _flags(node)
    *sources, destination = node.arguments
    if as_heredoc(destination):
        raise _bad(node, "cannot write to a heredoc", "put the destination path last", "heredoc")
    bodies = {heredoc.name: heredoc for heredoc in node.heredocs}
    paths: list[str] = []
    inline: list[InlineFile] = []
    for source in sources:
        word = as_heredoc(source)
        if word is None:
            paths.append(source)
            continue
        content = bodies[word.name].content if word.name in bodies else ""
        inline.append(InlineFile(word.name, body(replace(word, content=content)), word.expand))
    return flags, {
        "sources": tuple(paths),
        "destination": destination,
        "inline": tuple(inline),
        "chown": flags.value("chown"),
        "chmod": flags.value("chmod"),
        "link": bool(flags.switch("link")),
        "excludes": flags.all("exclude"),
    }


def _healthcheck(node: Node) -> tuple[type, Fields]:
    kind, *words = _some(node)
    kind = kind.upper()
    if kind == "NONE":
        if words:
            raise _bad(node, "NONE takes no arguments", "write HEALTHCHECK NONE")
        return Healthcheck, {"test": ("NONE",)}
    flags = _flags(node)
    if kind != "CMD":
        raise _bad(node, f"{kind[:50]} is unknown", "write HEALTHCHECK CMD command, or HEALTHCHECK NONE")
    if not words:
        raise _bad(node, "CMD needs a command", "write HEALTHCHECK CMD command")
    test = ("CMD", *words) if node.json is not None else ("CMD-SHELL", " ".join(words))
    names = ("interval", "timeout", "start-period", "start-interval")
    spans = {name.replace("-", "_"): _interval(node, name, flags.value(name)) for name in names}
    return Healthcheck, {"test": test, **spans, "retries": _retries(node, flags.value("retries"))}


def _interval(node: Node, name: str, value: str) -> int:
    if not value:
        return 0
    nanoseconds = parse_duration(value)
    if nanoseconds is None:
        hint = "write a number with a unit: 500ms, 30s, 5m, 1h30m"
        raise _bad(node, f"--{name}={value[:100]} is not a time span", hint, "flag")
    if nanoseconds and nanoseconds < _MINIMUM_INTERVAL:
        raise _bad(node, f"--{name}={value[:100]} is too short", "one millisecond (1ms) is the least", "flag")
    return nanoseconds


def _retries(node: Node, value: str) -> int:
    if not value:
        return 0
    if not re.fullmatch(r"[+-]?[0-9]{1,12}", value) or not 0 <= int(value) < 2**31:
        raise _bad(node, f"--retries={value[:100]} is not a count", "write a number from 0 up", "flag")
    return int(value)


def _volume(node: Node) -> tuple[type, Fields]:
    words = _some(node)
    _flags(node)
    paths = tuple(word.strip(SPACES) for word in words)
    if "" in paths:
        raise _bad(node, "cannot be an empty path", "write VOLUME /path")
    return Volume, {"paths": paths}


def _shell(node: Node) -> tuple[type, Fields]:
    _flags(node)
    if node.json is None or not node.json:
        if node.arguments:
            raise _bad(node, "must be a JSON array", 'write SHELL ["/bin/bash", "-c"]', "json")
        raise _bad(node, "needs at least one argument", 'write SHELL ["/bin/bash", "-c"]')
    return Shell, {"words": node.json}


def _onbuild(node: Node) -> tuple[type, Fields]:
    first = _some(node)[0].strip(SPACES).upper()
    _flags(node)
    if first == "ONBUILD":
        raise _bad(node, "cannot hold another ONBUILD", "write one ONBUILD", "onbuild")
    if first in ("FROM", "MAINTAINER"):
        raise _bad(node, f"cannot hold {first}", f"{first} has no meaning in a child image", "onbuild")
    expression = _ONBUILD.sub("", node.original, count=1)
    for heredoc in node.heredocs:
        expression += f"\n{heredoc.content}{heredoc.name}"
    return OnBuild, {"expression": expression}


def _cmd(node: Node) -> tuple[type, Fields]:
    _flags(node)
    return Cmd, {"command": _command(node, node.arguments)}


def _entrypoint(node: Node) -> tuple[type, Fields]:
    _flags(node)
    return Entrypoint, {"command": _command(node, node.arguments)}


def _expose(node: Node) -> tuple[type, Fields]:
    ports = _some(node)
    _flags(node)
    return Expose, {"ports": tuple(sorted(ports))}


def _single(kind: type, field: str, *, flags: bool = True) -> Callable[[Node], tuple[type, Fields]]:
    def build(node: Node) -> tuple[type, Fields]:
        value = _one(node)
        if flags:
            _flags(node)
        return kind, {field: value}

    return build


_BUILDERS: dict[str, Callable[[Node], tuple[type, Fields]]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": _cmd,
    "COPY": _copy,
    "ENTRYPOINT": _entrypoint,
    "ENV": lambda node: (Env, _pairs(node)),
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": lambda node: (Label, _pairs(node)),
    "MAINTAINER": _single(Maintainer, "name"),
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": _single(StopSignal, "signal", flags=False),
    "USER": _single(User, "user"),
    "VOLUME": _volume,
    "WORKDIR": _single(Workdir, "path"),
}
