"""Words: quotes, escapes, variables. Expansion and splitting as the Dockerfile reference has them.

    $name  ${name}                      the value, or nothing
    ${name:-word}  ${name-word}         word when unset (with ":" also when empty)
    ${name:+word}  ${name+word}         word when set (and, with ":", not empty)
    ${name:?word}  ${name?word}         an error that says word when unset (or empty)
    ${name#pattern}  ${name##pattern}   without the shortest, longest matching start
    ${name%pattern}  ${name%%pattern}   without the shortest, longest matching end
    ${name/pattern/word}  //            the first, or every, match replaced

Everything here is a pure function of the word and the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from polyarch.dockerfile import patterns
from polyarch.dockerfile.characters import SPACES
from polyarch.errors import DockerfileError

_SPECIAL_PARAMETERS = "@*#?-$!0"
_MAXIMUM_DEPTH = 100
_MAXIMUM_SIZE = 8 << 20  # characters of one result: variables that double themselves grow fast


@dataclass(frozen=True)
class Expansion:
    """What a word became: its ``text``, its ``words``, and the names looked up, found or not."""

    text: str
    words: tuple[str, ...]
    used: frozenset[str]
    unmatched: frozenset[str]


@dataclass(frozen=True)
class Style:
    """How words are read. The default is what the reference says of instructions.

    ``keep_quotes`` and ``keep_escapes`` leave them in the result, ``keep_unset`` leaves a variable without a
    value as it is written, ``quotes`` False makes quotes ordinary characters (as in a heredoc's body).
    """

    escape: str = "\\"
    keep_quotes: bool = False
    keep_escapes: bool = False
    keep_unset: bool = False
    quotes: bool = True


def expand(word: str, env: Mapping[str, str], *, escape: str = "\\") -> str:
    """``word`` with variables replaced, quotes and escapes resolved; white space stays as it is.

    >>> expand('"$greeting", ${name:-world}', {"greeting": "hello"})
    'hello, world'

    DockerfileError (without a location) for a bad substitution or a quote that is never closed (reason
    ``bad-substitution``), and for ``${name:?word}`` without a value (``unset-variable``).
    """
    return process(word, env, Style(escape)).text


def split(word: str, env: Mapping[str, str], *, escape: str = "\\") -> list[str]:
    """The words ``word`` expands to: split at white space that is neither quoted nor escaped.

    >>> split('a "b c" $d', {"d": "e f"})
    ['a', 'b c', 'e', 'f']
    """
    return list(process(word, env, Style(escape)).words)


def expand_tracked(word: str, env: Mapping[str, str], *, escape: str = "\\") -> Expansion:
    """As ``expand``, and which variables it took and missed."""
    return process(word, env, Style(escape))


def process(word: str, env: Mapping[str, str], style: Style) -> Expansion:
    """Expand and split ``word`` in any style."""
    lexer = _Lexer(word, env, style)
    try:
        text, words = lexer.read("", keep_escapes=style.keep_escapes)
        if len(text) > _MAXIMUM_SIZE:
            raise _Stop(f"the result has more than {_MAXIMUM_SIZE} characters")
    except _Stop as stop:
        raise DockerfileError(
            f"cannot expand {word[:300]!r}: {stop}", hint=stop.hint, reason=stop.reason
        ) from None
    return Expansion(text, tuple(words), frozenset(lexer.used), frozenset(lexer.unmatched))


class _Stop(Exception):
    reason = "bad-substitution"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class _Unset(_Stop):
    """``${name:?word}`` of a variable without a value."""

    reason = "unset-variable"


class _MissingEnd(_Stop):
    """The text ended where the named character was needed."""


@dataclass
class _Words:
    """Collects characters and cuts them into words."""

    done: list[str] = field(default_factory=list)
    current: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Text whose white space separates words."""
        for char in text:
            if char not in SPACES:
                self.current.append(char)
            elif self.current:
                self.flush()

    def add_raw(self, text: str) -> None:
        """Text that was quoted or escaped: white space belongs to the word."""
        if text:
            self.current.append(text)

    def flush(self) -> None:
        if self.current:
            self.done.append("".join(self.current))
            self.current.clear()


class _Lexer:
    def __init__(self, text: str, env: Mapping[str, str], style: Style) -> None:
        self._text = text.removeprefix("\ufeff")
        self._position = 0
        self._env = env
        self._style = style
        self._keep_escapes = style.keep_escapes
        self._depth = 0
        self.used: set[str] = set()
        self.unmatched: set[str] = set()

    def _peek(self) -> str:
        return self._text[self._position : self._position + 1]

    def _next(self) -> str:
        char = self._peek()
        self._position += len(char)
        return char

    def read(self, stop: str, *, keep_escapes: bool) -> tuple[str, list[str]]:
        """Everything up to ``stop`` (the end of the text for ""), as one text and as words."""
        self._depth += 1
        if self._depth > _MAXIMUM_DEPTH:
            raise _Stop(f"substitutions are nested more than {_MAXIMUM_DEPTH} deep")
        before, self._keep_escapes = self._keep_escapes, keep_escapes
        out: list[str] = []
        words = _Words()
        while char := self._peek():
            if char == stop:
                self._next()
                break
            self._read_one(char, stop, out, words)
        else:
            if stop:
                raise _MissingEnd(f"the closing {stop!r} is missing")
        self._keep_escapes = before
        self._depth -= 1
        words.flush()
        return "".join(out), words.done

    def _read_one(self, char: str, stop: str, out: list[str], words: _Words) -> None:
        if char == "$":
            text = self._dollar()
            words.add(text)
        elif char in "'\"" and self._style.quotes:
            text = self._single_quoted() if char == "'" else self._double_quoted()
            words.add_raw(text)
        elif char == "<":
            text = self._redirection()
            words.add_raw(text)
        elif char == self._style.escape:
            self._next()
            text = char if self._keep_escapes else ""
            text += self._next()
            words.add_raw(text)
        else:
            text = self._ordinary(char, stop)
            words.add(text)
        out.append(text)

    def _ordinary(self, first: str, stop: str) -> str:
        """A run of characters without meaning, at least one long."""
        meaning = "$'\"<" + self._style.escape + stop
        end = self._position + len(first)
        while end < len(self._text) and self._text[end] not in meaning:
            end += 1
        start, self._position = self._position, end
        return self._text[start:end]

    def _redirection(self) -> str:
        """``<``, or ``<<`` with the white space behind it: that belongs to the heredoc's word."""
        start = self._position
        self._position += 1
        if self._peek() == "<":
            self._position += 1
            while (char := self._peek()) and char in " \t\r":
                self._position += 1
        return self._text[start : self._position]

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._position + 1)
        if end < 0:
            raise _Stop("a single quote is never closed", "close the quote, or escape it")
        quoted = self._text[self._position : end + 1]
        self._position = end + 1
        return quoted if self._style.keep_quotes else quoted[1:-1]

    def _double_quoted(self) -> str:
        quote = self._next() if self._style.keep_quotes else self._next()[:0]
        out = [quote]
        while True:
            char = self._peek()
            if not char:
                raise _Stop("a double quote is never closed", "close the quote, or escape it")
            if char == "$":
                out.append(self._dollar())
                continue
            self._next()
            if char == '"':
                return "".join(out) + quote
            if char == self._style.escape:
                if self._keep_escapes:
                    out.append(char)
                follower = self._peek()
                if follower and follower in ('"', "$", self._style.escape):
                    char = self._next()
                elif not follower:
                    continue
            out.append(char)

    def _dollar(self) -> str:
        self._next()
        if self._peek() != "{":
            name = self._name()
            if not name:
                return "$"
            value = self._lookup(name)
            if value is None:
                return "$" + name if self._style.keep_unset else ""
            return value
        self._next()
        first = self._peek()
        if not first:
            raise _Stop("the closing '}' is missing")
        if first in "{}:":
            raise _Stop("bad substitution", "write ${name} or ${name:-default}")
        return self._braced(self._name())

    def _braced(self, name: str) -> str:
        operator = self._next()
        if operator == "}":
            value = self._lookup(name)
            if value is None:
                return f"${{{name}}}" if self._style.keep_unset else ""
            return value
        if operator == "/":
            return self._replace(name)
        colon = ""
        if operator == ":":
            colon, operator = ":", self._next()
        if not operator:
            raise _MissingEnd("the closing '}' is missing")
        if operator not in ("+-?" if colon else "+-?#%"):
            raise _Stop(
                f"unsupported modifier {colon + operator!r} in a substitution",
                "the modifiers are :- - :+ + :? ? # ## % %% / //",
            )
        word = self._until("}", keep_escapes=operator in "#%", missing="}")
        value = self._lookup(name)
        if value is None and self._style.keep_unset:
            return f"${{{name}{colon}{operator}{word}}}"
        return self._modify(name, value, operator, word, empty_is_unset=bool(colon))

    def _modify(self, name: str, value: str | None, operator: str, word: str, *, empty_is_unset: bool) -> str:
        missing = value is None or (empty_is_unset and value == "")
        match operator:
            case "-":
                return word if missing else value or ""
            case "+":
                return "" if missing else word
            case "?":
                if missing:
                    state = "unset" if value is None else "empty"
                    raise _Unset(f"{name}: {word or f'is not allowed to be {state}'}", f"give {name} a value")
                return value or ""
        longest = word.startswith(operator)
        cut = patterns.without_prefix if operator == "#" else patterns.without_suffix
        try:
            return cut(value or "", word[1:] if longest else word, longest=longest)
        except patterns.BadPattern as bad:
            raise _Stop(str(bad)) from None

    def _replace(self, name: str) -> str:
        every = self._peek() == "/"
        if every:
            self._next()
        pattern = self._until("/", keep_escapes=True, missing="/")
        replacement = self._until("}", keep_escapes=True, missing="}")
        value = self._lookup(name)
        if value is None and self._style.keep_unset:
            return f"${{{name}/{pattern}/{replacement}}}"
        try:
            return patterns.replaced(value or "", pattern, replacement, every=every)
        except patterns.BadPattern as bad:
            raise _Stop(str(bad)) from None

    def _until(self, stop: str, *, keep_escapes: bool, missing: str) -> str:
        try:
            return self.read(stop, keep_escapes=keep_escapes)[0]
        except _MissingEnd:
            raise _MissingEnd(f"the {missing!r} of a substitution is missing") from None

    def _name(self) -> str:
        """A name, all digits of a number, or one special parameter; "" for anything else."""
        start = self._position
        first = self._peek()
        if first.isdecimal():
            while self._peek().isdecimal():
                self._position += 1
        elif first and first in _SPECIAL_PARAMETERS:
            self._position += 1
        else:
            while (char := self._peek()) and (char.isalpha() or char.isdecimal() or char == "_"):
                self._position += 1
        return self._text[start : self._position]

    def _lookup(self, name: str) -> str | None:
        value = self._env.get(name)
        (self.unmatched if value is None else self.used).add(name)
        return value
