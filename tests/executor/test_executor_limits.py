"""Limits by control groups: a real group where one can be made, and a refusal that says what is missing."""

from __future__ import annotations

import os

import pytest

from polyarch.errors import PolyarchError
from polyarch.executor import cgroups
from polyarch.executor.spec import Process
from polyarch.oci import platform as platforms


def _possible(limits: cgroups.Limits) -> str:
    """Why a group cannot be made here, "" when it can."""
    child = os.fork()
    if child == 0:
        os.execvp("sleep", ["sleep", "60"])
    try:
        cgroups.leave(cgroups.enter(limits, child))
    except OSError as error:
        return error.strerror or str(error)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    return ""


def _run(bench, script, **limits):
    words = ("/bin/sh", "-c", script)
    return bench.run(Process(words, platforms.host(), resources=tuple(limits.items())))


def _refused(bench, **limits):
    """Whether a limit cannot be set here, which must be said before anything runs."""
    if bench.mode == "root" and not _possible(dict(limits)):
        return False
    try:
        _run(bench, "echo ran > /ran", **limits)
    except PolyarchError as error:
        assert (
            error.reason == "limits" and "systemd-run" in error.summary
        ) or "no control group" in error.summary
        assert not (bench.upper / "ran").exists()
        return True
    return False


class TestLimits:
    def test_memory(self, bench):
        if _refused(bench, memory=16 << 20):
            return
        hungry = "head -c 100000000 /dev/zero | tail -n 1 | wc -c > /eaten; cat /eaten"
        assert _run(bench, hungry).out.strip() == "100000000"
        assert _run(bench, hungry, memory=16 << 20).out.strip() != "100000000"

    def test_groups_are_gone_afterwards(self, bench):
        if _refused(bench, memory=64 << 20):
            return
        _run(bench, "sleep 0.1 & exit 0", memory=64 << 20)
        found = cgroups._hierarchy("memory")
        assert found is not None
        assert not [name for name in os.listdir(found.folder) if name.startswith("polyarch-")]

    @pytest.mark.parametrize(
        ("limits", "wanted"),
        [({"cpu_quota": 50000}, "cpu"), ({"cpu_shares": 512}, "cpu"), ({"cpuset_cpus": "0"}, "cpuset")],
    )
    def test_processors(self, bench, limits, wanted):
        if _refused(bench, **limits):
            return
        result = _run(bench, "cat /proc/self/cgroup; grep Cpus_allowed_list /proc/self/status", **limits)
        assert result.code == 0
        if "cpuset_cpus" in limits:
            assert result.out.split()[-1] == "0"
        else:
            assert wanted in result.out

    def test_a_limit_that_cannot_be_set_starts_nothing(self, bench):
        assert _refused(bench, cpuset_cpus="4000") or bench.mode == "root"
        with pytest.raises(PolyarchError, match=r"--cpuset-cpus cannot be set|no control group"):
            _run(bench, "echo ran > /ran", cpuset_cpus="4000")
        assert not (bench.upper / "ran").exists()
