"""Running templates: the nodes the parser makes, what they yield, and the functions that are always there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyarch.cli import govalues
from polyarch.cli.govalues import Struct
from polyarch.errors import UsageError

Function = Callable[..., Any]


@dataclass(frozen=True)
class Text:
    """Text between actions."""

    text: str


@dataclass(frozen=True)
class Print:
    """A pipeline whose value is printed."""

    pipeline: Pipeline


@dataclass(frozen=True)
class Branch:
    """``if``, ``with`` or ``range``."""

    word: str
    pipeline: Pipeline
    body: tuple[Node, ...]
    otherwise: tuple[Node, ...]


@dataclass(frozen=True)
class Pipeline:
    """Commands, each fed with what the one before gave."""

    names: tuple[str, ...]  # what := declares
    commands: tuple[tuple[Operand, ...], ...]


@dataclass(frozen=True)
class Operand:
    """A value and the fields taken of it. ``kind``: dot, variable, literal, function, group."""

    kind: str
    value: Any
    fields: tuple[str, ...] = ()


Node = Text | Print | Branch


_Variables = dict[str, Any]


def run(
    nodes: Sequence[Node], dot: Any, variables: _Variables, functions: Mapping[str, Function]
) -> Iterator[str]:
    """The text of ``nodes`` for ``dot``, piece by piece. ``variables`` gains what they declare."""
    for node in nodes:
        match node:
            case Text(text):
                yield text
            case Print(pipeline):
                value = _value(pipeline, dot, variables, functions)
                if pipeline.names:
                    variables[pipeline.names[0]] = value
                else:
                    yield govalues.show(value) if value is not None else "<no value>"
            case Branch():
                yield from _run_branch(node, dot, dict(variables), functions)


def _run_branch(
    node: Branch, dot: Any, variables: _Variables, functions: Mapping[str, Function]
) -> Iterator[str]:
    value = _value(node.pipeline, dot, variables, functions)
    names = node.pipeline.names
    if node.word == "range":
        items = _items(value)
        for key, item in items:
            inner = dict(variables)
            for name, bound in zip(names, (key, item) if len(names) == 2 else (item,), strict=False):
                inner[name] = bound
            yield from run(node.body, item, inner, functions)
        if not items:
            yield from run(node.otherwise, dot, variables, functions)
        return
    if names:
        variables[names[0]] = value
    if govalues.truth(value):
        yield from run(node.body, value if node.word == "with" else dot, variables, functions)
    else:
        yield from run(node.otherwise, dot, variables, functions)


def _items(value: Any) -> list[tuple[Any, Any]]:
    match value:
        case None:
            return []
        case Mapping():
            return [(key, value[key]) for key in sorted(value)]
        case Sequence() if not isinstance(value, str):
            return list(enumerate(value))
    raise bad(f"range can't iterate over {govalues.show(value)[:60]}")


def _value(pipeline: Pipeline, dot: Any, variables: _Variables, functions: Mapping[str, Function]) -> Any:
    result: Any = None
    for number, command in enumerate(pipeline.commands):
        piped = (result,) if number else ()
        head = command[0]
        if head.kind == "function":
            arguments = [_operand(operand, dot, variables, functions) for operand in command[1:]]
            result = _call(head.value, functions[head.value], [*arguments, *piped])
        elif len(command) > 1 or piped:
            raise bad("can't give argument to non-function: methods are not supported")
        else:
            result = _operand(head, dot, variables, functions)
    return result


def _operand(operand: Operand, dot: Any, variables: _Variables, functions: Mapping[str, Function]) -> Any:
    match operand.kind:
        case "dot":
            value = dot
        case "variable":
            if operand.value not in variables:
                raise bad(f"undefined variable {operand.value!r}")
            value = variables[operand.value]
        case "group":
            value = _value(operand.value, dot, variables, functions)
        case "function":
            value = _call(operand.value, functions[operand.value], [])
        case _:
            value = operand.value
    for name in operand.fields:
        value = _field(value, name)
    return value


def _field(value: Any, name: str) -> Any:
    match value:
        case Struct() if name in value.fields:
            return value.fields[name]
        case Struct():
            import difflib

            close = difflib.get_close_matches(name, list(value.fields), n=1)
            hint = f"did you mean .{close[0]}?" if close else f"there are .{', .'.join(value.fields)}"
            raise bad(f"can't evaluate field {name} in type {value.type}", hint=hint)
        case Mapping():
            return value.get(name)
        case None:
            raise bad(f"nil pointer evaluating .{name}")
    raise bad(f"can't evaluate field {name} in type {govalues.kind(value)}")


def _call(name: str, function: Function, arguments: Sequence[Any]) -> Any:
    try:
        return function(*arguments)
    except UsageError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise bad(f"error calling {name}: {error}") from None


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        match value:
            case Mapping():
                value = value.get(key)
            case Sequence() if isinstance(key, int) and not isinstance(value, str):
                if not 0 <= key < len(value):
                    raise bad(f"error calling index: index out of range: {key}")
                value = value[key]
            case _:
                raise bad(f"error calling index: can't index item of type {govalues.kind(value)}")
    return value


def _printf(form: str, *arguments: Any) -> str:
    left = list(arguments)

    def one(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        if not left:
            return f"%!{match[2]}(MISSING)"
        value = left.pop(0)
        match match[2]:
            case "q":
                shown = govalues.to_json(govalues.show(value))
            case "d" | "x" | "f" if isinstance(value, int | float):
                return f"%{match[1]}{match[2]}" % value
            case "v" | "s" | "d":
                shown = govalues.show(value)
            case other:
                raise bad(f"printf: %{other} is not supported")
        return f"%{match[1]}s" % shown

    return re.sub(r"%%|%(-?\d*(?:\.\d+)?)([a-zA-Z])", lambda m: one(m) if m[0] != "%%" else "%", form)


def _same(first: Any, *others: Any) -> bool:
    return any(govalues.plain(first) == govalues.plain(other) for other in others)


def _and(*values: Any) -> Any:
    return next((value for value in values if not govalues.truth(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if govalues.truth(value)), values[-1])


BUILTINS: dict[str, Function] = {
    "json": lambda value: govalues.to_json(value),
    "index": _index,
    "len": lambda value: len(value.fields) if isinstance(value, Struct) else len(value),
    "print": lambda *values: " ".join(govalues.show(value) for value in values),
    "println": lambda *values: " ".join(govalues.show(value) for value in values) + "\n",
    "printf": _printf,
    "eq": _same,
    "ne": lambda first, second: not _same(first, second),
    "lt": lambda first, second: first < second,
    "gt": lambda first, second: first > second,
    "le": lambda first, second: first <= second,
    "ge": lambda first, second: first >= second,
    "and": _and,
    "or": _or,
    "not": lambda value: not govalues.truth(value),
    "join": lambda values, separator: separator.join(govalues.show(value) for value in values),
    "split": lambda text, separator: text.split(separator),
    "upper": lambda text: text.upper(),
    "lower": lambda text: text.lower(),
    "title": lambda text: text.title(),
}


def bad(why: str, *, hint: str = "") -> UsageError:
    """The error for a template that is wrong or does not fit what it is given."""
    return UsageError(f"--format: {why}", hint=hint, reason="invalid-template")
