"""A private apt: its own lists, cache and settings, for any architecture, as any user.

It answers which packages a recipe needs, and fetches them into a cache that all recipes share. apt itself
verifies signatures and checksums.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from polyarch.base.host_sources import Entry
from polyarch.errors import PolyarchError, UnsupportedError

FRESH_SECONDS = 600  # lists younger than this are not asked for again
_URI = re.compile(r"^'(?P<uri>[^']+)' (?P<file>\S+) (?P<size>\d+) (?P<hash>\S*)$")


@dataclass(frozen=True)
class Package:
    """A package file: its name in the cache, its size in bytes, its checksum as apt writes it."""

    file: str
    size: int
    checksum: str

    @property
    def label(self) -> str:
        """``name=version`` for people."""
        name, version, _ = (*self.file.removesuffix(".deb").split("_"), "", "")[:3]
        return f"{name}={version.replace('%3a', ':')}"


class Archive:
    """Packages of one architecture from ``entries``. ``root`` holds lists and packages between runs."""

    def __init__(
        self, root: Path, architecture: str, entries: Sequence[Entry], options: Sequence[str] = ()
    ) -> None:
        if shutil.which("apt-get") is None:
            raise UnsupportedError(
                "making a base image needs apt, which is not here",
                hint="run this on Debian or Ubuntu, or in a container of them",
                reason="no-apt",
            )
        self.architecture = architecture
        self.entries = entries
        text = "\n".join([*(entry.line() for entry in entries), *(entry.key for entry in entries)])
        self.folder = root / f"{architecture}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self.packages = root / "packages"
        self._options = tuple(options)

    def update(self, *, refresh: bool = False) -> None:
        """Bring the lists up to date, unless they are minutes old. PolyarchError with apt's own words."""
        self._write_settings()
        stamp = self.folder / "updated"
        if not refresh and stamp.exists() and time.time() - stamp.stat().st_mtime < FRESH_SECONDS:
            return
        output = self._apt("update", what="reading the package lists")
        lists = [path.name for path in (self.folder / "lists").glob("*_Packages*")]
        if not any(f"binary-{self.architecture}_" in name or "_binary-" not in name for name in lists):
            raise PolyarchError(
                f"the mirror has no packages for {self.architecture}",
                detail=without_credentials(output),
                hint=self._offered() + "ask for another suite, or give a mirror that has it with --mirror",
                reason="no-such-architecture",
            )
        stamp.touch()

    def resolve(self, wanted: Sequence[str]) -> tuple[Package, ...]:
        """Every package file that ``wanted`` (names and apt patterns) needs, sorted by name."""
        key = hashlib.sha256("\0".join(wanted).encode()).hexdigest()[:16]
        known = self.folder / f"resolved-{key}.json"
        if self._is_newer(known):
            return msgspec.json.decode(known.read_bytes(), type=tuple[Package, ...])
        # apt lists only what its cache lacks, so it is shown an empty one.
        empty = f"Dir::Cache::archives={self.folder}/nothing"
        (self.folder / "nothing" / "partial").mkdir(parents=True, exist_ok=True)
        what = f"choosing packages for {self.architecture}"
        output = self._apt("install", "--print-uris", "-qq", "-o", empty, *wanted, what=what)
        found = [match for line in output.splitlines() if (match := _URI.match(line.strip()))]
        packages = [Package(match["file"], int(match["size"]), match["hash"]) for match in found]
        result = tuple(sorted(packages, key=lambda package: package.file))
        temporary = known.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(msgspec.json.encode(result))
        temporary.replace(known)
        return result

    def _is_newer(self, answer: Path) -> bool:
        """Whether an answer that was kept is younger than the lists and settings it came from."""
        try:
            made = answer.stat().st_mtime_ns
            stamps = (self.folder / "updated", self.folder / "apt.conf")
            return all(stamp.stat().st_mtime_ns < made for stamp in stamps)
        except FileNotFoundError:
            return False

    def fetch(self, wanted: Sequence[str]) -> Path:
        """Download what ``wanted`` needs and is not there yet; returns the folder of the package files."""
        (self.packages / "partial").mkdir(parents=True, exist_ok=True)
        with _locked(self.packages / ".lock"):
            self._apt(
                "install",
                "--download-only",
                "-qq",
                *wanted,
                what=f"fetching packages for {self.architecture}",
            )
        return self.packages

    def _offered(self) -> str:
        """A clause that says which architectures the mirror has; empty when it does not tell."""
        found = max(self._release_fields("Architectures"), key=len, default="").replace("all ", "")
        return f"the mirror has {found}; " if found else ""

    def _release_fields(self, wanted: str) -> Iterator[str]:
        """The values of a field of the lists' Release files."""
        for path in sorted([*self.folder.glob("lists/*InRelease"), *self.folder.glob("lists/*_Release")]):
            for line in path.read_text(errors="replace").splitlines():
                name, _, value = line.partition(":")
                if name == wanted:
                    yield value.strip()
                    break

    def settings(self) -> str:
        """apt.conf lines of the host that say how to download (``Acquire``), and those given."""
        host = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False)
        kept = [line for line in host.stdout.splitlines() if not line.startswith("Acquire::IndexTargets")]
        return "\n".join([*kept, *(f"{option.rstrip(';')};" for option in self._options)]) + "\n"

    def sources(self) -> str:
        """sources.list for apt on this machine, with keys that stood inline written to files."""
        lines = []
        for entry in self.entries:
            if not entry.key:
                lines.append(entry.line())
                continue
            name = hashlib.sha256(entry.key.encode()).hexdigest()[:16]
            path = self.folder / f"{name}.asc"
            path.write_text(entry.key)
            lines.append(entry.line(signed_by=str(path)))
        return "\n".join(lines) + "\n"

    def _write_settings(self) -> None:
        for name in ("lists/partial", "state", "cache"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.packages / "partial").mkdir(parents=True, exist_ok=True)
        (self.folder / "status").touch()
        (self.folder / "sources.list").write_text(self.sources())
        settings = self._settings()
        path = self.folder / "apt.conf"
        if not path.exists() or path.read_text() != settings:
            path.write_text(settings)

    def _settings(self) -> str:
        """apt.conf for the private apt; later lines win, so the host's and the given ones come last."""
        folder = self.folder
        return f"""\
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State "{folder}/state";
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::State::extended_states "{folder}/extended_states";
Dir::Cache "{folder}/cache";
Dir::Cache::archives "{self.packages}";
Dir::Log "{folder}";
APT::Architecture "{self.architecture}";
APT::Architectures "{self.architecture}";
APT::Install-Recommends "false";
APT::Install-Suggests "false";
APT::Sandbox::User "root";
APT::Get::Assume-Yes "true";
APT::Keep-Downloaded-Packages "true";
Acquire::Languages "none";
Acquire::Retries "3";
Acquire::ForceHash "SHA256";
Debug::NoLocking "true";
{self.settings()}"""

    def _apt(self, *arguments: str, what: str) -> str:
        environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "APT_CONFIG": str(self.folder / "apt.conf"),
            "LC_ALL": "C.UTF-8",
            "DEBIAN_FRONTEND": "noninteractive",
            **{name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")},
        }
        result = subprocess.run(
            ["apt-get", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if result.returncode:
            words = "\n".join((result.stderr or result.stdout).strip().splitlines()[-15:])
            raise PolyarchError(f"{what} failed", detail=without_credentials(words), reason="apt")
        return result.stdout


def without_credentials(text: str) -> str:
    """``text`` with ``user:password@`` taken out of its URLs."""
    return re.sub(r"(://)[^/@\s]+@", r"\1", text)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes of ours respect; apt would fail where we can wait."""
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
