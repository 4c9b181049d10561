"""``--memory``, ``--cpus`` and their family: limits of every step, with docker's names."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

_PERIOD = 100_000  # microseconds
_OPTIONS = (
    (("-m", "--memory"), "SIZE", "Memory of each RUN step."),
    (("--memory-swap",), "SIZE", "Memory and swap together; -1: as much swap as there is."),
    (("--cpus",), "NUMBER", "Processors of each RUN step, such as 1.5."),
    (("--cpu-period",), "MICROSECONDS", "The period of --cpu-quota."),
    (("--cpu-quota",), "MICROSECONDS", "Processor time of each RUN step in a period."),
    (("-c", "--cpu-shares"), "NUMBER", "Weight of RUN steps beside other processes (2 to 262144)."),
    (("--cpuset-cpus",), "LIST", "Processors RUN steps may use, such as 0-3,5."),
    (("--cpuset-mems",), "LIST", "Memory nodes RUN steps may use."),
)


def limit_options(command: _Command) -> _Command:
    """Give a command these options."""
    for names, metavar, text in reversed(_OPTIONS):
        command = click.option(*names, default="", metavar=metavar, help=text)(command)
    return command


def resources(options: dict[str, Any]) -> tuple[tuple[str, int | str], ...]:
    """The limits asked for, named as in ``executor.cgroups``. UsageError for what makes no sense."""
    from polyarch.cli import options as values
    from polyarch.errors import UsageError

    found: dict[str, int | str] = {}
    if options["memory"]:
        found["memory"] = values.size("--memory", options["memory"])
    if options["memory_swap"]:
        text = options["memory_swap"]
        found["memory_swap"] = -1 if text == "-1" else values.size("--memory-swap", text)
        if "memory" not in found or -1 < int(found["memory_swap"]) < int(found["memory"]):
            raise UsageError(
                "--memory-swap is memory and swap together: it needs --memory, and is not less",
                hint="leave it out, or raise it",
                reason="memory-swap",
            )
    for name in ("cpu_period", "cpu_quota", "cpu_shares"):
        if options[name]:
            found[name] = _number(name, options[name])
    if options["cpus"]:
        if "cpu_quota" in found:
            raise UsageError("--cpus and --cpu-quota say the same", hint="give one of them", reason="cpus")
        if not re.fullmatch(r"\d{1,4}(\.\d+)?", options["cpus"]) or float(options["cpus"]) < 0.01:
            raise UsageError(f"--cpus: {options['cpus']!r} is no number of processors", reason="cpus")
        found["cpu_quota"] = int(float(options["cpus"]) * int(found.get("cpu_period", _PERIOD)))
    for name in ("cpuset_cpus", "cpuset_mems"):
        if options[name]:
            if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", options[name]):
                raise UsageError(
                    f"--{name.replace('_', '-')}: {options[name]!r} is no list",
                    hint="such as 0-3,5",
                    reason="cpuset",
                )
            found[name] = options[name]
    if "cpu_period" in found and "cpu_quota" not in found:
        raise UsageError(
            "--cpu-period alone limits nothing", hint="add --cpu-quota or --cpus", reason="cpu-period"
        )
    return tuple(found.items())


def _number(name: str, text: str) -> int:
    from polyarch.errors import UsageError

    option = "--" + name.replace("_", "-")
    lowest, highest = {"cpu_shares": (2, 262144), "cpu_period": (1000, 1000000)}.get(name, (1000, 10**9))
    if not text.isdecimal() or not lowest <= int(text) <= highest:
        raise UsageError(
            f"{option}: {text!r} is not a number from {lowest} to {highest}", reason="invalid-limit"
        )
    return int(text)
