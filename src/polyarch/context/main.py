"""The main build context and its Dockerfile: a directory, standard input, a git repository or a URL."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from polyarch.content.state import State
from polyarch.context.archive import archive_layer, is_archive_start
from polyarch.context.directory import DirectoryContext
from polyarch.context.git_url import is_git_url
from polyarch.context.http import is_http_url
from polyarch.context.ignore import Matcher, read_patterns
from polyarch.context.index import ContentIndex
from polyarch.errors import NotFoundError, PolyarchError, UsageError
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.store import LayerStore

MAX_DOCKERFILE = 4 << 20  # bytes
_NAMES = ("Dockerfile", "dockerfile", "Containerfile")  # the last is buildah's and podman's


@dataclass(frozen=True)
class MainContext:
    """``files`` gives the context's files when they are needed; ``dockerfile`` is the text, ``name`` what to
    call it in messages; ``patterns`` are those of the .dockerignore that applies."""

    files: Callable[[LayerStore], Rootfs]
    dockerfile: str
    name: str
    patterns: tuple[str, ...] = ()


def open_context(
    text: str, dockerfile: str | None, state: State, stdin: BinaryIO, *, keep_git_dir: bool = False
) -> MainContext:
    """The context ``text`` with the Dockerfile ``dockerfile`` (None: the usual name; ``-``: standard input).

    ``keep_git_dir`` keeps the folder .git of a git repository.

    NotFoundError and UsageError name the path and say what was looked for.
    """
    if text == "-" and dockerfile == "-":
        raise UsageError(
            "the context and the Dockerfile cannot both come from standard input", reason="stdin-twice"
        )
    given = stdin.read(MAX_DOCKERFILE + 1) if dockerfile == "-" else None
    if text == "-":
        return _from_stream(stdin, dockerfile, state)
    if is_git_url(text):
        from polyarch.context import git

        _, rootfs = git.fetch(text, state, keep_git_dir=keep_git_dir)
        return _from_rootfs(rootfs, dockerfile, given, text)
    if is_http_url(text):
        from polyarch.context import http

        file = http.fetch(text, state)
        with open(file.path, "rb") as stream:
            return _from_stream(stream, dockerfile, state, given, only=True)
    return _from_directory(Path(text), dockerfile, given, state)


def open_directory(
    path: Path, state: State, store: LayerStore, patterns: tuple[str, ...] | None = None
) -> Rootfs:
    """A local directory as files; its own .dockerignore applies unless ``patterns`` are given. The state
    directory is never part of it."""
    _check_directory(path)
    if patterns is None:
        patterns = _patterns_in(path / ".dockerignore")
    own = _own_folder(path, state)
    if own:
        patterns = (*patterns, own)
    matcher = Matcher(patterns) if patterns else None
    return DirectoryContext(path, matcher=matcher, index=ContentIndex(state), store=store).rootfs()


def _own_folder(path: Path, state: State) -> str:
    """The pattern that leaves out the state directory where it lies inside the context, as it does where a
    CI system caches nothing but the project's own folder: it changes while it would be copied."""
    try:
        inside = state.root.resolve().relative_to(path.resolve()).as_posix()
    except ValueError:
        return ""
    return "" if inside == "." else re.sub(r"([\\*?\[])", r"\\\1", inside)


def _check_directory(path: Path) -> None:
    if not path.exists():
        raise NotFoundError(
            f"the build context {str(path)!r} does not exist",
            hint="give a directory, a git or http URL, or - for standard input",
            reason="context-not-found",
        )
    if not path.is_dir():
        raise UsageError(
            f"the build context {str(path)!r} is not a directory",
            hint="to build with a Dockerfile elsewhere: -f DOCKERFILE DIRECTORY",
            reason="context-not-directory",
        )


def _from_directory(path: Path, dockerfile: str | None, given: bytes | None, state: State) -> MainContext:
    _check_directory(path)
    if given is not None:
        name, content, beside = "Dockerfile", given, None
    else:
        place = _find(path, dockerfile)
        name, content, beside = str(dockerfile or place.name), _read(place), place
    patterns = None
    if beside is not None:
        own = _own_ignore_file(beside)
        if own.is_file():
            patterns = _patterns_in(own)
    if patterns is None:
        patterns = _patterns_in(path / ".dockerignore")
    return MainContext(
        lambda store: open_directory(path, state, store, patterns), _text(content, name), name, patterns
    )


def consulted(context: Path, dockerfile: str | None) -> list[Path]:
    """Every file that has a say in which Dockerfile is built and what of the directory ``context`` is left
    out of it, whether it is there or not."""
    found = _candidates(context, dockerfile)
    return [*found, *(_own_ignore_file(path) for path in found), context / ".dockerignore"]


def _own_ignore_file(dockerfile: Path) -> Path:
    return dockerfile.parent / (dockerfile.name + ".dockerignore")


def _candidates(context: Path, dockerfile: str | None) -> list[Path]:
    if dockerfile is None:
        return [context / name for name in _NAMES]
    return [Path(dockerfile), context / dockerfile]


def _find(context: Path, dockerfile: str | None) -> Path:
    candidates = _candidates(context, dockerfile)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    wanted = dockerfile or "Dockerfile"
    if candidates[0].is_dir():
        raise NotFoundError(
            f"failed to read dockerfile: {wanted} is a directory",
            hint=f"name the file: -f {candidates[0] / 'Dockerfile'}",
            reason="dockerfile-not-found",
        )
    raise NotFoundError(
        f"failed to read dockerfile: {wanted} is not there",
        detail=f"looked for {', '.join(str(candidate) for candidate in candidates)}",
        hint="give its place with -f",
        reason="dockerfile-not-found",
    )


def _from_stream(
    stream: BinaryIO,
    dockerfile: str | None,
    state: State,
    given: bytes | None = None,
    *,
    only: bool = False,
) -> MainContext:
    """A tar with a Dockerfile in it, or a Dockerfile; with ``only`` that is the one meant, whatever its
    name."""
    start = stream.read(512)
    if is_archive_start(start):
        folder = state.temporary
        folder.mkdir(parents=True, exist_ok=True)
        layer = archive_layer(_Rejoined(start, stream), name="build context", folder=folder)  # type: ignore[arg-type]
        return _from_rootfs(Rootfs((layer,)), dockerfile, given, "standard input")
    content = start + stream.read(MAX_DOCKERFILE + 1)
    if not content.strip():
        raise UsageError("standard input is empty: expected a Dockerfile or a tar", reason="empty-stdin")
    if dockerfile not in (None, "-") and not only:
        raise UsageError(
            f"-f {dockerfile}: standard input is a Dockerfile, not a tar that could hold one",
            reason="dockerfile-twice",
        )
    return MainContext(lambda _: Rootfs(), _text(content, "Dockerfile"), "Dockerfile")


def _from_rootfs(rootfs: Rootfs, dockerfile: str | None, given: bytes | None, where: str) -> MainContext:
    if given is not None:
        return MainContext(lambda _: rootfs, _text(given, "Dockerfile"), "Dockerfile")
    names = _NAMES if dockerfile is None else (dockerfile,)
    for name in names:
        path = rootfs.resolve(posixpath.normpath(name))
        entry = rootfs.get(path)
        if entry is not None and entry.type in ("file", "hardlink"):
            content = rootfs.read(path, MAX_DOCKERFILE)
            return MainContext(lambda _: rootfs, _text(content, name), name)
    raise NotFoundError(
        f"failed to read dockerfile: {names[0]} is not in {where}",
        hint="give its place in the context with -f",
        reason="dockerfile-not-found",
    )


def _read(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MAX_DOCKERFILE + 1)


def _text(content: bytes, name: str) -> str:
    if len(content) > MAX_DOCKERFILE:
        raise PolyarchError(
            f"{name} is larger than {MAX_DOCKERFILE >> 20} MiB", reason="dockerfile-too-large"
        )
    return content.decode("utf-8", "surrogateescape")


def _patterns_in(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return ()
    return read_patterns(path.read_text(encoding="utf-8-sig", errors="surrogateescape"))


class _Rejoined:
    """A stream whose first bytes were read already."""

    def __init__(self, start: bytes, rest: BinaryIO) -> None:
        self._start = start
        self._rest = rest

    def read(self, size: int = -1) -> bytes:
        if self._start:
            if size is None or size < 0:
                data, self._start = self._start + self._rest.read(), b""
                return data
            data, self._start = self._start[:size], self._start[size:]
            return data
        return self._rest.read(size)
