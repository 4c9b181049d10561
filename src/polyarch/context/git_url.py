"""What a git URL says, in BuildKit's syntax: ``url#ref:subdir``, ``url##ref=…,subdir=…`` and
``url?ref=…&subdir=…``."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from polyarch.errors import UsageError

_SCHEMES = ("http", "https", "ssh", "git")
_SCHEME = re.compile(r"([a-zA-Z0-9]+)://")
_SCP = re.compile(r"(?:([a-zA-Z0-9_.-]+)@)([a-zA-Z0-9.-]+|\[[0-9a-fA-F:]+\]):(?!//)([^#?]*)")
_KEYS = ("ref", "tag", "branch", "commit", "checksum", "subdir", "keep-git-dir", "submodules")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class GitUrl:
    """A repository and what of it is wanted. ``remote`` is what git is given and may hold credentials;
    ``ref`` is a branch, a tag, a full reference or a commit, or empty for the remote's default;
    ``checksum`` is a commit (or the start of one) that must be what ``ref`` names. None in
    ``keep_git_dir`` and ``submodules`` means that the URL does not say."""

    remote: str
    ref: str = ""
    subdir: str = ""
    checksum: str = ""
    keep_git_dir: bool | None = None
    submodules: bool | None = None

    @property
    def redacted(self) -> str:
        """The remote without credentials, for messages and cache keys."""
        return redact(self.remote)


def is_git_url(text: str) -> bool:
    """Whether docker takes ``text`` for a git repository rather than a plain URL or a folder."""
    if text.startswith("github.com/"):
        return True
    scheme = _SCHEME.match(text)
    if scheme is None:
        return not text.startswith(("./", "../", "/")) and _SCP.match(text) is not None
    match scheme[1].lower():
        case "ssh" | "git":
            return True
        case "http" | "https":
            try:
                return urlsplit(text).path.endswith(".git")
            except ValueError:  # no URL at all
                return False
        case _:
            return False


def is_commit(ref: str) -> bool:
    """Whether ``ref`` is a whole commit hash."""
    return _COMMIT.fullmatch(ref) is not None


def parse(text: str) -> GitUrl:
    """``text`` as a git URL; UsageError says what is wrong with it."""
    if not is_git_url(text):
        raise _bad(text, "it is not a git URL")
    if text.startswith("github.com/"):
        text = "https://" + text
    bare, hash_, fragment = text.partition("#")
    query = ""
    if _SCHEME.match(bare):
        parts = urlsplit(bare)
        query = parts.query
        bare = urlunsplit((parts.scheme.lower(), parts.netloc, parts.path, "", ""))
    else:
        bare, _, query = bare.partition("?")
    if bare.startswith("-") or any(ord(c) < 32 for c in bare):
        raise _bad(text, "it has characters that no URL has")
    url = GitUrl(bare)
    if fragment.startswith("#"):
        if query:
            raise _bad(text, "a query and what follows '##' exclude each other")
        pairs = [field.partition("=") for field in fragment[1:].split(",") if field]
        if any(not equals for _, equals, _ in pairs):
            raise _bad(text, "what follows '##' are not pairs like ref=main,subdir=app")
        return _fields(text, url, [(key, value) for key, _, value in pairs])
    if hash_ and fragment:
        ref, _, subdir = unquote(fragment).partition(":")
        url = replace(url, ref=ref, subdir=subdir)
    if query:
        return _fields(text, url, parse_qsl(query, keep_blank_values=True))
    return _checked(text, url)


def _fields(text: str, url: GitUrl, pairs: list[tuple[str, str]]) -> GitUrl:
    found: dict[str, str] = {}
    for key, value in pairs:
        key = key.lower()
        if key not in _KEYS:
            raise _bad(text, f"{key!r} is unknown (known are {', '.join(_KEYS)})")
        if key in found:
            raise _bad(text, f"{key!r} is there twice")
        found[key] = value
    named = [url.ref] if url.ref else []
    if found.get("ref"):
        named.append(found["ref"])
    if found.get("tag"):
        named.append("refs/tags/" + found["tag"].removeprefix("refs/tags/"))
    if found.get("branch"):
        named.append("refs/heads/" + found["branch"].removeprefix("refs/heads/"))
    ref = _agreed(text, "ref", named)
    subdir = _agreed(text, "subdir", [folder for folder in (url.subdir, found.get("subdir", "")) if folder])
    commit = found.get("commit", "")
    checksum = found.get("checksum", "")
    if commit and checksum and not commit.startswith(checksum):
        raise _bad(text, "commit and checksum contradict each other")
    return _checked(
        text,
        replace(
            url,
            ref=ref or commit or checksum,
            subdir=subdir,
            checksum=commit or checksum,
            keep_git_dir=_flag(text, found, "keep-git-dir"),
            submodules=_flag(text, found, "submodules"),
        ),
    )


def _agreed(text: str, what: str, given: list[str]) -> str:
    """The one value that all of ``given`` are, empty when there is none."""
    if len(set(given)) > 1:
        raise _bad(text, f"{what} conflicts: {' and '.join(map(repr, given))}")
    return given[0] if given else ""


def _flag(text: str, found: dict[str, str], key: str) -> bool | None:
    match found.get(key, "none").lower():
        case "none":
            return None
        case "" | "true" | "1":
            return True
        case "false" | "0":
            return False
        case value:
            raise _bad(text, f"{key} is true or false, not {value!r}")


def _checked(text: str, url: GitUrl) -> GitUrl:
    if url.ref.startswith("-") or ".." in url.ref or any(c in url.ref for c in " ~^:?*[\\\n\t"):
        raise _bad(text, f"{url.ref!r} is no name of a branch, tag or commit")
    if url.checksum and not re.fullmatch(r"[0-9a-f]{7,64}", url.checksum):
        raise _bad(text, f"invalid checksum {url.checksum!r}: expected the hexadecimal digits of a commit")
    return url


def redact(text: str) -> str:
    """``text`` with the password, or a user name that may be a token, of every URL in it replaced."""
    text = re.sub(r"(://)[^/@\s:]*:[^/@\s]*@", r"\1xxxxx:xxxxx@", text)
    return re.sub(r"(https?://)[^/@\s:]+@", r"\1xxxxx@", text)


def _bad(text: str, why: str) -> UsageError:
    return UsageError(
        f"invalid git URL {redact(text)[:300]!r}: {why}",
        hint="it looks like https://example.com/repository.git#branch:folder",
        reason="invalid-git-url",
    )
