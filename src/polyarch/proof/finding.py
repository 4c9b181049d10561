"""What a proof finds, how grave that is, and what is done about it."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from polyarch.errors import PolyarchError

Severity = Literal["error", "warning", "note"]
Mode = Literal["strict", "default", "off"]
MODES: tuple[Mode, ...] = ("strict", "default", "off")
PAGE = "docs/proof.md"
IGNORE_FILE = ".polyarch-proof-ignore"  # in the context: patterns, one a line
# Rules that say that code is for another machine.
ARCHITECTURE = frozenset({"WrongArchitecture", "MislabelledBase", "ForeignLibrary", "WrongAbi"})
_SHOWN = 20


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing found. An "error" cannot run, a "warning" is probably not meant, a "note" is information.

    ``path`` is relative to the root, "" where it is about the whole image. ``layer`` is the number of the
    layer that holds it, 1 for the lowest, 0 for none; ``instruction`` what made that layer, "" unknown.
    ``machine`` is what the file is for, "" when that is not the matter.
    """

    severity: Severity
    rule: str
    message: str
    platform: str = ""
    path: str = ""
    machine: str = ""
    layer: int = 0
    instruction: str = ""

    @property
    def url(self) -> str:
        """The section of the documentation that explains the rule."""
        return f"{PAGE}#{self.rule.lower()}"

    def __str__(self) -> str:
        text = f"/{self.path}: {self.message}" if self.path else self.message
        if self.layer:
            made = f": {self.instruction}" if self.instruction else ""
            text += f" (layer {self.layer}{made})"
        return text


@dataclass(frozen=True)
class Policy:
    """What counts: "strict" takes warnings for errors. ``ignore`` are patterns as of a shell: with a slash
    for paths (``/opt/tools/*``, ``*`` also matches slashes), without for names of rules and of files."""

    mode: Mode = "default"
    ignore: tuple[str, ...] = ()

    def apply(self, findings: Iterable[Finding]) -> tuple[Finding, ...]:
        """The findings that count, as grave as they are now."""
        if self.mode == "off":
            return ()
        kept = (finding for finding in findings if not self._ignored(finding))
        if self.mode == "strict":
            return tuple(
                msgspec.structs.replace(finding, severity="error")
                if finding.severity == "warning"
                else finding
                for finding in kept
            )
        return tuple(kept)

    def _ignored(self, finding: Finding) -> bool:
        path = "/" + finding.path
        for pattern in self.ignore:
            if "/" in pattern:
                wanted = pattern if pattern.startswith(("/", "*")) else "/" + pattern
                if finding.path and (
                    fnmatch.fnmatchcase(path, wanted) or fnmatch.fnmatchcase(path, wanted.rstrip("/") + "/*")
                ):
                    return True
            elif finding.rule == pattern or (
                finding.path and fnmatch.fnmatchcase(path.rpartition("/")[2], pattern)
            ):
                return True
        return False


def read_ignore_file(text: str) -> tuple[str, ...]:
    """The patterns of an ignore file: one a line, ``#`` starts a comment."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return tuple(line for line in lines if line)


def errors(findings: Sequence[Finding]) -> list[Finding]:
    """Only what keeps a variant from being tagged."""
    return [finding for finding in findings if finding.severity == "error"]


def refuse(findings: Sequence[Finding]) -> None:
    """Raise PolyarchError when there are errors: ``wrong-architecture`` where code is for another machine,
    else ``proof-failed``."""
    found = errors(findings)
    if not found:
        return
    first = found[0]
    about = f"the {first.platform} variant cannot run: " if first.platform else ""
    rest = [f"  {finding.platform}: {finding}" for finding in found[1:_SHOWN]]
    if len(found) > _SHOWN:
        rest.append(f"  … and {len(found) - _SHOWN} more")
    raise PolyarchError(
        f"{about}{first}",
        detail="\n".join(rest),
        hint="nothing was tagged; compile for TARGETARCH, or copy the program from a stage on the target "
        f"platform. {PAGE} explains {first.rule}; --proof-ignore PATTERN accepts a file, --proof=off all",
        reason="wrong-architecture" if first.rule in ARCHITECTURE else "proof-failed",
    )
