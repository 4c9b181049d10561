"""Git sources: the URL's syntax, and repositories served by git's own daemon."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from polyarch.content.state import State
from polyarch.context.git import fetch, resolve
from polyarch.context.git_url import GitUrl, is_git_url, parse, redact
from polyarch.context.source import classify
from polyarch.context.times import source_time
from polyarch.errors import ContentError, NotFoundError, PolyarchError, UsageError

E = "https://e.com/f.git"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("https://example.com/foo.git", "git"),
        ("https://example.com/foo.git#dead:sub", "git"),
        ("https://example.com/foo.git?ref=main", "git"),
        ("https://example.com/foo", "http"),
        ("https://example.com/foo.git/", "http"),
        ("https://example.com/foo.git.bar", "http"),
        ("git://example.com/foo", "git"),
        ("ssh://git@example.com/foo", "git"),
        ("git@example.com:foo/bar", "git"),
        ("git@example.com:foo.git#main", "git"),
        ("github.com/moby/buildkit", "git"),
        ("custom.xyz/moby/buildkit.git", "directory"),
        ("./.git", "directory"),
        (".git", "directory"),
        ("./user@host:x", "directory"),
        ("ftp://example.com/foo.git", "directory"),
        ("file:///srv/foo.git", "directory"),
        ("-", "stdin"),
        ("HTTP://example.com/x.tar", "http"),
    ],
)
def test_classify(text: str, kind: str) -> None:
    assert classify(text) == kind
    assert is_git_url(text) is (kind == "git")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (E + "#release/1.2:sub/dir", GitUrl(E, "release/1.2", "sub/dir")),
        (E + "#:dir", GitUrl(E, "", "dir")),
        ("git@e.com:f.git#main", GitUrl("git@e.com:f.git", "main")),
        ("github.com/a/b", GitUrl("https://github.com/a/b")),
        (E + "##ref=release/1.2,subdir=/subdir", GitUrl(E, "release/1.2", "/subdir")),
        (E + "?branch=main&subdir=x", GitUrl(E, "refs/heads/main", "x")),
        (E + "?tag=v1", GitUrl(E, "refs/tags/v1")),
        (
            "git@e.com:f.git?ref=x&keep-git-dir=true&submodules=0",
            GitUrl("git@e.com:f.git", "x", keep_git_dir=True, submodules=False),
        ),
        (E + "?commit=" + "a" * 40, GitUrl(E, "a" * 40, checksum="a" * 40)),
        (E + "?ref=m&checksum=" + "b" * 40, GitUrl(E, "m", checksum="b" * 40)),
        ("https://u:p@e.com/f.git", GitUrl("https://u:p@e.com/f.git")),
    ],
)
def test_parse(text: str, expected: GitUrl) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    "text",
    ["https://e.com/f.git?nonsense=1", "https://e.com/f.git?ref=a&tag=b", "https://e.com/f.git##main", "https://e.com/f",
     "https://e.com/f.git#--upload-pack=x", "https://e.com/f.git#a..b", "https://e.com/f.git?submodules=maybe",
     "https://e.com/f.git?ref=a&ref=b", "https://e.com/f.git?ref=x#y", "https://e.com/f.git?checksum=xyz"],
)  # fmt: skip
def test_parse_refuses(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert caught.value.reason == "invalid-git-url"


def test_redact() -> None:
    assert "tok" not in redact("fatal: https://user:tok@e.com/f.git and https://tok@e.com/g.git")


# --- real repositories ----------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b",
        "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b",
        "GIT_AUTHOR_DATE": "1700000000 +0000", "GIT_COMMITTER_DATE": "1700000000 +0000",
    }  # fmt: skip
    done = subprocess.run(
        ["git", "-c", "protocol.file.allow=always", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A git daemon's URL and the folder it serves."""
    root = tmp_path / "served"
    work = root / "repo"
    work.mkdir(parents=True)
    git(work, "init", "-q", "-b", "main")
    (work / "sub/inner").mkdir(parents=True)
    (work / "Dockerfile").write_bytes(b"FROM scratch\n")
    (work / "sub/x").write_bytes(b"one\n")
    (work / "run.sh").write_bytes(b"#!/bin/sh\n")
    (work / "run.sh").chmod(0o755)
    (work / "here").symlink_to("sub")
    (work / "out").symlink_to("/etc")
    git(work, "add", ".")
    git(work, "commit", "-qm", "first")
    git(work, "tag", "-a", "v1", "-m", "v1")
    (work / "sub/x").write_bytes(b"two\n")
    git(work, "commit", "-qam", "second")
    git(work, "branch", "other/name", "HEAD~1")
    port = _free_port()
    daemon = subprocess.Popen(
        ["git", "daemon", "--reuseaddr", "--export-all", f"--base-path={root}", "--listen=127.0.0.1",
         f"--port={port}", str(root)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    yield f"git://127.0.0.1:{port}", root
    daemon.terminate()
    daemon.wait()


def test_references(served: tuple[str, Path], state: State) -> None:
    url, root = served
    url += "/repo"
    second, first = git(root / "repo", "rev-parse", "HEAD", "HEAD~1").split()
    tag = git(root / "repo", "rev-parse", "v1")
    for suffix, expected, content in [
        ("", second, b"two\n"),
        ("#main", second, b"two\n"),
        ("#v1", first, b"one\n"),
        ("#refs/heads/other/name", first, b"one\n"),
        ("#" + first, first, b"one\n"),
        ("?tag=v1", first, b"one\n"),
        (f"?ref=v1&checksum={tag}", first, b"one\n"),
        (f"?commit={first[:10]}", first, b"one\n"),
        (f"?checksum={second}", second, b"two\n"),
        ("?tag=v1#refs/tags/v1", first, b"one\n"),
        (f"?ref=main&commit={second}", second, b"two\n"),
    ]:
        commit, rootfs = fetch(url + suffix, state)
        assert commit == expected and rootfs.read("sub/x", 100) == content
        assert resolve(url + suffix) == expected
    assert rootfs.get(".git") is None
    entry = rootfs.get("run.sh")
    assert entry is not None and (entry.mode, entry.uid, entry.mtime_ns) == (0o755, 0, 1700000000 * 10**9)
    entry = rootfs.get("sub")
    assert entry is not None and (entry.mode, entry.mtime_ns) == (0o755, 1700000000 * 10**9)
    assert rootfs.layers[0].id == fetch(url, state)[1].layers[0].id


def test_a_commit_by_its_first_digits(served: tuple[str, Path], state: State) -> None:
    url = served[0] + "/repo"
    for query in ("?commit=0123456789", "?ref=main&commit=0123456789"):
        with pytest.raises(PolyarchError):
            fetch(url + query, state)
    first = git(served[1] / "repo", "rev-parse", "HEAD~1")
    with pytest.raises(NotFoundError):  # a reference must be written out
        fetch(f"{url}?ref={first[:10]}", state)


def test_the_other_kind_of_digest(served: tuple[str, Path], state: State) -> None:
    url, root = served
    work = root / "long"
    work.mkdir()
    git(work, "init", "-q", "-b", "main", "--object-format=sha256")
    (work / "a").write_bytes(b"long\n")
    git(work, "add", ".")
    git(work, "commit", "-qm", "only")
    commit, rootfs = fetch(url + "/long", state)
    assert len(commit) == 64 and rootfs.read("a", 10) == b"long\n"
    assert fetch(url + "/long", state, keep_git_dir=True)[1].get(".git/HEAD") is not None


def test_the_time_of_a_commit(served: tuple[str, Path], state: State) -> None:
    assert source_time(served[0] + "/repo", state) == 1_700_000_000


def test_same_everywhere(served: tuple[str, Path], state: State, tmp_path: Path) -> None:
    url = served[0] + "/repo"
    one, two = (fetch(url, each)[1] for each in (state, State(tmp_path / "another")))
    assert list(one.walk()) == list(two.walk())
    assert one.content_digest("") == two.content_digest("")


def test_subdir(served: tuple[str, Path], state: State) -> None:
    url = served[0] + "/repo"
    assert fetch(url + "#:sub", state)[1].children("") == ["inner", "x"] or fetch(url + "#:sub", state)[
        1
    ].children("") == ["x"]
    assert fetch(url + "#v1:/sub/", state)[1].read("x", 10) == b"one\n"
    assert fetch(url + "#:here", state)[1].read("x", 10) == b"two\n"
    for wrong in ("nothing", "Dockerfile", "out"):
        with pytest.raises(NotFoundError) as caught:
            fetch(f"{url}#:{wrong}", state)
        assert caught.value.reason == "subdir-not-found"
    assert fetch(url + "#:../../..", state)[1].read("Dockerfile", 100)


def test_keep_git_dir(served: tuple[str, Path], state: State, tmp_path: Path) -> None:
    url = served[0] + "/repo"
    commit, rootfs = fetch(url + "#main", state, keep_git_dir=True)
    assert rootfs.read(".git/HEAD", 100)
    config = rootfs.read(".git/config", 10_000).decode()
    assert url in config and str(state.root) not in config
    kept = state.sources / "git"
    checkout = next(kept.glob(f"*/{commit}-git"))
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy, symlinks=True)
    assert git(copy, "rev-parse", "HEAD") == commit
    assert git(copy, "status", "--porcelain") == ""


def test_checksum_must_be_right(served: tuple[str, Path], state: State) -> None:
    url = served[0] + "/repo"
    with pytest.raises(ContentError) as caught:
        fetch(url, state, checksum="0" * 40)
    assert caught.value.reason == "checksum-mismatch"
    with pytest.raises(NotFoundError):
        fetch(url + "#nosuchbranch", state)
    with pytest.raises(NotFoundError):
        fetch(url + "#" + "0" * 40, state)
    with pytest.raises(PolyarchError) as refused:
        fetch(served[0] + "/nothing", state)
    assert refused.value.reason == "git-failed"


def test_new_commits_are_fetched_and_old_ones_are_not(served: tuple[str, Path], state: State) -> None:
    url, root = served
    before, _ = fetch(url + "/repo", state)
    (root / "repo/new").write_bytes(b"new")
    git(root / "repo", "add", ".")
    git(root / "repo", "commit", "-qm", "third")
    after, rootfs = fetch(url + "/repo", state)
    assert after != before and rootfs.read("new", 10) == b"new"
    shutil.rmtree(root / "repo")
    assert fetch(f"{url}/repo#{before}", state)[1].get("new") is None


def test_a_repository_runs_nothing(
    served: tuple[str, Path], state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, root = served
    work = root / "evil"
    work.mkdir()
    trap = tmp_path / "trapped"
    git(work, "init", "-q", "-b", "main")
    (work / ".gitattributes").write_text("* filter=evil diff=evil text eol=lf\n*.bin filter=lfs\n")
    (work / "f").write_bytes(b"x\n")
    (work / "g.bin").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    git(work, "add", ".")
    git(work, "commit", "-qm", "evil")
    home = tmp_path / "home"
    hooks = home / "hooks"
    hooks.mkdir(parents=True)
    (hooks / "post-checkout").write_text(f"#!/bin/sh\ntouch {trap}\n")
    (hooks / "post-checkout").chmod(0o755)
    (home / ".gitconfig").write_text(
        f'[core]\nhooksPath={hooks}\nfsmonitor="touch {trap}"\n[filter "evil"]\nsmudge="touch {trap}; cat"\n'
        f'[filter "lfs"]\nsmudge="touch {trap}; cat"\nrequired=true\n[init]\ntemplateDir={home}/template\n'
    )
    (home / "template/hooks").mkdir(parents=True)
    shutil.copy(hooks / "post-checkout", home / "template/hooks/post-checkout")
    monkeypatch.setenv("HOME", str(home))
    for keep in (False, True):
        assert fetch(url + "/evil", state, keep_git_dir=keep)[1].read("f", 10) == b"x\n"
    assert not trap.exists()


def test_submodules(served: tuple[str, Path], state: State) -> None:
    url, root = served
    outer = root / "outer"
    outer.mkdir()
    git(outer, "init", "-q", "-b", "main")
    (outer / "top").write_bytes(b"top")
    git(outer, "submodule", "add", "-q", url + "/repo", "mod")
    git(outer, "submodule", "add", "-q", "../repo", "rel")
    git(outer, "add", ".")
    git(outer, "commit", "-qm", "with a submodule")
    rootfs = fetch(url + "/outer", state)[1]
    assert rootfs.read("mod/sub/x", 10) == b"two\n" and rootfs.read("rel/sub/x", 10) == b"two\n"
    assert rootfs.get("mod/.git") is None
    flat = fetch(url + "/outer?submodules=false", state)[1]
    assert flat.children("mod") == [] and flat.read("top", 10) == b"top"


def test_submodules_cannot_reach_local_files(served: tuple[str, Path], state: State) -> None:
    url, root = served
    outer = root / "sneaky"
    outer.mkdir()
    git(outer, "init", "-q", "-b", "main")
    git(outer, "submodule", "add", "-q", f"file://{root}/repo", "mod")
    git(outer, "commit", "-qm", "a submodule of the host")
    with pytest.raises(PolyarchError) as caught:
        fetch(url + "/sneaky", state)
    assert caught.value.reason == "git-failed" and "submodule" in caught.value.summary
