"""Which mirrors and keys a base is made from."""

from __future__ import annotations

from pathlib import Path

import pytest

from polyarch.base import host_sources
from polyarch.base.host_sources import Entry
from polyarch.base.recipe import Recipe
from polyarch.errors import PolyarchError
from polyarch.oci.platform import Platform

AMD64 = (Platform.parse("linux/amd64"),)

DEB822 = """\
Types: deb
URIs: http://mirror.example/debian
# a comment
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb-src
URIs: http://mirror.example/debian
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://inline.example/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBGPL0BUBEADmW5NdOOHwPIJlgPu6JDcKw/NZJPR8lsD3K87ZM18gzyQZJD+w
 -----END PGP PUBLIC KEY BLOCK-----
"""


def test_one_line_form() -> None:
    text = """
    # deb http://commented.example/debian bookworm main
    deb http://plain.example/debian bookworm main non-free # trailing
    deb [arch=amd64 signed-by=/k.gpg trusted=yes] http://opts.example/debian bookworm main
    deb-src http://src.example/debian bookworm main
    """
    assert list(host_sources.parse_list(text)) == [
        Entry("http://plain.example/debian", "bookworm", ("main", "non-free")),
        Entry("http://opts.example/debian", "bookworm", ("main",), "/k.gpg", trusted=True),
    ]


def test_deb822_form() -> None:
    entries = list(host_sources.parse_deb822(DEB822))
    assert [(entry.uri, entry.suite) for entry in entries] == [
        ("http://mirror.example/debian", "bookworm"),
        ("http://mirror.example/debian", "bookworm-updates"),
        ("https://inline.example/debian-security", "bookworm-security"),
    ]
    assert entries[0].signed_by == "/usr/share/keyrings/debian-archive-keyring.gpg"
    assert entries[0].components == ("main", "contrib")
    assert entries[2].signed_by == ""
    assert entries[2].key.startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmQIN")


def test_reads_both_forms_in_apts_order(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example/debian bookworm main\n")
    (tmp_path / "sources.list.d" / "b.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "c.list.disabled").write_text("deb http://c.example/debian x main\n")
    entries = host_sources.read(tmp_path)
    assert [entry.uri for entry in entries][:2] == ["http://a.example/debian", "http://mirror.example/debian"]
    assert len(entries) == 4
    assert host_sources.read(tmp_path / "nowhere") == ()


def test_a_debian_hosts_mirrors_serve_other_suites_too() -> None:
    host = list(host_sources.parse_deb822(DEB822))
    chosen = host_sources.chosen(Recipe(name="x", platforms=AMD64), "trixie", host)
    assert [(entry.uri, entry.suite) for entry in chosen] == [
        ("http://mirror.example/debian", "trixie"),
        ("http://mirror.example/debian", "trixie-updates"),
        ("https://inline.example/debian-security", "trixie-security"),
    ]
    assert all(entry.components == ("main",) for entry in chosen)


@pytest.mark.parametrize(
    "line",
    [
        "deb http://archive.ubuntu.com/ubuntu noble main",
        "deb http://packages.example/postgresql bookworm main",
    ],
)
def test_what_is_not_debian_does_not_make_debian(line: str) -> None:
    host = list(host_sources.parse_list(line))
    chosen = host_sources.chosen(Recipe(name="x", platforms=AMD64), "bookworm", host)
    assert {entry.uri for entry in chosen} == {host_sources.DEBIAN, host_sources.SECURITY}


def test_a_given_mirror_and_keyring_win(tmp_path: Path) -> None:
    keyring = tmp_path / "keys.gpg"
    keyring.touch()
    recipe = Recipe(name="x", platforms=AMD64, mirrors=("http://given.example/debian",), keyring=keyring)
    host = list(host_sources.parse_deb822(DEB822))
    assert host_sources.chosen(recipe, "sid", host) == (
        Entry("http://given.example/debian", "sid", ("main",), str(keyring)),
    )


def test_a_keyring_that_is_missing_is_named(tmp_path: Path) -> None:
    recipe = Recipe(name="x", platforms=AMD64, keyring=tmp_path / "none.gpg")
    with pytest.raises(PolyarchError, match=r"none\.gpg is not there"):
        host_sources.chosen(recipe, "bookworm", ())


def test_an_image_never_learns_credentials_or_inline_keys() -> None:
    entry = Entry("https://user:secret@mirror.example/debian", "sid", ("main",), key="-----BEGIN")
    assert entry.public() == "deb https://mirror.example/debian sid main"


@pytest.mark.parametrize(
    ("text", "suite"),
    [
        ("ID=debian\nVERSION_CODENAME=trixie\n", "trixie"),
        ("ID=debian\n", "sid"),
        ('ID="ubuntu"\nVERSION_CODENAME=noble\n', "bookworm"),
    ],
)
def test_the_suite_is_the_hosts_where_it_is_debian(tmp_path: Path, text: str, suite: str) -> None:
    path = tmp_path / "os-release"
    path.write_text(text)
    assert host_sources.host_suite(path) == suite
    assert host_sources.host_suite(tmp_path / "none") == "bookworm"
