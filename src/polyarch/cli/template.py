"""A small, honest subset of Go's text/template, for ``--format``.

There are: text, ``{{-`` and ``-}}``, comments, fields, variables, literals, pipelines, parentheses, ``if``,
``else``, ``range``, ``with``, ``end``, and the functions below with those the verb adds. Not there, and said
so: define, template, block, break, continue, method calls.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from polyarch.cli import govalues
from polyarch.cli.govalues import Struct
from polyarch.errors import UsageError

Function = Callable[..., Any]

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<declare>:=)
    |(?P<variable>\$\w*)|(?P<field>\.\w+)|(?P<dot>\.)|(?P<word>\w+)|(?P<mark>[|(),]))""",
    re.VERBOSE,
)
_UNSUPPORTED = frozenset({"define", "template", "block", "break", "continue"})
_MAX_DEPTH = 50


@dataclass(frozen=True)
class _Text:
    text: str


@dataclass(frozen=True)
class _Print:
    pipeline: _Pipeline


@dataclass(frozen=True)
class _Branch:
    """``if``, ``with`` or ``range``."""

    word: str
    pipeline: _Pipeline
    body: tuple[_Node, ...]
    otherwise: tuple[_Node, ...]


@dataclass(frozen=True)
class _Pipeline:
    names: tuple[str, ...]  # what := declares
    commands: tuple[tuple[_Operand, ...], ...]


@dataclass(frozen=True)
class _Operand:
    """A value and the fields taken of it. ``kind``: dot, variable, literal, function, group."""

    kind: str
    value: Any
    fields: tuple[str, ...] = ()


_Node = _Text | _Print | _Branch


class Template:
    """A parsed template. UsageError (``invalid-template``) says what is wrong with it."""

    def __init__(self, text: str, functions: Mapping[str, Function] | None = None) -> None:
        self._functions = {**_BUILTINS, **(functions or {})}
        pieces = _Pieces(_split(text))
        self._nodes, ended = _parse(pieces, self._functions, 0)
        if ended:
            raise _bad(f"unexpected {{{{{ended}}}}}")

    def render(self, data: Any) -> str:
        """The text for ``data``; UsageError when a field is not there or a function does not fit."""
        return "".join(_run(self._nodes, data, {"$": data}, self._functions))


# --- parsing ------------------------------------------------------------------------------------------------


@dataclass
class _Pieces:
    """Text (even positions) and actions (odd positions) in turn."""

    pieces: Sequence[str]
    position: int = 0

    def next(self) -> tuple[bool, str] | None:
        if self.position >= len(self.pieces):
            return None
        piece = self.pieces[self.position]
        self.position += 1
        return self.position % 2 == 0, piece


def _split(text: str) -> list[str]:
    pieces = []
    rest = text
    while "{{" in rest:
        before, _, rest = rest.partition("{{")
        action, end = _action(rest)
        rest = rest[end:]
        if re.match(r"-\s", action):
            before, action = before.rstrip(), action[1:]
        if re.search(r"\s-$", action):
            action, rest = action[:-1], rest.lstrip()
        pieces += [before, action.strip()]
    return [*pieces, rest]


def _action(text: str) -> tuple[str, int]:
    """The action ``text`` starts with and where what follows it begins; strings may hold ``}}``."""
    match = re.match(r"""((?:"(?:[^"\\]|\\.)*"|`[^`]*`|/\*.*?\*/|[^"`}]|\}(?!\}))*)\}\}""", text, re.DOTALL)
    if match is None:
        raise _bad("unclosed action")
    return match[1], match.end()


def _parse(pieces: _Pieces, functions: Mapping[str, Function], depth: int) -> tuple[tuple[_Node, ...], str]:
    """Nodes up to ``end``, ``else…`` or the end of the text, and which of these it was."""
    if depth > _MAX_DEPTH:
        raise _bad("too deeply nested")
    nodes: list[_Node] = []
    while (piece := pieces.next()) is not None:
        is_action, text = piece
        if not is_action:
            if text:
                nodes.append(_Text(text))
            continue
        word = re.match(r"\w*", text)
        keyword = word[0] if word else ""
        if text.startswith("/*"):
            continue
        if keyword in _UNSUPPORTED:
            raise _bad(f"{{{{{keyword}}}}} is not supported")
        if keyword in ("end", "else"):
            return tuple(nodes), text
        if keyword in ("if", "with", "range"):
            nodes.append(_branch(keyword, text[len(keyword) :], pieces, functions, depth))
        else:
            nodes.append(_Print(_pipeline(text, functions)))
    return tuple(nodes), ""


def _branch(word: str, rest: str, pieces: _Pieces, functions: Mapping[str, Function], depth: int) -> _Branch:
    pipeline = _pipeline(rest, functions)
    body, ended = _parse(pieces, functions, depth + 1)
    otherwise: tuple[_Node, ...] = ()
    if match := re.fullmatch(r"else\s+(if|with)\b(.*)", ended, re.DOTALL):
        return _Branch(word, pipeline, body, (_branch(match[1], match[2], pieces, functions, depth + 1),))
    if ended == "else":
        otherwise, ended = _parse(pieces, functions, depth + 1)
    if ended != "end":
        raise _bad(f"{{{{{word}}}}} without {{{{end}}}}")
    return _Branch(word, pipeline, body, otherwise)


def _pipeline(text: str, functions: Mapping[str, Function]) -> _Pipeline:
    tokens = list(_tokens(text))
    names: list[str] = []
    declares = next((i for i, (kind, _) in enumerate(tokens) if kind == "declare"), None)
    if declares is not None:
        for kind, value in tokens[:declares]:
            if kind == "variable":
                names.append(value)
            elif (kind, value) != ("mark", ","):
                raise _bad(f"{text!r}: only variables can be declared")
        tokens = tokens[declares + 1 :]
    reader = _Tokens(tokens, text, functions)
    commands = reader.commands(closing=False)
    return _Pipeline(tuple(names), commands)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    chains = False  # whether a field here belongs to what stands before it
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise _bad(f"unexpected {text[position:].strip()[:20]!r} in {text!r}")
        kind, value = match.lastgroup, match[match.lastgroup]
        glued = match.start(kind) == position and chains
        yield ("chain" if kind == "field" and glued else kind), value
        chains = kind in ("field", "variable") or value == ")"
        position = match.end()


@dataclass
class _Tokens:
    tokens: Sequence[tuple[str, str]]
    text: str
    functions: Mapping[str, Function]
    position: int = field(default=0)

    def commands(self, *, closing: bool) -> tuple[tuple[_Operand, ...], ...]:
        commands: list[tuple[_Operand, ...]] = []
        current: list[_Operand] = []
        while self.position < len(self.tokens):
            kind, value = self.tokens[self.position]
            if (kind, value) == ("mark", ")"):
                break
            self.position += 1
            if (kind, value) == ("mark", "|"):
                commands.append(self._command(current))
                current = []
            else:
                current.append(self._operand(kind, value))
        if closing:
            if self.position >= len(self.tokens):
                raise _bad(f"unclosed left paren in {self.text!r}")
            self.position += 1
        elif self.position < len(self.tokens):
            raise _bad(f"unexpected right paren in {self.text!r}")
        commands.append(self._command(current))
        return tuple(commands)

    def _command(self, operands: list[_Operand]) -> tuple[_Operand, ...]:
        if not operands:
            raise _bad(f"missing value for command in {self.text!r}")
        return tuple(operands)

    def _operand(self, kind: str, value: str) -> _Operand:
        match kind:
            case "dot":
                return _Operand("dot", None)
            case "field":
                return _Operand("dot", None, self._fields((value[1:],)))
            case "variable":
                return _Operand("variable", value, self._fields())
            case "string":
                return _Operand("literal", _unquoted(value))
            case "number":
                return _Operand("literal", float(value) if "." in value else int(value))
            case "word" if value in ("true", "false", "nil"):
                return _Operand("literal", {"true": True, "false": False, "nil": None}[value])
            case "word" if value in self.functions:
                return _Operand("function", value)
            case "word":
                raise _bad(
                    f"function {value!r} not defined", hint=f"there are {', '.join(sorted(self.functions))}"
                )
            case "mark" if value == "(":
                group = self.commands(closing=True)
                return _Operand("group", _Pipeline((), group), self._fields())
        raise _bad(f"unexpected {value!r} in {self.text!r}")

    def _fields(self, first: tuple[str, ...] = ()) -> tuple[str, ...]:
        fields = list(first)
        while self.position < len(self.tokens) and self.tokens[self.position][0] == "chain":
            fields.append(self.tokens[self.position][1][1:])
            self.position += 1
        return tuple(fields)


def _unquoted(text: str) -> str:
    if text.startswith("`"):
        return text[1:-1]
    escapes = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
    return re.sub(r"\\(.)", lambda m: escapes.get(m[1], m[0]), text[1:-1])


# --- running ------------------------------------------------------------------------------------------------

_Variables = dict[str, Any]


def _run(
    nodes: Sequence[_Node], dot: Any, variables: _Variables, functions: Mapping[str, Function]
) -> Iterator[str]:
    for node in nodes:
        match node:
            case _Text(text):
                yield text
            case _Print(pipeline):
                value = _value(pipeline, dot, variables, functions)
                if pipeline.names:
                    variables[pipeline.names[0]] = value
                else:
                    yield govalues.show(value) if value is not None else "<no value>"
            case _Branch():
                yield from _run_branch(node, dot, dict(variables), functions)


def _run_branch(
    node: _Branch, dot: Any, variables: _Variables, functions: Mapping[str, Function]
) -> Iterator[str]:
    value = _value(node.pipeline, dot, variables, functions)
    names = node.pipeline.names
    if node.word == "range":
        items = _items(value)
        for key, item in items:
            inner = dict(variables)
            for name, bound in zip(names, (key, item) if len(names) == 2 else (item,), strict=False):
                inner[name] = bound
            yield from _run(node.body, item, inner, functions)
        if not items:
            yield from _run(node.otherwise, dot, variables, functions)
        return
    if names:
        variables[names[0]] = value
    if govalues.truth(value):
        yield from _run(node.body, value if node.word == "with" else dot, variables, functions)
    else:
        yield from _run(node.otherwise, dot, variables, functions)


def _items(value: Any) -> list[tuple[Any, Any]]:
    match value:
        case None:
            return []
        case Mapping():
            return [(key, value[key]) for key in sorted(value)]
        case Sequence() if not isinstance(value, str):
            return list(enumerate(value))
    raise _bad(f"range can't iterate over {govalues.show(value)[:60]}")


def _value(pipeline: _Pipeline, dot: Any, variables: _Variables, functions: Mapping[str, Function]) -> Any:
    result: Any = None
    for number, command in enumerate(pipeline.commands):
        piped = (result,) if number else ()
        head = command[0]
        if head.kind == "function":
            arguments = [_operand(operand, dot, variables, functions) for operand in command[1:]]
            result = _call(head.value, functions[head.value], [*arguments, *piped])
        elif len(command) > 1 or piped:
            raise _bad("can't give argument to non-function: methods are not supported")
        else:
            result = _operand(head, dot, variables, functions)
    return result


def _operand(operand: _Operand, dot: Any, variables: _Variables, functions: Mapping[str, Function]) -> Any:
    match operand.kind:
        case "dot":
            value = dot
        case "variable":
            if operand.value not in variables:
                raise _bad(f"undefined variable {operand.value!r}")
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
            raise _bad(f"can't evaluate field {name} in type {value.type}", hint=hint)
        case Mapping():
            return value.get(name)
        case None:
            raise _bad(f"nil pointer evaluating .{name}")
    raise _bad(f"can't evaluate field {name} in type {govalues.kind(value)}")


def _call(name: str, function: Function, arguments: Sequence[Any]) -> Any:
    try:
        return function(*arguments)
    except UsageError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise _bad(f"error calling {name}: {error}") from None


def _index(value: Any, *keys: Any) -> Any:
    for key in keys:
        match value:
            case Mapping():
                value = value.get(key)
            case Sequence() if isinstance(key, int) and not isinstance(value, str):
                if not 0 <= key < len(value):
                    raise _bad(f"error calling index: index out of range: {key}")
                value = value[key]
            case _:
                raise _bad(f"error calling index: can't index item of type {govalues.kind(value)}")
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
                raise _bad(f"printf: %{other} is not supported")
        return f"%{match[1]}s" % shown

    return re.sub(r"%%|%(-?\d*(?:\.\d+)?)([a-zA-Z])", lambda m: one(m) if m[0] != "%%" else "%", form)


def _same(first: Any, *others: Any) -> bool:
    return any(govalues.plain(first) == govalues.plain(other) for other in others)


def _and(*values: Any) -> Any:
    return next((value for value in values if not govalues.truth(value)), values[-1])


def _or(*values: Any) -> Any:
    return next((value for value in values if govalues.truth(value)), values[-1])


_BUILTINS: dict[str, Function] = {
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


def _bad(why: str, *, hint: str = "") -> UsageError:
    return UsageError(f"--format: {why}", hint=hint, reason="invalid-template")
