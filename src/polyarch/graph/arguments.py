"""Build arguments: the platform's, the global ones before the first FROM, and what the user set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from polyarch.dockerfile import shell
from polyarch.dockerfile.instructions import Arg
from polyarch.errors import DockerfileError, PolyarchError
from polyarch.oci.platform import Platform

PROXIES = frozenset({"http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"})


def platform_arguments(build: Platform, target: Platform, stage: str) -> dict[str, str]:
    """The predefined arguments; ``stage`` is the target stage's name."""
    return {
        "BUILDPLATFORM": build.full(),
        "BUILDOS": build.os,
        "BUILDOSVERSION": build.os_version,
        "BUILDARCH": build.architecture,
        "BUILDVARIANT": build.variant,
        "TARGETPLATFORM": target.full(),
        "TARGETOS": target.os,
        "TARGETOSVERSION": target.os_version,
        "TARGETARCH": target.architecture,
        "TARGETVARIANT": target.variant,
        "TARGETSTAGE": stage or "default",
    }


def global_arguments(
    predefined: Mapping[str, str], declared: Sequence[Arg], given: Mapping[str, str], escape: str
) -> dict[str, str]:
    """What FROM lines see, and what a stage's ``ARG NAME`` without default inherits.

    ``given`` (``--build-arg``) overrides defaults and predefined values.
    """
    values = {name: given.get(name, value) for name, value in predefined.items()}
    for instruction in declared:
        for definition in instruction.arguments:
            if definition.name in given:
                values[definition.name] = given[definition.name]
            elif definition.value is not None:
                try:
                    values[definition.name] = shell.expand(definition.value, values, escape=escape)
                except PolyarchError as error:
                    raise DockerfileError(
                        f"ARG {definition.name}: {error.summary}",
                        location=instruction.location,
                        hint=error.hint,
                        reason=error.reason,
                    ) from None
    return values


def proxy_environment(given: Mapping[str, str]) -> tuple[str, ...]:
    """``NAME=value`` of the proxy settings among the build arguments, in both spellings.

    They reach RUN but neither the history nor any cache key.
    """
    found: dict[str, str] = {}
    for name in sorted(given):
        if name.lower() in PROXIES:
            found[name.lower()] = found[name.upper()] = given[name]
    return tuple(f"{name}={value}" for name, value in sorted(found.items()))
