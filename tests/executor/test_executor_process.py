"""The process of a step: what it sees, what it may do, how it ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from polyarch.errors import NotFoundError, UsageError
from polyarch.executor import syscalls
from polyarch.executor.spec import Bind, Identity, Process
from polyarch.oci import platform as platforms

pytestmark = pytest.mark.userns


def test_exit_codes_and_signals(bench):
    assert bench.sh("exit 0").code == 0
    assert bench.sh("exit 3").code == 3
    assert bench.sh("kill -9 $$").code == 137
    assert bench.sh("kill -15 $$").code == 143


def test_output_and_error_are_apart(bench):
    result = bench.sh("echo out; echo err >&2")
    assert (result.out, result.err) == ("out\n", "err\n")


def test_much_output_arrives_whole(bench):
    result = bench.sh("dd if=/dev/zero bs=65536 count=64 2>/dev/null")
    assert len(result.out) == 64 * 65536


def test_standard_input_is_empty_or_what_is_given(bench, tmp_path):
    assert bench.sh("cat").out == ""
    (tmp_path / "input").write_text("typed\n")
    with open(tmp_path / "input", "rb") as file:
        assert bench.sh("cat", stdin=file.fileno()).out == "typed\n"


def test_environment_is_exactly_what_is_given(bench):
    result = bench.sh("env", environment=("PATH=/bin", "A=b=c", "EMPTY="))
    assert set(result.out.splitlines()) - {"PWD=/", "SHLVL=1", "OLDPWD=/"} == {"PATH=/bin", "A=b=c", "EMPTY="}


def test_directory_umask_names_and_hosts(bench):
    result = bench.sh(
        "pwd; umask; hostname; cat /etc/hosts",
        directory="/made/here",
        hostname="here",
        hosts=(("db", "10.0.0.7"),),
    )
    lines = result.out.splitlines()
    assert lines[:3] == ["/made/here", "0022", "here"]
    assert lines[3] == "127.0.0.1\tlocalhost here"
    assert "10.0.0.7\tdb" in lines
    assert bench.changed() == ["made", "made/here"]  # as runtimes do


def test_identity(bench):
    result = bench.sh("id -u; id -g; id -G; grep ^Cap /proc/self/status", identity=Identity(33, 44, (44, 5)))
    lines = result.out.splitlines()
    assert lines[:2] == ["33", "44"] and set(lines[2].split()) == {"44", "5"}
    if bench.mode == "single":
        return  # in truth it is root of a namespace with one id
    assert "CapEff:\t0000000000000000" in lines and "CapPrm:\t0000000000000000" in lines


def test_another_user_can_open_standard_output_again(bench):
    result = bench.sh("echo again > /dev/stdout; echo no > /dev/stderr", identity=Identity(33, 33))
    assert (result.code, result.out, result.err) == (0, "again\n", "no\n")


def test_capabilities_are_dockers(bench):
    lines = bench.sh("grep ^Cap /proc/self/status").out.split()
    values = dict(zip(lines[::2], lines[1::2], strict=True))
    assert values["CapInh:"] == values["CapAmb:"] == "0" * 16
    assert values["CapEff:"] == values["CapPrm:"] == values["CapBnd:"] == "00000000a80425fb"


def test_insecure_has_every_capability_and_no_filter(bench):
    result = bench.sh(
        "grep -E '^(CapEff|Seccomp):' /proc/self/status; mount -t tmpfs none /tmp", security="insecure"
    )
    lines = result.out.split()
    assert int(lines[1], 16) >> 21 & 1
    assert lines[3] == ("2" if bench.mode == "single" else "0")  # the one by which ids are told
    assert result.code == 0


def test_filter_refuses_what_docker_refuses(bench):
    result = bench.sh(
        "grep ^Seccomp: /proc/self/status; unshare -r true; mount -t tmpfs none /tmp; umount /proc"
    )
    assert "Seccomp:\t2" in result.out
    assert result.err.count("Operation not permitted") + result.err.count("ermission denied") == 3


def test_proc_is_masked_and_protected(bench):
    result = bench.sh("cat /proc/kcore /proc/keys /proc/timer_list /proc/interrupts 2>/dev/null | wc -c")
    assert result.out.strip() == "0"
    result = bench.sh("ls /sys/firmware /sys/fs/cgroup /proc/acpi /proc/scsi 2>/dev/null")
    assert [line for line in result.out.splitlines() if line and not line.startswith("/")] == []
    result = bench.sh(
        "echo 1 > /proc/sys/kernel/core_pattern; echo b > /proc/sysrq-trigger; touch /sys/x; true"
    )
    protected = 3 if os.path.exists("/proc/sysrq-trigger") else 2
    assert result.err.count("ead-only file system") + result.err.count("ermission denied") == protected


def test_only_own_processes_and_no_way_into_the_first(bench):
    result = bench.sh(
        "ls /proc | grep -c '^[0-9]'; ls -l /proc/1/exe /proc/1/root /proc/1/fd; cat /proc/1/cmdline"
    )
    assert int(result.out.split()[0]) < 6
    assert "python" not in result.out + result.err
    assert "/work" not in result.out
    assert bench.sh("cat /proc/1/environ").code != 0


def test_no_descriptor_is_inherited(bench):
    with open("/etc/hostname", "rb") as file:
        os.set_inheritable(file.fileno(), True)
        assert sorted(bench.sh("ls /proc/self/fd").out.split())[:4] == ["0", "1", "2", "3"]  # 3 is ls's own
        assert len(bench.sh("ls /proc/self/fd").out.split()) == 4


def test_devices(bench):
    result = bench.sh(
        "echo x > /dev/null; head -c 3 /dev/zero | wc -c; head -c 2 /dev/urandom | wc -c; echo x > /dev/full;"
        "ls -d /dev/pts /dev/shm /dev/mqueue /dev/ptmx /dev/fd /dev/stdin; df -k /dev/shm | tail -n 1",
        shm_size=1 << 20,
    )
    assert result.out.split()[:2] == ["3", "2"]
    assert "No space left" in result.err
    assert " 1024 " in result.out


def test_device_nodes_of_the_host_cannot_be_opened(bench):
    result = bench.sh(
        "mknod /disk b 254 0 && head -c 1 /disk; mknod /dev/disk b 254 0 && head -c 1 /dev/disk; true"
    )
    assert result.out == ""


def test_everything_left_behind_is_killed(bench):
    marker = f"3{os.getpid()}"
    assert bench.sh(f"sleep {marker} & (sleep {marker} &) ; exit 4").code == 4
    assert not [pid for pid in os.listdir("/proc") if pid.isdecimal() and marker in _command(pid)]


def test_limits_are_not_raised(bench):
    import resource

    assert bench.sh("ulimit -n").out.strip() == str(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _command(pid: str) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read().decode(errors="replace")
    except OSError:
        return ""


class TestWhatCannotBeRun:
    def run(self, bench, *arguments, **fields):
        return bench.run(Process(arguments, platforms.host(), ("PATH=/bin:/sbin",), **fields))

    def test_not_found(self, bench):
        result = self.run(bench, "nosuch")
        assert result.code == 127 and "cannot run nosuch: not found in PATH (/bin:/sbin)" in result.err

    def test_not_found_by_path(self, bench):
        assert self.run(bench, "/bin/nosuch").code == 127

    def test_not_executable(self, bench):
        result = self.run(bench, "/etc/passwd")
        assert result.code == 126 and "not executable" in result.err

    def test_directory(self, bench):
        result = self.run(bench, "/etc")
        assert result.code == 126 and "is a directory" in result.err

    def test_missing_interpreter_of_a_script(self, bench):
        bench.upper.joinpath("script").write_text("#!/opt/lua -x\n")
        bench.upper.joinpath("script").chmod(0o755)
        result = self.run(bench, "/script")
        assert result.code == 127 and "interpreter /opt/lua is missing" in result.err

    def test_missing_loader(self, bench):
        program = bench.upper / "python"
        program.write_bytes(Path(os.path.realpath(sys.executable)).read_bytes())
        program.chmod(0o755)
        result = self.run(bench, "/python")
        assert result.code == 127 and "is missing in the image" in result.err and "ld-" in result.err

    def test_neither_program_nor_script(self, bench):
        bench.upper.joinpath("text").write_text("echo hello\n")
        bench.upper.joinpath("text").chmod(0o755)
        result = self.run(bench, "/text")
        assert result.code == 126 and "neither a program nor a script" in result.err

    def test_working_directory_that_is_a_file(self, bench):
        result = self.run(bench, "/bin/true", directory="/etc/passwd")
        assert result.code == 126 and "working directory /etc/passwd" in result.err

    def test_nothing_to_run(self, bench):
        with pytest.raises(UsageError):
            self.run(bench)
        with pytest.raises(UsageError):
            self.run(bench, "/bin/true\0")

    def test_mount_of_nothing(self, bench, tmp_path):
        with pytest.raises(NotFoundError, match="cannot mount"):
            bench.sh("true", Bind(tmp_path / "absent", "/x"))


def test_mounting_needs_no_privilege_to_ask():
    assert syscalls.may_mount() in (True, False)
