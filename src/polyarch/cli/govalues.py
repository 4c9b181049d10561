"""Go's view of values, for output that scripts written for docker read: structs with Go's field names, JSON
as encoding/json writes it, and ``%v``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Struct:
    """A Go struct: its type's name, its fields by Go name in order, and what its JSON is."""

    type: str
    fields: Mapping[str, Any]
    json: Any


def to_json(value: Any, *, indent: str | int | None = None) -> str:
    """``value`` as Go's encoding/json writes it: compact or indented, with <, > and & escaped."""
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(plain(value), ensure_ascii=False, indent=indent, separators=separators)
    for character in "<>&\u2028\u2029":
        if character in text:
            text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def plain(value: Any) -> Any:
    """``value`` with structs replaced by what their JSON is."""
    match value:
        case Struct():
            return plain(value.json)
        case str() | bytes():
            return value
        case Mapping():
            return {key: plain(inner) for key, inner in value.items()}
        case Sequence():
            return [plain(inner) for inner in value]
    return value


def show(value: Any) -> str:
    """``value`` as Go's ``%v`` prints it."""
    match value:
        case None:
            return "<nil>"
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case Struct():
            return "{" + " ".join(show(inner) for inner in value.fields.values()) + "}"
        case Mapping():
            return "map[" + " ".join(f"{key}:{show(value[key])}" for key in sorted(value)) + "]"
        case Sequence():
            return "[" + " ".join(show(inner) for inner in value) + "]"
    return str(value)


def truth(value: Any) -> bool:
    """Whether ``if`` takes ``value`` for true: not zero, not empty; a struct always is."""
    return isinstance(value, Struct) or bool(value)


def kind(value: Any) -> str:
    """A Go type's name, for messages."""
    match value:
        case Struct():
            return value.type
        case bool():
            return "bool"
        case int():
            return "int"
        case str():
            return "string"
        case Mapping():
            return "map[string]interface {}"
        case Sequence():
            return "[]interface {}"
    return "<nil>"
