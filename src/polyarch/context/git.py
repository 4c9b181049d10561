"""Files of a git repository at a commit: for contexts, and for ADD.

Each remote has a bare repository under the state's sources, to which only what is missing is fetched; each
commit that was used has a checkout beside it. A checkout's files bear the time of its commit, so that they
are the same on every machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from polyarch.content.state import State
from polyarch.context.directory import DirectoryContext
from polyarch.context.git_cli import Git
from polyarch.context.git_url import GitUrl, is_commit, is_git_url, parse, redact
from polyarch.context.index import ContentIndex
from polyarch.errors import ContentError, NotFoundError, PolyarchError
from polyarch.layer.rootfs import Rootfs

__all__ = ["fetch", "is_git_url", "parse", "resolve"]

_ABBREVIATED = re.compile(r"[0-9a-f]{7,39}")
_PROTOCOLS = ("https", "http", "ssh", "git")


@dataclass(frozen=True)
class _Found:
    """What a reference names: ``commit``, the object that names it (an annotated tag or the same), and the
    full name of the reference, empty for a commit."""

    commit: str
    object: str
    name: str


def resolve(url: str, *, ssh_socket: str | None = None, token: str | None = None) -> str:
    """The commit that a git URL names now, asking the remote and fetching nothing."""
    wanted = parse(url)
    return _find(_git(wanted, ssh_socket, token), wanted).commit


def fetch(
    url: str,
    state: State,
    *,
    keep_git_dir: bool = False,
    submodules: bool = True,
    checksum: str = "",
    ssh_socket: str | None = None,
    token: str | None = None,
) -> tuple[str, Rootfs]:
    """The commit that ``url`` names, and its files.

    What the URL says itself of ``keep_git_dir``, ``submodules`` and the checksum goes first. ``checksum`` is
    a commit, or its first digits, which the result must be (ContentError). NotFoundError when the repository
    has no such reference or folder. Credentials in the URL appear in no message.
    """
    wanted = parse(url)
    keep = keep_git_dir if wanted.keep_git_dir is None else wanted.keep_git_dir
    deep = submodules if wanted.submodules is None else wanted.submodules
    git = _git(wanted, ssh_socket, token)
    found = _find(git, wanted)
    for expected in (wanted.checksum, checksum):
        if expected and not (found.commit.startswith(expected) or found.object.startswith(expected)):
            raise ContentError(
                f"{wanted.redacted}: {wanted.ref or 'the default branch'} is {found.commit}, "
                f"expected checksum to match {expected}",
                reason="checksum-mismatch",
            )
    repository = _Repository(git, wanted, state)
    with repository.locked():
        checkout = repository.checkout(found, keep_git_dir=keep, submodules=deep)
    flags = ("+git" if keep else "") + ("" if deep else "-submodules")
    return found.commit, Rootfs((_part(checkout, wanted, found.commit + flags, state),))


class _Checkout(DirectoryContext):
    """A checkout's files; two of the same commit are the same."""

    def __init__(self, path: Path, name: str, index: ContentIndex) -> None:
        super().__init__(path, index=index)
        self._name = name

    @property
    def id(self) -> str:
        return self._name


def _part(checkout: Path, wanted: GitUrl, name: str, state: State) -> _Checkout:
    """The folder of the checkout that was asked for, links inside the repository followed."""
    index = ContentIndex(state)
    whole = _Checkout(checkout, "git:" + name, index)
    subdir = wanted.subdir.strip("/")
    if not subdir or subdir == ".":
        return whole
    view = Rootfs((whole,))
    path = view.resolve(subdir)
    entry = view.get(path)
    if entry is None or entry.type != "directory":
        raise NotFoundError(
            f"{wanted.redacted} has no folder {wanted.subdir!r} at {name[:12]}", reason="subdir-not-found"
        )
    return _Checkout(checkout / path, f"git:{name}:{path}", index) if path else whole


def _git(wanted: GitUrl, ssh_socket: str | None, token: str | None) -> Git:
    return Git(ssh_socket=ssh_socket, token=token, protocols=_PROTOCOLS)


def _find(git: Git, wanted: GitUrl) -> _Found:
    """Ask the remote what the reference names; a whole commit needs no asking."""
    ref = wanted.ref
    if is_commit(ref):
        return _Found(ref, ref, "")
    patterns = [ref, ref + "^{}"] if ref else ["HEAD"]
    try:
        answer = git.run("ls-remote", "--", wanted.remote, *patterns)
    except PolyarchError as error:
        raise _unreachable(wanted, error) from None
    if _ABBREVIATED.fullmatch(ref) and ref == wanted.checksum and not answer.strip():
        return _abbreviated(git, wanted)
    names: dict[str, str] = {}
    for line in answer.splitlines():
        found, _, name = line.partition("\t")
        if is_commit(found):
            names[name] = found
    candidates = (ref, "refs/" + ref, "refs/tags/" + ref, "refs/heads/" + ref) if ref else ("HEAD",)
    for name in candidates:
        if name in names:
            return _Found(names.get(name + "^{}", names[name]), names[name], name)
    raise NotFoundError(
        f"{wanted.redacted} has no {'reference ' + repr(ref) if ref else 'default branch'}",
        hint="a commit must be given with all its 40 digits",
        reason="git-ref-not-found",
    )


def _abbreviated(git: Git, wanted: GitUrl) -> _Found:
    """The commit that ``?commit=`` gives the first digits of: the remote's only one among its references."""
    try:
        answer = git.run("ls-remote", "--", wanted.remote)
    except PolyarchError as error:
        raise _unreachable(wanted, error) from None
    rows = [line.partition("\t") for line in answer.splitlines()]
    found = {commit for commit, _, _ in rows if is_commit(commit) and commit.startswith(wanted.ref)}
    if len(found) == 1:
        (commit,) = found
        return _Found(commit, commit, "")
    raise NotFoundError(
        f"{wanted.redacted} has {'several' if found else 'no'} commits {wanted.ref}… among its references",
        hint="give all digits of the commit",
        reason="git-ref-not-found",
    )


class _Repository:
    """The local copy of one remote."""

    def __init__(self, git: Git, wanted: GitUrl, state: State) -> None:
        self._git = git
        self._wanted = wanted
        name = hashlib.sha256(wanted.redacted.encode()).hexdigest()[:32]
        self._folder = state.sources / "git" / name
        self._bare = self._folder / "bare.git"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process and one thread at a time."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.utime(lock.fileno())  # the time of its last use, for the collector
            yield

    def checkout(self, found: _Found, *, keep_git_dir: bool, submodules: bool) -> Path:
        """A folder with the files of the commit."""
        flags = ("-git" if keep_git_dir else "") + ("" if submodules else "-flat")
        target = self._folder / f"{found.commit}{flags}"
        if target.is_dir():
            return target
        self._fetch(found)
        temporary = self._folder / f"tmp-{secrets.token_hex(8)}"
        try:
            self._fill(temporary, found, keep_git_dir=keep_git_dir, submodules=submodules)
            os.rename(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(self._folder / "work.git", ignore_errors=True)
        return target

    def _fetch(self, found: _Found) -> None:
        if not (self._bare / "HEAD").exists():
            self._git.run("init", "--quiet", "--bare", _format(found), str(self._bare))
        if self._has(found.commit):
            return
        (self._bare / "shallow.lock").unlink(missing_ok=True)
        remote = self._wanted.remote
        what = f"+{found.name}:refs/polyarch/fetched" if found.name else found.commit
        fetch = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head")
        done = self._git.attempt(*fetch, "--depth=1", "--", remote, what, directory=self._bare)
        if done.returncode or not self._has(found.commit):
            # Not every server gives single commits, or shallow ones; and branches move.
            everything = ("+refs/heads/*:refs/polyarch/heads/*", "+refs/tags/*:refs/polyarch/tags/*")
            unshallow = ("--unshallow",) if (self._bare / "shallow").exists() else ()
            try:
                self._git.run(*fetch, *unshallow, "--", remote, *everything, directory=self._bare)
            except PolyarchError as error:
                raise _unreachable(self._wanted, error) from None
        if not self._has(found.commit):
            raise NotFoundError(
                f"{self._wanted.redacted} has no commit {found.commit}", reason="git-ref-not-found"
            )

    def _has(self, commit: str) -> bool:
        check = ("cat-file", "-e", f"{commit}^{{commit}}")
        return self._git.attempt(*check, directory=self._bare).returncode == 0

    def _fill(self, target: Path, found: _Found, *, keep_git_dir: bool, submodules: bool) -> None:
        git = self._git
        repository = target / ".git" if keep_git_dir else self._folder / "work.git"
        shutil.rmtree(repository, ignore_errors=True)
        target.mkdir()
        git.run("init", "--quiet", "--bare", _format(found), str(repository))
        place = {"GIT_DIR": str(repository), "GIT_WORK_TREE": str(target)}
        local = {**place, "GIT_ALLOW_PROTOCOL": "file"}
        git.run("config", "core.bare", "false", environment={"GIT_DIR": str(repository)})
        # Over the file protocol on purpose: a clone's shortcuts through links are not wanted here.
        pin = f"refs/polyarch/keep/{found.commit}"
        git.run("update-ref", pin, found.commit, directory=self._bare)
        source = f"file://{self._bare}"
        name = found.name if found.name.startswith(("refs/heads/", "refs/tags/")) else ""
        into = f"+{pin}:{name}" if name and found.object == found.commit else f"+{pin}"
        git.run("fetch", "--quiet", "--depth=1", "--no-tags", "-u", "--", source, into, environment=local)
        git.run("checkout", "--quiet", "--force", "--detach", found.commit, environment=place)
        if submodules and (target / ".gitmodules").is_file():
            self._submodules(target, place)
        time = int(git.run("log", "-1", "--format=%ct", found.commit, environment=place).strip() or 0)
        if keep_git_dir:
            self._tidy(repository, place)
        else:
            _remove_links(target)
        _set_times(target, time)

    def _submodules(self, target: Path, place: dict[str, str]) -> None:
        git = self._git
        git.run("remote", "add", "origin", self._wanted.remote, environment=place)
        update = ("submodule", "update", "--init", "--recursive")
        done = git.attempt(*update, "--depth=1", directory=target, environment=place)
        if done.returncode:
            try:
                git.run(*update, directory=target, environment=place)
            except PolyarchError as error:
                raise PolyarchError(
                    f"a submodule of {self._wanted.redacted} cannot be fetched",
                    detail=error.detail,
                    hint="leave submodules out with ?submodules=false in the URL",
                    reason="git-failed",
                ) from None
        git.run("remote", "remove", "origin", environment=place)

    def _tidy(self, repository: Path, place: dict[str, str]) -> None:
        """What is kept of the repository leads to the remote, without credentials."""
        self._git.attempt("remote", "remove", "origin", environment=place)
        self._git.run("remote", "add", "origin", redact(self._wanted.remote), environment=place)
        for name in ("FETCH_HEAD", "ORIG_HEAD"):
            (repository / name).unlink(missing_ok=True)
        for folder in ("logs", "hooks", "branches"):
            shutil.rmtree(repository / folder, ignore_errors=True)


def _format(found: _Found) -> str:
    return f"--object-format={'sha256' if len(found.commit) == 64 else 'sha1'}"


def _remove_links(target: Path) -> None:
    """Submodules leave files named .git that lead to a repository which is not kept."""
    for folder, folders, files in os.walk(target):
        if ".git" in files:
            os.unlink(os.path.join(folder, ".git"))
        folders.sort()


def _set_times(target: Path, seconds: int) -> None:
    for folder, folders, files in os.walk(target, topdown=False):
        for name in (*files, *folders):
            os.utime(os.path.join(folder, name), (seconds, seconds), follow_symlinks=False)
    os.utime(target, (seconds, seconds))


def _unreachable(wanted: GitUrl, error: PolyarchError) -> PolyarchError:
    return PolyarchError(
        f"the git repository {wanted.redacted} cannot be read",
        detail=error.detail,
        hint="check the address, and that this user may read it (git ls-remote)",
        reason="git-failed",
    )
