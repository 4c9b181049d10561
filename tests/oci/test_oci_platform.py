"""Platforms: spelling, normal forms, and which image runs where."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyarch.errors import UsageError
from polyarch.oci.platform import (
    KNOWN_ARCHITECTURES,
    KNOWN_OS,
    Platform,
    choose,
    compatible,
    host,
    parse_list,
)

HOST = host()


def on_host(text: str) -> str:
    return f"{text}/{HOST.architecture}" + (f"/{HOST.variant}" if HOST.variant else "")


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/amd64/v2", "linux/amd64/v2"),
        ("Linux/X86_64", "linux/amd64"),
        ("linux/x86-64", "linux/amd64"),
        ("linux/i386", "linux/386"),
        ("linux/arm64", "linux/arm64"),
        ("linux/arm64/v8", "linux/arm64/v8"),
        ("linux/arm64/8", "linux/arm64/v8"),
        ("linux/arm64/v8.0", "linux/arm64/v8"),
        ("linux/arm64/v9.0", "linux/arm64/v9"),
        ("linux/AArch64", "linux/arm64"),
        ("linux/arm", "linux/arm"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/arm/V6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm"),
        ("linux/armel", "linux/arm/v6"),
        ("linux/s390x", "linux/s390x"),
        ("darwin/arm64", "darwin/arm64"),
        ("macOS/arm64", "darwin/arm64"),
        ("windows(10.0.17763)/amd64", "windows(10.0.17763)/amd64"),
        ("windows(10.0.17763+win32k)/amd64", "windows(10.0.17763+win32k)/amd64"),
        ("windows()/amd64", "windows/amd64"),
        ("linux(+b+a+b)/amd64", "linux(+a+b)/amd64"),
        ("windows(10%2B1%25)/amd64", "windows(10%2B1%25)/amd64"),
        ("s390x", f"{HOST.os}/s390x"),
        ("armel", f"{HOST.os}/arm/v6"),
        ("x86_64", f"{HOST.os}/amd64"),
        ("linux", on_host("linux")),
        ("macos", on_host("darwin")),
        ("windows(10.0)", on_host("windows(10.0)")),
        ("local", HOST.full()),
    ],
)
def test_spelling(text: str, full: str) -> None:
    platform = Platform.parse(text)
    assert platform.full() == full
    assert Platform.parse(full) == platform
    assert platform.normalized() == platform.normalized().normalized()


def test_the_short_form_has_no_version() -> None:
    assert str(Platform.parse("windows(10.0.17763)/amd64")) == "windows/amd64"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        *((text, "") for text in ("", "/", "/linux/arm", "linux/", "linux/arm/", "linux /arm", "linux/&arm")),
        *((text, "") for text in ("linux/arm/v7/x", "*", "linux/*", "linux(/arm")),
        *((text, "") for text in ("linux(a b)/arm", "linux(%zz)/arm")),
        ("amd46", "amd64"),
    ],
)
def test_refused(text: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        Platform.parse(text)
    assert caught.value.reason == "unknown-platform"
    assert f"did you mean {hint!r}" in caught.value.summary if hint else True


@pytest.mark.parametrize(
    ("text", "hint"), [("linux/amd46", "amd64"), ("linxu/amd64", "linux"), ("linux/arm46", "arm64")]
)
def test_nobody_can_build_for_a_misspelt_platform(text: str, hint: str) -> None:
    Platform.parse(text)
    with pytest.raises(UsageError) as caught:
        parse_list([text])
    assert caught.value.reason == "unknown-platform"
    assert f"did you mean {hint!r}" in caught.value.summary


def test_other_systems_have_architectures_of_their_own() -> None:
    assert parse_list(["windows(1.2)/bar"])[0].full() == "windows(1.2)/bar"


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("linux/amd64", "linux/amd64 linux/386"),
        ("linux/amd64/v3", "linux/amd64/v3 linux/amd64/v2 linux/amd64 linux/386"),
        ("linux/386", "linux/386"),
        ("linux/arm/v8", "linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5"),
        ("linux/arm", "linux/arm/v7 linux/arm/v6 linux/arm/v5"),
        ("linux/arm/v5", "linux/arm/v5"),
        ("linux/arm/v4", "linux/arm/v4"),
        ("linux/arm64", "linux/arm64 linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5"),
        (
            "linux/arm64/v8.2",
            "linux/arm64/v8.2 linux/arm64/v8.1 linux/arm64"
            " linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5",
        ),
        (
            "linux/arm64/v9.1",
            "linux/arm64/v9.1 linux/arm64/v9 linux/arm64/v8.6 linux/arm64/v8.5 linux/arm64/v8.4"
            " linux/arm64/v8.3 linux/arm64/v8.2 linux/arm64/v8.1 linux/arm64"
            " linux/arm/v8 linux/arm/v7 linux/arm/v6 linux/arm/v5",
        ),
        ("linux/riscv64", "linux/riscv64"),
        ("windows/amd64", "windows/amd64 windows/386"),
    ],
)
def test_the_order_of_what_runs_natively(text: str, order: str) -> None:
    assert [str(platform) for platform in compatible(Platform.parse(text))] == order.split()


@pytest.mark.parametrize(
    ("wanted", "offered", "chosen", "strictly"),
    [
        ("linux/amd64", "linux/arm64 linux/amd64", 1, 1),
        ("linux/amd64", "linux/386", 0, None),
        ("linux/amd64", "linux/amd64/v2 linux/386", 1, None),
        ("linux/amd64/v2", "linux/386 linux/amd64 linux/amd64/v3", 1, None),
        ("linux/386", "linux/amd64", None, None),
        ("linux/arm64", "linux/arm/v6 linux/arm/v7 linux/386", 1, None),
        ("linux/arm64", "linux/arm64/v8", 0, 0),
        ("linux/arm64", "linux/arm64/v9", None, None),
        ("linux/arm64/v9", "linux/arm64/v8.6 linux/arm64/v8.5", 1, None),
        ("linux/arm/v7", "linux/arm/v6 linux/armhf", 1, 1),
        ("linux/arm/v6", "linux/arm", None, None),
        ("linux/arm/v6", "linux/armel linux/arm/v5", 0, 0),
        ("linux/arm/v4", "linux/arm/v5", None, None),
        ("linux/amd64", "windows/amd64 darwin/amd64", None, None),
        ("linux/amd64", "", None, None),
        ("windows(10.0.17763)/amd64", "windows/amd64", 0, 0),
        ("windows(10.0.17763)/amd64", "windows(10.0.14393.1)/amd64 windows(10.0.17763.5)/amd64", 1, 1),
        ("windows(10.0.17763)/amd64", "windows(10.0.20348)/amd64", None, None),
        ("windows(10.0.26100)/amd64", "windows(10.0.17763)/amd64 windows(10.0.20348.9)/amd64", 1, 1),
        ("windows/amd64", "windows(10.0.14393)/amd64", 0, 0),
        ("linux(+gpu)/amd64", "linux/amd64 linux(+gpu)/amd64", 1, 1),
        ("linux/amd64", "linux(+gpu)/amd64 linux/amd64", 1, 1),
    ],
)
def test_choosing(wanted: str, offered: str, chosen: int | None, strictly: int | None) -> None:
    platforms = [Platform.parse(text) for text in offered.split()]
    assert choose(Platform.parse(wanted), platforms) == chosen
    assert choose(Platform.parse(wanted), platforms, strict=True) == strictly


def test_lists_keep_their_order_and_lose_repetitions() -> None:
    found = parse_list(["linux/amd64,linux/arm64", "linux/x86_64", " linux/arm/v7 ,"])
    assert [str(platform) for platform in found] == ["linux/amd64", "linux/arm64", "linux/arm/v7"]


_VARIANTS = st.sampled_from(["", "v1", "v2", "v5", "v6", "v7", "v8", "v8.1", "v9", "v9.2", "x"])


@given(
    st.builds(
        Platform,
        os=st.sampled_from(sorted(KNOWN_OS)),
        architecture=st.sampled_from(sorted(KNOWN_ARCHITECTURES)),
        variant=_VARIANTS,
        os_version=st.sampled_from(["", "10.0.1", "a+b%(c)/d"]),
        os_features=st.sampled_from([(), ("a",), ("b", "a")]),
    )
)
def test_formatting_and_parsing_round_trip(platform: Platform) -> None:
    normal = platform.normalized()
    assert Platform.parse(platform.full()).normalized() == normal
    assert normal.normalized() == normal
    assert compatible(platform)[0] == normal
    assert choose(platform, [platform]) == 0
