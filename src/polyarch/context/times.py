"""When a remote source was made: the time of a commit, of a download, of the newest file of an archive."""

from __future__ import annotations

from polyarch.content.state import State
from polyarch.context.archive import archive_layer, is_archive_start
from polyarch.context.git_url import is_git_url
from polyarch.layer.entry import Entry
from polyarch.layer.rootfs import Rootfs


def source_time(url: str, state: State) -> int | None:
    """Seconds since 1970 of what is behind a git or http URL; None where nothing tells.

    A commit has its own time. A download has that of its Last-Modified header, else that of the newest file
    in it when it is a tar. What is fetched stays in ``state``, so that the build need not fetch it again.
    """
    if is_git_url(url):
        from polyarch.context import git

        return _newest(git.fetch(url, state)[1])
    from polyarch.context import http

    file = http.fetch(url, state)
    if file.last_modified_ns:
        return file.last_modified_ns // 10**9
    with open(file.path, "rb") as stream:
        archive = is_archive_start(stream.read(512))
        stream.seek(0)
        if not archive:
            return None
        state.temporary.mkdir(parents=True, exist_ok=True)
        return _newest(Rootfs((archive_layer(stream, name=url, folder=state.temporary),)))


def _newest(files: Rootfs) -> int | None:
    return max((_seconds(entry) for entry in files.walk() if entry.path), default=None)


def _seconds(entry: Entry) -> int:
    return entry.mtime_ns // 10**9
