"""Parser directives: the ``# name=value`` lines at the very top of a Dockerfile."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from polyarch.dockerfile.characters import SPACES
from polyarch.errors import DockerfileError, Location

KNOWN = frozenset({"syntax", "escape", "check"})
_DIRECTIVE = re.compile(
    r"#[\t\n\f\r ]*([a-zA-Z][a-zA-Z0-9]*)[\t\n\f\r ]*=[\t\n\f\r ]*(.+?)[\t\n\f\r ]*", re.DOTALL
)


@dataclass
class Directives:
    """Reads directives line by line, until the first line that is not one."""

    file: str
    source: str
    values: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    escape: str = "\\"
    _open: bool = True
    _after_shebang: bool = False

    def offer(self, line: str, number: int) -> bool:
        """Whether ``line`` (the 1-based ``number``) is a directive, which is then remembered.

        DockerfileError when it repeats an earlier one or names an impossible escape character.
        """
        if not self._open:
            return False
        match = _DIRECTIVE.fullmatch(line.lstrip(SPACES))
        name = match[1].lower() if match else ""
        if not match or name not in KNOWN:
            # ``#!/usr/bin/env …`` may stand above syntax and check, but then escape is only a comment.
            self._after_shebang = number == 1 and line.startswith("#!")
            self._open = self._after_shebang
            return False
        if self._after_shebang and (name == "escape" or name in self.values):
            return False
        if name in self.values:
            raise self._error(f"the directive {name} is given twice", number, "keep one of them", "directive")
        self.values[name] = match[2]
        self.lines[name] = number
        if name == "escape":
            self._set_escape(match[2], number)
        return not self._after_shebang

    def _set_escape(self, value: str, number: int) -> None:
        if value not in ("\\", "`"):
            raise self._error(
                f"{value!r} cannot be the escape character",
                number,
                "the escape directive takes \\ or `",
                "invalid-escape",
            )
        self.escape = value

    def _error(self, summary: str, number: int, hint: str, reason: str) -> DockerfileError:
        location = Location(self.file, number, number, source=self.source)
        return DockerfileError(summary, hint=hint, location=location, reason=reason)
