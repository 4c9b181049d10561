"""Every error polyarch raises on purpose.

    PolyarchError            base: summary, detail, hint, location, reason; exit code 1
    ├── UsageError           the command line or the arguments make no sense; exit code 2
    ├── DockerfileError      the Dockerfile is wrong at a place in it
    ├── NotFoundError        a reference, blob, file or builder is not there
    ├── ContentError         bytes are not what their digest, size or format promised
    ├── RegistryError        a registry refused, failed or lied (``status`` is the HTTP status or 0)
    ├── UnsupportedError     this machine lacks something: a namespace, an emulator, a permission
    ├── StepError            a process of the build failed (``exit_code``, ``platform``, ``output``)
    └── CancelledError       the user or another failure stopped the work

Lower rooms raise; only ``cli/`` prints and chooses the exit code. A subclass exists only where some caller
branches on it. ``reason`` is a stable word for tests and machine-readable progress. No secret and no
credential may ever be put in any field.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Location:
    """A range of lines in a text file, as shown to the user.

    ``start`` and ``end`` are 1-based and inclusive; ``column`` is 1-based or 0 when unknown;
    ``source`` is the whole text of the file, so that an excerpt can be printed without reading it again.
    """

    file: str
    start: int
    end: int
    column: int = 0
    source: str = field(default="", repr=False, compare=False)


class PolyarchError(Exception):
    """An error with everything a user needs to act on it.

    ``summary`` names the operation and the object in one line; ``detail`` is more lines of evidence;
    ``hint`` says the way out; ``reason`` is a stable kebab-case word.
    """

    exit_code = 1

    def __init__(
        self,
        summary: str,
        *,
        detail: str = "",
        hint: str = "",
        location: Location | None = None,
        reason: str = "error",
    ) -> None:
        super().__init__(summary)
        self.summary = summary
        self.detail = detail
        self.hint = hint
        self.location = location
        self.reason = reason


class UsageError(PolyarchError):
    """The command line or a function's arguments make no sense."""

    exit_code = 2


class DockerfileError(PolyarchError):
    """The Dockerfile is wrong; ``location`` says where."""


class NotFoundError(PolyarchError):
    """A reference, blob, file or builder is not there."""


class ContentError(PolyarchError):
    """Bytes are not what their digest, size or format promised."""


class RegistryError(PolyarchError):
    """A registry refused, failed or lied. ``status`` is the HTTP status, 0 where there was none."""

    def __init__(
        self, summary: str, *, status: int = 0, detail: str = "", hint: str = "", reason: str = "registry"
    ) -> None:
        super().__init__(summary, detail=detail, hint=hint, reason=reason)
        self.status = status


class UnsupportedError(PolyarchError):
    """This machine lacks something the work needs; ``hint`` says how to get it."""


class StepError(PolyarchError):
    """A process of the build ended with a non-zero status.

    ``exit_code`` is the process's status (128 + signal for a signal), ``platform`` the platform it ran for
    in text form, ``output`` the last lines it wrote.
    """

    def __init__(
        self,
        summary: str,
        *,
        process_exit_code: int,
        platform: str = "",
        output: str = "",
        detail: str = "",
        hint: str = "",
        location: Location | None = None,
        reason: str = "step-failed",
    ) -> None:
        super().__init__(summary, detail=detail, hint=hint, location=location, reason=reason)
        self.process_exit_code = process_exit_code
        self.platform = platform
        self.output = output


class CancelledError(PolyarchError):
    """The work was stopped before it ended."""

    exit_code = 130
