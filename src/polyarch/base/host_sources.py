"""Where packages come from: the host's own apt sources and keys, or Debian's public mirror.

Reads sources.list (one line each) and the deb822 form of *.sources; see sources.list(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from polyarch.base.recipe import Recipe
from polyarch.errors import NotFoundError

DEBIAN = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
DEFAULT_SUITE = "bookworm"
_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^\]]*)\]\s*)?(?P<uri>\S+)\s+(?P<suite>\S+)\s*(?P<components>.*)")


@dataclass(frozen=True)
class Entry:
    """One line's worth of sources.list. ``signed_by`` is a path of this machine, fingerprints, or empty;
    ``key`` a key that stood in the file itself."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""
    trusted: bool = False
    key: str = ""

    def line(self, *, signed_by: str | None = None) -> str:
        """The one-line form; ``signed_by`` instead of the entry's own where given."""
        keyring = self.signed_by if signed_by is None else signed_by
        options = [f"signed-by={keyring}"] if keyring else []
        options += ["trusted=yes"] if self.trusted else []
        bracket = f"[{' '.join(options)}] " if options else ""
        return f"deb {bracket}{self.uri} {self.suite} {' '.join(self.components)}".rstrip()

    def public(self) -> str:
        """The line for an image: no credentials, and nothing that exists on this machine only."""
        uri = re.sub(r"(://)[^/@]+@", r"\1", self.uri)
        return replace(self, uri=uri, key="").line(signed_by="" if self.key else None)


def parse_list(text: str) -> Iterator[Entry]:
    """The ``deb`` lines of a sources.list."""
    for line in text.splitlines():
        match = _LINE.fullmatch(line.partition("#")[0].strip())
        if not match:
            continue
        options = dict(option.partition("=")[::2] for option in (match["options"] or "").split())
        yield Entry(
            uri=match["uri"],
            suite=match["suite"],
            components=tuple(match["components"].split()),
            signed_by=options.get("signed-by", ""),
            trusted=options.get("trusted", "") == "yes",
        )


def parse_deb822(text: str) -> Iterator[Entry]:
    """The entries of a *.sources file: stanzas of fields, with continuation lines."""
    for stanza in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line.startswith("#"):
                continue
            if line[:1] in (" ", "\t"):
                fields[name] = fields.get(name, "") + "\n" + line.strip()
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        signed_by = fields.get("signed-by", "").strip()
        inline = "BEGIN PGP" in signed_by
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Entry(
                    uri=uri,
                    suite=suite,
                    components=tuple(fields.get("components", "").split()),
                    signed_by="" if inline else signed_by,
                    trusted=fields.get("trusted", "no").lower() == "yes",
                    # A lone dot stands for an empty line inside a field.
                    key=re.sub(r"(?m)^\.$", "", signed_by) + "\n" if inline else "",
                )


def read(folder: Path = Path("/etc/apt")) -> tuple[Entry, ...]:
    """Every entry of the host's apt, in apt's order. Empty where there is no apt."""
    found: list[Entry] = []
    main = folder / "sources.list"
    if main.is_file():
        found += parse_list(main.read_text(errors="replace"))
    for path in sorted((folder / "sources.list.d").glob("*")):
        match path.suffix:
            case ".list":
                found += parse_list(path.read_text(errors="replace"))
            case ".sources":
                found += parse_deb822(path.read_text(errors="replace"))
    return tuple(found)


def host_suite(release: Path = Path("/etc/os-release")) -> str:
    """The host's own suite where it is Debian, else the default one."""
    try:
        fields = dict(line.partition("=")[::2] for line in release.read_text().splitlines())
    except OSError:
        return DEFAULT_SUITE
    if fields.get("ID", "").strip('"') != "debian":
        return DEFAULT_SUITE
    return fields.get("VERSION_CODENAME", "").strip('"') or "sid"


def official(suite: str, components: Sequence[str]) -> tuple[Entry, ...]:
    """Debian's public mirror for ``suite``."""
    names = tuple(components)
    if suite in ("sid", "unstable", "experimental"):
        return (Entry(DEBIAN, suite, names),)
    return (
        Entry(DEBIAN, suite, names),
        Entry(DEBIAN, f"{suite}-updates", names),
        Entry(SECURITY, f"{suite}-security", names),
    )


def chosen(recipe: Recipe, suite: str, host: Sequence[Entry]) -> tuple[Entry, ...]:
    """What to make ``recipe`` from: its own mirrors, else the host's for Debian, else the public ones."""
    if recipe.mirrors:
        return tuple(_given(recipe, suite))
    found = _of_host(suite, recipe.components, host) or official(suite, recipe.components)
    return tuple(_signed(entry, recipe.keyring) for entry in found)


def _given(recipe: Recipe, suite: str) -> Iterator[Entry]:
    for mirror in recipe.mirrors:
        if mirror.startswith("deb "):
            found = list(parse_list(mirror))
            if not found:
                raise NotFoundError(f"{mirror!r} is not a line of sources.list", reason="invalid-mirror")
            yield from (_signed(entry, recipe.keyring) for entry in found)
        else:
            yield _signed(Entry(mirror, suite, recipe.components), recipe.keyring)


def _of_host(suite: str, components: Sequence[str], host: Sequence[Entry]) -> tuple[Entry, ...]:
    """The host's mirrors, for ``suite`` even where the host itself runs another release of Debian."""
    debian = [entry for entry in host if _is_debian(entry)]
    main = next((entry for entry in debian if not _is_security(entry)), None)
    security = next((entry for entry in debian if _is_security(entry)), None)
    if main is None:
        return ()
    found = []
    for wanted in official(suite, components):
        like = security if wanted.uri == SECURITY else main
        if like is not None:
            found.append(replace(like, suite=wanted.suite, components=wanted.components))
    return tuple(found)


def _is_debian(entry: Entry) -> bool:
    """Whether this is Debian's own archive, and not one that merely has packages for it."""
    path = urlsplit(entry.uri).path.rstrip("/")
    return path.endswith(("/debian", "/debian-security")) or "debian-archive" in entry.signed_by


def _is_security(entry: Entry) -> bool:
    return "security" in entry.uri or entry.suite.endswith("-security")


def _signed(entry: Entry, keyring: Path | None) -> Entry:
    if keyring is not None:
        if not keyring.is_file():
            raise NotFoundError(f"the keyring {keyring} is not there", reason="no-keyring")
        return replace(entry, signed_by=str(keyring.absolute()), key="")
    if entry.signed_by or entry.key or entry.trusted:
        return entry
    found = next((path for path in KEYRINGS if path.is_file()), None)
    return replace(entry, signed_by=str(found)) if found else entry
