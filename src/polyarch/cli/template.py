"""A small, honest subset of Go's text/template, for ``--format``.

There are: text, ``{{-`` and ``-}}``, comments, fields, variables, literals, pipelines, parentheses, ``if``,
``else``, ``range``, ``with``, ``end``, and the functions below with those the verb adds. Not there, and said
so: define, template, block, break, continue, method calls.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from polyarch.cli.template_run import (
    BUILTINS,
    Branch,
    Function,
    Node,
    Operand,
    Pipeline,
    Print,
    Text,
    bad,
    run,
)

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<number>-?\d+(?:\.\d+)?)|(?P<declare>:=)
    |(?P<variable>\$\w*)|(?P<field>\.\w+)|(?P<dot>\.)|(?P<word>\w+)|(?P<mark>[|(),]))""",
    re.VERBOSE,
)
_UNSUPPORTED = frozenset({"define", "template", "block", "break", "continue"})
_MAX_DEPTH = 50


class Template:
    """A parsed template. UsageError (``invalid-template``) says what is wrong with it."""

    def __init__(self, text: str, functions: Mapping[str, Function] | None = None) -> None:
        self._functions = {**BUILTINS, **(functions or {})}
        pieces = _Pieces(_split(text))
        self._nodes, ended = _parse(pieces, self._functions, 0)
        if ended:
            raise bad(f"unexpected {{{{{ended}}}}}")

    def render(self, data: Any) -> str:
        """The text for ``data``; UsageError when a field is not there or a function does not fit."""
        return "".join(run(self._nodes, data, {"$": data}, self._functions))


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
        raise bad("unclosed action")
    return match[1], match.end()


def _parse(pieces: _Pieces, functions: Mapping[str, Function], depth: int) -> tuple[tuple[Node, ...], str]:
    """Nodes up to ``end``, ``else…`` or the end of the text, and which of these it was."""
    if depth > _MAX_DEPTH:
        raise bad("too deeply nested")
    nodes: list[Node] = []
    while (piece := pieces.next()) is not None:
        is_action, text = piece
        if not is_action:
            if text:
                nodes.append(Text(text))
            continue
        word = re.match(r"\w*", text)
        keyword = word[0] if word else ""
        if text.startswith("/*"):
            continue
        if keyword in _UNSUPPORTED:
            raise bad(f"{{{{{keyword}}}}} is not supported")
        if keyword in ("end", "else"):
            return tuple(nodes), text
        if keyword in ("if", "with", "range"):
            nodes.append(_branch(keyword, text[len(keyword) :], pieces, functions, depth))
        else:
            nodes.append(Print(_pipeline(text, functions)))
    return tuple(nodes), ""


def _branch(word: str, rest: str, pieces: _Pieces, functions: Mapping[str, Function], depth: int) -> Branch:
    pipeline = _pipeline(rest, functions)
    body, ended = _parse(pieces, functions, depth + 1)
    otherwise: tuple[Node, ...] = ()
    if match := re.fullmatch(r"else\s+(if|with)\b(.*)", ended, re.DOTALL):
        return Branch(word, pipeline, body, (_branch(match[1], match[2], pieces, functions, depth + 1),))
    if ended == "else":
        otherwise, ended = _parse(pieces, functions, depth + 1)
    if ended != "end":
        raise bad(f"{{{{{word}}}}} without {{{{end}}}}")
    return Branch(word, pipeline, body, otherwise)


def _pipeline(text: str, functions: Mapping[str, Function]) -> Pipeline:
    tokens = list(_tokens(text))
    names: list[str] = []
    declares = next((i for i, (kind, _) in enumerate(tokens) if kind == "declare"), None)
    if declares is not None:
        for kind, value in tokens[:declares]:
            if kind == "variable":
                names.append(value)
            elif (kind, value) != ("mark", ","):
                raise bad(f"{text!r}: only variables can be declared")
        tokens = tokens[declares + 1 :]
    reader = _Tokens(tokens, text, functions)
    commands = reader.commands(closing=False)
    return Pipeline(tuple(names), commands)


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    chains = False  # whether a field here belongs to what stands before it
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise bad(f"unexpected {text[position:].strip()[:20]!r} in {text!r}")
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
    position: int = 0
    depth: int = 0

    def commands(self, *, closing: bool) -> tuple[tuple[Operand, ...], ...]:
        commands: list[tuple[Operand, ...]] = []
        current: list[Operand] = []
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
                raise bad(f"unclosed left paren in {self.text!r}")
            self.position += 1
        elif self.position < len(self.tokens):
            raise bad(f"unexpected right paren in {self.text!r}")
        commands.append(self._command(current))
        return tuple(commands)

    def _command(self, operands: list[Operand]) -> tuple[Operand, ...]:
        if not operands:
            raise bad(f"missing value for command in {self.text!r}")
        return tuple(operands)

    def _operand(self, kind: str, value: str) -> Operand:
        match kind:
            case "dot":
                return Operand("dot", None)
            case "field":
                return Operand("dot", None, self._fields((value[1:],)))
            case "variable":
                return Operand("variable", value, self._fields())
            case "string":
                return Operand("literal", _unquoted(value))
            case "number":
                return Operand("literal", float(value) if "." in value else int(value))
            case "word" if value in ("true", "false", "nil"):
                return Operand("literal", {"true": True, "false": False, "nil": None}[value])
            case "word" if value in self.functions:
                return Operand("function", value)
            case "word":
                raise bad(
                    f"function {value!r} not defined", hint=f"there are {', '.join(sorted(self.functions))}"
                )
            case "mark" if value == "(":
                self.depth += 1
                if self.depth > _MAX_DEPTH:
                    raise bad("too deeply nested")
                group = self.commands(closing=True)
                self.depth -= 1
                return Operand("group", Pipeline((), group), self._fields())
        raise bad(f"unexpected {value!r} in {self.text!r}")

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
