"""Which programs a command line starts: the first word, what that starts in turn, what a shell's text runs.

Nothing is executed: words and shell texts are read, as far as they can be told. What depends on a condition
is told apart from what runs in any case.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

# Programs that start what follows them on their command line, behind options and words of their own.
STARTERS = frozenset(
    "tini dumb-init catatonit pid1 su-exec gosu setpriv exec command builtin env nice nohup timeout stdbuf "
    "chpst ionice chrt taskset numactl setsid setarch linux32 linux64 unshare prlimit softlimit setuidgid "
    "envuidgid "
    "s6-setuidgid s6-envuidgid s6-envdir s6-softlimit with-contenv su runuser sudo doas capsh script flock "
    "time strace ltrace catchsegv xvfb-run dbus-run-session eatmydata fakeroot busybox toybox nocache "
    "tini-static multirun chroot start-stop-daemon envdir cgexec systemd-cat unbuffer".split()
)
_TAKE_TEXTS = frozenset(("su", "runuser", "script", "capsh", "flock"))  # with -c
SHELLS = frozenset("sh bash dash ash zsh ksh mksh yash posh rbash".split())
_LOADER = re.compile(r"ld(?:-linux|-musl|64|\.so|-2)[^/]*$")
_CHOOSES = re.compile(r"\b(?:uname|arch|TARGETARCH|print-architecture|qemu)\b")
_OPENS = frozenset("if case for while until select {".split())
_CLOSES = frozenset("fi esac done }".split())
_KEYWORDS = _OPENS | _CLOSES | frozenset("then do else elif in ! time function".split())
_TESTS = frozenset(("[", "[[", "test", "command", "which", "type", "grep", "pgrep", "hash", "false"))
_TOKEN = re.compile(
    r"(?P<space>(?:[ \t\r]|\\\n)+)|(?P<comment>(?<![^\s;|&(])#[^\n]*)|"
    r"(?P<redirection>\d*(?:<<-?|>>|>\||<|>)(?:&[\d-]*)?[ \t]*(?:'[^']*'|\"[^\"\n]*\"|[^\s;|&()<>'\"`]+)?)|"
    r"(?P<separator>&&|\|\||;;|\$\(|[;|&\n()`])|"
    r"(?P<word>(?:'[^']*'|\"(?:\\.|[^\"\\])*\"|\$\{[^}]*\}|\$(?!\()|\\.|[^\s;|&()<>`'\"\\$])+)|(?P<odd>.)",
    re.S,
)
_HEREDOC = re.compile(r"(<<-?[ \t]*(['\"]?)(\w+)\2[^\n]*\n).*?(?:\n[ \t]*\3[ \t]*(?=\n|$)|$)", re.S)
_VARIABLE = re.compile(r"\$(?:\{(\w+)(?::?-([^}]*))?\}|(\w+|@|\*))")
_MAX_DEPTH = 6
_MAX_STEPS = 400
_MAX_WORDS = 12  # behind a starter, among which its program is looked for


@dataclass(frozen=True)
class Launch:
    """A program that is started: its name as written, where, and whether in any case. ``script`` is for a
    file that a shell reads, which need not be executable."""

    name: str
    directory: str
    certain: bool
    script: bool = False


@dataclass(frozen=True)
class Surroundings:
    """What names are looked up in. ``exists`` tells whether a name leads to an executable file."""

    directory: str
    environment: Mapping[str, str]
    exists: Callable[[str, str], bool]
    arguments: tuple[str, ...] = ()  # $0, $1, …


def launches(
    words: Sequence[str], around: Surroundings, *, certain: bool = True, depth: int = 0
) -> Iterator[Launch]:
    """Everything that ``words`` start, the first word first."""
    if not words or depth > _MAX_DEPTH:
        return
    first, rest = words[0], list(words[1:])
    yield Launch(first, around.directory, certain)
    name = first.rpartition("/")[2]
    if name in SHELLS:
        yield from _of_shell(rest, around, certain=certain, depth=depth)
    elif name in STARTERS or _LOADER.match(name):
        yield from _of_starter(name, rest, around, certain=certain, depth=depth)


def _of_shell(rest: list[str], around: Surroundings, *, certain: bool, depth: int) -> Iterator[Launch]:
    """``sh [options] -c TEXT [$0 …]`` or ``sh [options] FILE …``."""
    while rest and rest[0][:1] in "-+" and rest[0] not in ("-", "--"):
        option = rest.pop(0)
        if re.fullmatch(r"-\w*c\w*", option):
            while rest and rest[0][:1] == "-":
                rest.pop(0)
            if rest:
                inner = replace(around, arguments=tuple(rest[1:]))
                yield from in_text(rest[0], inner, certain=certain, depth=depth + 1)
            return
        if option in ("-o", "+o", "-O", "+O", "--rcfile", "--init-file") and rest:
            rest.pop(0)
    if rest[:1] in (["--"], ["-"]):
        rest.pop(0)
    if rest:
        yield Launch(rest[0], around.directory, certain, script=True)


def _of_starter(
    name: str, rest: list[str], around: Surroundings, *, certain: bool, depth: int
) -> Iterator[Launch]:
    """The program behind a starter's options: the first word that is one. A shell's text behind ``-c``."""
    directory = around.directory
    if name in _TAKE_TEXTS and "-c" in rest[:-1]:
        yield from in_text(rest[rest.index("-c") + 1], around, certain=certain, depth=depth + 1)
        return
    for position, word in enumerate(rest[:_MAX_WORDS]):
        following = rest[position + 1 :]
        if name == "env" and (split := re.fullmatch(r"(?:-S|--split-string=?)(.*)", word, re.S)):
            text = split[1] or " ".join(following[:1])
            yield from _of_starter(name, text.split(), around, certain=certain, depth=depth + 1)
            return
        if name == "env" and word in ("-C", "--chdir") and following:
            directory = posixpath.join(directory, following[0])
        if word == "--" or (word[:1] == "-" and word != "-"):
            continue
        if "=" in word.partition("/")[0]:
            continue
        if name in ("busybox", "toybox") and position == 0:
            yield from list(launches(rest, around, certain=certain, depth=depth + 1))[1:]
            return
        if around.exists(word, directory) or (word.startswith("/") and position + 1 == len(rest)):
            inner = replace(around, directory=directory)
            yield from launches(rest[position:], inner, certain=certain, depth=depth + 1)
            return


# --- shell texts --------------------------------------------------------------------------------------------


def in_text(text: str, around: Surroundings, *, certain: bool = True, depth: int = 0) -> Iterator[Launch]:
    """What a shell's text starts. Texts that ask for the architecture choose by it: there only the first
    command is sure to run."""
    chooses = bool(_CHOOSES.search(text))
    directory, environment = around.directory, dict(around.environment)
    for number, step in enumerate(_steps(text)):
        if number > _MAX_STEPS:
            return
        words = [_expanded(word, environment, around.arguments) for word in step.words]
        while words and (first := words[0]) is not None and re.match(r"[A-Za-z_]\w*=", first):
            name, _, value = first.partition("=")
            words.pop(0)
            if not words and not step.condition:
                environment[name] = value
        if not words or words[0] is None or (chooses and (number or step.condition)):
            continue
        known = list(_until_unknown(words, around.arguments))
        if not known:
            continue
        if known[0] == "cd" and len(known) > 1 and not step.condition:
            directory = posixpath.join(directory, known[1])
            continue
        if known[0] == "export":
            environment |= dict(pair.partition("=")[::2] for pair in known[1:] if "=" in pair)
            continue
        inner = replace(around, directory=directory, environment=environment)
        sure = certain and not step.condition
        yield from launches(known, inner, certain=sure, depth=depth + 1)
        if known[0] == "exec" and sure and len(known) > 1:
            return


def _until_unknown(words: Sequence[str | None], arguments: Sequence[str]) -> Iterator[str]:
    for word in words:
        if word is None:
            return
        if word in ("$@", "$*"):
            yield from arguments[1:]
        else:
            yield word


@dataclass
class _Step:
    """A simple command as it is written, and whether it runs only under a condition."""

    words: list[str] = field(default_factory=list)
    condition: bool = False


def _steps(text: str) -> Iterator[_Step]:
    """The simple commands of a text, those in functions and substitutions as conditional ones."""
    state = _Nesting()
    step = _Step()
    for match in _TOKEN.finditer(_HEREDOC.sub(r"\1", text)):
        kind, token = match.lastgroup, match[0]
        if state.pattern:
            state.in_pattern(token)
        elif kind == "word":
            if step.words or not state.keyword(token):
                step.words.append(token)
        elif kind == "separator":
            if step.words and not state.header:
                step.condition = state.is_conditional
                yield step
            state.separator(token, step.words)
            step = _Step()
    if step.words and not state.header and not state.pattern:
        step.condition = state.is_conditional
        yield step


@dataclass
class _Nesting:
    """Where in a shell's text we are. ``header`` is between ``for`` and ``do``, ``pattern`` between ``case``
    or ``;;`` and the ``)`` behind a pattern."""

    blocks: int = 0
    cases: int = 0
    substitutions: int = 0
    chained: bool = False  # behind || or a test and &&
    header: bool = False
    pattern: bool = False
    inner: int = 0  # substitutions within a pattern

    @property
    def is_conditional(self) -> bool:
        return self.chained or self.blocks > 0 or self.substitutions > 0

    def keyword(self, token: str) -> bool:
        """Take a word where a command may begin; whether it is one of the shell's own."""
        if token not in _KEYWORDS:
            return False
        self.blocks += (token in _OPENS) - (token in _CLOSES and self.blocks > 0)
        self.cases += (token == "case") - (token == "esac" and self.cases > 0)
        self.header = token in ("for", "select")
        self.pattern, self.inner = token == "case", 0
        return True

    def in_pattern(self, token: str) -> None:
        if token == "esac":
            self.pattern = False
            self.keyword(token)
        elif token == "$(":
            self.inner += 1
        elif token == ")":
            self.pattern, self.inner = self.inner > 0, max(0, self.inner - 1)

    def separator(self, token: str, words: Sequence[str]) -> None:
        if token in ("&&", "||"):
            self.chained = self.chained or token == "||" or (words[:1] != [] and words[0] in _TESTS)
        else:
            self.chained = False
        if token in ("$(", "("):
            self.substitutions += 1
        elif token == "`":
            self.substitutions += -1 if self.substitutions else 1
        elif token == ")" and self.substitutions:
            self.substitutions -= 1
        self.header = False
        self.pattern = token == ";;" and self.cases > 0


def _expanded(word: str, environment: Mapping[str, str], arguments: Sequence[str]) -> str | None:
    """A word without quotes and with variables' values; None where one is not known."""
    if word in ("$@", '"$@"', "$*", '"$*"'):
        return "$@"
    unknown = False

    def value(match: re.Match[str]) -> str:
        nonlocal unknown
        name = match[1] or match[3]
        if name.isdigit() and int(name) < len(arguments):
            return arguments[int(name)]
        found = environment.get(name) or match[2]
        unknown = unknown or found is None
        return found or ""

    pieces = []
    for piece in re.findall(r"'[^']*'|\"(?:\\.|[^\"\\])*\"|[^'\"]+", word, re.S):
        if piece[0] == "'":
            pieces.append(piece[1:-1])
        else:
            inner = piece[1:-1] if piece[0] == '"' else piece
            pieces.append(re.sub(r"\\(.)", r"\1", _VARIABLE.sub(value, inner), flags=re.S))
    return None if unknown else "".join(pieces)
