"""The builders of one user: files under ``$POLYARCH_ROOT/builders`` that survive crashes and company.

Every file is replaced as a whole, so that a reader sees the old or the new one; who changes a file by what is
in it holds the lock. A file that cannot be read concerns its own builder alone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from polyarch.builder.instance import DEFAULT, Builder, valid_name
from polyarch.content.state import State
from polyarch.errors import NotFoundError, PolyarchError, UsageError

_SUFFIX = ".json"
_MOST = 16 << 20  # bytes of a builder's file
_PARTIAL = ".partial-"
VARIABLES = ("POLYARCH_BUILDER", "BUILDX_BUILDER")  # which name the builder to use; the first one set counts
Change = Callable[[Builder | None], Builder]


class _Chosen(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The builder in use, and the one that is when that is gone."""

    current: str = ""
    default: str = ""


class Builders:
    """The recorded builders, and ``default``. Nothing is written before something changes."""

    def __init__(self, state: State) -> None:
        self._folder = state.builders
        self._instances = self._folder / "instances"
        self._activity = self._folder / "activity"

    # --- looking --------------------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """The recorded builders' names in order, whether or not they can be read; without ``default``."""
        return sorted(
            path.name.removesuffix(_SUFFIX)
            for path in self._instances.glob(f"[a-z]*{_SUFFIX}")
            if path.name != f"{DEFAULT.name}{_SUFFIX}"
        )

    def get(self, name: str) -> Builder:
        """The builder called ``name``. NotFoundError where there is none, PolyarchError for a damaged one."""
        if name == DEFAULT.name:
            return DEFAULT
        found = self._read(name.lower())
        if found is None:
            known = ", ".join([*self.names(), DEFAULT.name])
            raise NotFoundError(
                f'no builder "{name}" found', hint=f"there are {known}", reason="builder-not-found"
            )
        return found

    def selected(self, name: str = "", environment: Mapping[str, str] = os.environ) -> Builder:
        """The builder to use: ``name`` if given, else what $POLYARCH_BUILDER or $BUILDX_BUILDER names, else
        the current one."""
        if name:
            return self.get(name)
        for variable in VARIABLES:
            if wanted := environment.get(variable, ""):
                try:
                    return self.get(wanted)
                except NotFoundError as error:
                    error.detail = f"${variable} names it"
                    raise
        return self.get(self.current())

    def current(self) -> str:
        """The name of the builder that ``use`` chose; the chosen default when that is gone."""
        chosen = self._chosen()
        for name in (chosen.current, chosen.default):
            if name and self._path(name).is_file():
                return name
        return DEFAULT.name

    def last_used(self, name: str) -> float:
        """Seconds since 1970 when the builder last built, 0 when it never did."""
        try:
            return (self._activity / name).stat().st_mtime
        except OSError:
            return 0.0

    # --- changing -------------------------------------------------------------------------------------------

    def change(self, name: str, change: Change) -> Builder:
        """Replace the builder ``name`` (None where there is none) by what ``change`` makes of it. Nobody else
        changes any builder meanwhile; when ``change`` raises, nothing has changed."""
        name = valid_name(name)
        _not_default(name, "is a reserved name and cannot be changed", "choose another name")
        with self._locked():
            found = change(self._read(name))
            self._write(self._path(name), msgspec.json.encode(found))
            return found

    def remove(self, name: str) -> None:
        """Forget the builder; harmless when there is none."""
        _not_default(name, "cannot be removed: it is this machine", "polyarch prune --all empties it")
        with self._locked():
            self._path(name).unlink(missing_ok=True)
            (self._activity / name).unlink(missing_ok=True)

    def use(self, name: str, *, default: bool = False) -> None:
        """Make the builder the current one; with ``default`` also the one to fall back to."""
        chosen = self.get(name).name
        with self._locked():
            before = self._chosen()
            after = _Chosen(current=chosen, default=chosen if default else before.default)
            self._write(self._folder / f"chosen{_SUFFIX}", msgspec.json.encode(after))

    def touch(self, name: str) -> None:
        """Note that the builder is used now."""
        try:
            self._activity.mkdir(parents=True, exist_ok=True)
            (self._activity / valid_name(name)).touch()
        except OSError:
            pass  # nobody builds less for it

    # --- files ----------------------------------------------------------------------------------------------

    def _path(self, name: str) -> Path:
        return self._instances / f"{valid_name(name)}{_SUFFIX}"

    def _read(self, name: str) -> Builder | None:
        try:
            path = self._path(name)
        except UsageError:
            return None  # nothing can have that name
        try:
            with path.open("rb") as file:
                content = file.read(_MOST)
        except FileNotFoundError:
            return None
        try:
            found = msgspec.json.decode(content, type=Builder)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise _damaged(path, name, str(error)) from None
        if found.name != name or not found.nodes:
            raise _damaged(path, name, f"it describes {found.name!r} with {len(found.nodes)} nodes")
        return found

    def _chosen(self) -> _Chosen:
        try:
            return msgspec.json.decode((self._folder / f"chosen{_SUFFIX}").read_bytes(), type=_Chosen)
        except (OSError, msgspec.MsgspecError, RecursionError):
            return _Chosen()  # a choice is made again in a moment

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._instances.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            for folder in (self._folder, self._instances):
                for left in folder.glob(f"{_PARTIAL}*"):  # by somebody who died: we hold the lock
                    left.unlink(missing_ok=True)
            yield
        finally:
            os.close(descriptor)

    def _write(self, path: Path, content: bytes) -> None:
        partial = path.with_name(f"{_PARTIAL}{os.getpid()}-{time.monotonic_ns()}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _not_default(name: str, why: str, hint: str) -> None:
    if name == DEFAULT.name:
        raise UsageError(f"{DEFAULT.name} {why}", hint=hint, reason="reserved-name")


def _damaged(path: Path, name: str, why: str) -> PolyarchError:
    return PolyarchError(
        f"cannot read the builder {name}: {path} is damaged",
        detail=why,
        hint=f"remove it with polyarch rm {name}, and create it again",
        reason="builder-damaged",
    )
