"""References: what docker makes of names, and which it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyarch.errors import UsageError
from polyarch.oci.reference import Reference

SHA256 = "sha256:" + "0123456789abcdef" * 4
SHA512 = "sha512:" + "f" * 128


@pytest.mark.parametrize(
    ("text", "normalised", "familiar"),
    [
        ("alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"),
        ("library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("index.docker.io/library/alpine", "docker.io/library/alpine:latest", "alpine:latest"),
        ("team/app", "docker.io/team/app:latest", "team/app:latest"),
        ("docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
        ("a/library", "docker.io/a/library:latest", "a/library:latest"),
        ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
        ("localhost", "docker.io/library/localhost:latest", "localhost:latest"),
        ("localhost:5000", "docker.io/library/localhost:5000", "localhost:5000"),
        ("localhost:5000/app:1", "localhost:5000/app:1", "localhost:5000/app:1"),
        ("host:5000/app", "host:5000/app:latest", "host:5000/app:latest"),
        ("example.com/app", "example.com/app:latest", "example.com/app:latest"),
        ("example.com", "docker.io/library/example.com:latest", "example.com:latest"),
        ("example.com:tag", "docker.io/library/example.com:tag", "example.com:tag"),
        ("Host/app", "Host/app:latest", "Host/app:latest"),
        ("192.168.0.1", "docker.io/library/192.168.0.1:latest", "192.168.0.1:latest"),
        ("192.168.0.1:80/x:90", "192.168.0.1:80/x:90", "192.168.0.1:80/x:90"),
        ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
        ("[2001:db8::1]/repo:tag", "[2001:db8::1]/repo:tag", "[2001:db8::1]/repo:tag"),
        ("xn--n3h.com/a:xn--n3h.com", "xn--n3h.com/a:xn--n3h.com", "xn--n3h.com/a:xn--n3h.com"),
        ("test_com/foo", "docker.io/test_com/foo:latest", "test_com/foo:latest"),
        ("a__b---c/d.e", "docker.io/a__b---c/d.e:latest", "a__b---c/d.e:latest"),
        ("app:Upper_Case.1-2", "docker.io/library/app:Upper_Case.1-2", "app:Upper_Case.1-2"),
        ("app:" + "t" * 128, "docker.io/library/app:" + "t" * 128, "app:" + "t" * 128),
        (f"app@{SHA256}", f"docker.io/library/app@{SHA256}", f"app@{SHA256}"),
        (f"app:1@{SHA256}", f"docker.io/library/app:1@{SHA256}", f"app:1@{SHA256}"),
        (f"h.io/app:1@{SHA512}", f"h.io/app:1@{SHA512}", f"h.io/app:1@{SHA512}"),
        ("docker.io/" + "a" * 64, "docker.io/library/" + "a" * 64 + ":latest", "a" * 64 + ":latest"),
        ("g" * 64, "docker.io/library/" + "g" * 64 + ":latest", "g" * 64 + ":latest"),
        ("a/" * 127 + "a:tag", "docker.io/" + "a/" * 127 + "a:tag", "a/" * 127 + "a:tag"),
    ],
)
def test_normalised(text: str, normalised: str, familiar: str) -> None:
    reference = Reference.parse(text)
    assert str(reference) == normalised
    assert reference.familiar == familiar
    assert Reference.parse(normalised) == reference
    assert normalised.startswith(f"{reference.registry}/{reference.repository}")


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "/", ":", "@", ":tag", "app:", "app@", "/app", "app/", "a//b", "a b", "app\n", "app:a b"),
        *("App", "team/App", "h.io/Team/app", "Upper:tag", "docker.io/A"),
        *("-app", "app-", "a/-b", "a/b-", "_a/_b", "____/____", "a..b", "a_.b", "a-.b", "a___b", ".a", "a."),
        *(
            "https://h.io/app",
            "h:5000:app",
            "h.io:port/app",
            "-h.io/app",
            "h-.io/app",
            "h..io/app",
            "h_.io:1/app",
        ),
        *("[::1]", "[::1]:5000", "[::1]:tag", "fc00::1:5000/app", "[fe80::1%eth0]:5000/app", "[::1/app"),
        *("[2001:db8:3:4::192.0.2.33]:5000/app", "aa/asdf$$^/aa", "app:-tag", "app:.tag", "app:" + "t" * 129),
        *("app@sha256:abc", f"app@{SHA256[:-1]}", f"app@{SHA256}0", f"app@{SHA256.upper()}", f"@{SHA256}"),
        *("app@foo:" + "f" * 64, f"app@{SHA256}:tag", f"app@{SHA256}@{SHA256}", "0123456789abcdef" * 4),
        *("a/" * 128 + "a", "a:1/b:c:d", "é", "app:é", "app:tag/x"),
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Reference.parse(text)
    assert caught.value.reason == "invalid-reference"
    assert caught.value.hint


def test_parts() -> None:
    reference = Reference.parse(f"h.io:5000/team/app:1@{SHA256}")
    assert (reference.registry, reference.repository) == ("h.io:5000", "team/app")
    assert (reference.tag, reference.digest) == ("1", SHA256)
    assert reference.name == "h.io:5000/team/app"
    assert str(reference.with_tag("2")) == "h.io:5000/team/app:2"
    assert str(reference.with_digest(SHA512)) == f"h.io:5000/team/app@{SHA512}"


@given(st.text(alphabet="abAB01.:/@-_[]é", max_size=40))
def test_normalising_twice_changes_nothing(text: str) -> None:
    try:
        reference = Reference.parse(text)
    except UsageError:
        return
    assert Reference.parse(str(reference)) == reference
    assert Reference.parse(reference.familiar) == reference
