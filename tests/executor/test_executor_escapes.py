"""Ways out of a step that must be closed."""

from __future__ import annotations

import os
import subprocess

import pytest

from polyarch.errors import PolyarchError
from polyarch.executor import machines
from polyarch.executor.spec import Bind, Identity, Process, RootFilesystem
from polyarch.oci import platform as platforms

pytestmark = pytest.mark.userns


def test_mounts_do_not_spread_to_the_host(bench, tmp_path, host_mounts):
    before = host_mounts()
    (tmp_path / "shared").mkdir()
    bench.sh(
        "mount -t tmpfs none /m; mount -t tmpfs none /tmp; sleep 0.1",
        Bind(tmp_path / "shared", "/m", read_only=False),
        security="insecure",
    )
    assert host_mounts() == before
    assert list((tmp_path / "shared").iterdir()) == []


def test_chroot_does_not_lead_out(bench):
    """The classic: chroot into a directory with the working directory outside, then climb."""
    result = bench.sh("mkdir /d; for i in 1 2 3 4 5 6 7 8 9; do cd ..; done; ls; ls /../../../../..")
    assert "bin" in result.out and "home" not in result.out.split()


def test_no_host_path_is_reachable_by_proc(bench):
    result = bench.sh(
        "for p in /proc/[0-9]*; do ls -d $p/root/work $p/root/home $p/cwd/home 2>/dev/null; done; true"
    )
    assert result.out == ""


def test_interpreter_of_the_helper_is_not_run_or_written(bench):
    """An image whose program is /proc/self/exe, or a script that names it as its interpreter."""
    (bench.upper / "script").write_text("#!/proc/self/exe\nprint('host code')\n")
    (bench.upper / "script").chmod(0o755)
    link = bench.upper / "link"
    os.symlink("/proc/self/exe", link)
    for arguments in (("/script",), ("/link", "-c", "print(1)"), ("/proc/self/exe", "-c", "print(1)")):
        result = bench.run(Process(arguments, platforms.host(), ("PATH=/bin",)))
        assert result.code != 0 and "host code" not in result.out


def test_symlinks_swapped_while_mounting(bench, tmp_path):
    """A directory that another step keeps replacing with a symlink to the host never leads there."""
    shared, victim = tmp_path / "shared", tmp_path / "victim"
    shared.mkdir()
    victim.mkdir()
    (shared / "inner").mkdir()
    (shared / "link").symlink_to(victim)
    turn = "mv -T inner x; mv -T link inner; mv -T inner link; mv -T x inner"
    swap = subprocess.Popen(
        ["sh", "-c", f"i=0; while [ $i -lt 300 ]; do {turn}; i=$((i+1)); done"],
        cwd=shared,
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(12):
            try:
                bench.sh(
                    "true",
                    Bind(shared, "/s", read_only=False),
                    Bind(tmp_path / "shared", "/s/inner/deep", read_only=True),
                )
            except PolyarchError:
                continue  # the race was lost, by an error
    finally:
        swap.kill()
        swap.wait()
    assert list(victim.iterdir()) == []


def test_a_step_cannot_give_itself_rights_on_the_host(bench, tmp_path):
    """A setuid program left in a directory of the host belongs to whom the step's root is."""
    (tmp_path / "shared").mkdir()
    bench.sh("cp /bin/busybox /m/su; chmod 4755 /m/su", Bind(tmp_path / "shared", "/m", read_only=False))
    status = os.stat(tmp_path / "shared/su")
    assert status.st_uid == os.getuid()


# The program that ends with its effective user id, by machine.
WHO = {"amd64": "b86b0000000f0589c7b83c0000000f05", "arm64": "e81580d2010000d4a80b80d2010000d4"}


def test_setuid_works_inside(bench):
    """Docker does not forbid it to build steps: sudo and su must work."""
    machine = machines.find(platforms.host().architecture)
    (bench.upper / "who").write_bytes(machine._replace(code=WHO[machine.architecture]).program())
    process = Process(("/who",), platforms.host(), identity=Identity(33, 33))
    bench.sh("chmod 755 /who")
    assert bench.run(process).code == 33
    bench.sh("chmod 4755 /who")
    assert bench.run(process).code == 0


def test_unprivileged_calls_are_refused(bench):
    result = bench.sh(
        "unshare -U true; unshare -m true; mount --bind /etc /tmp; mknod /tmp/kmsg c 1 11 && cat /tmp/kmsg; "
        "echo 1 > /proc/sys/vm/drop_caches; ls /proc/sys/fs/binfmt_misc"
    )
    assert result.err.count("ot permitted") + result.err.count("denied") + result.err.count("Read-only") >= 4


def test_lowers_are_never_written(bench, busybox_root):
    before = sorted((str(p), p.lstat().st_mtime_ns) for p in busybox_root.rglob("*"))
    bench.sh("echo x > /etc/passwd; rm -r /tmp; chmod 777 /bin/busybox; touch /bin/new")
    assert sorted((str(p), p.lstat().st_mtime_ns) for p in busybox_root.rglob("*")) == before


def test_names_with_odd_characters(bench, tmp_path):
    odd = tmp_path / "a:b,c=d\\e f\n\u00e9"
    odd.mkdir()
    (odd / "file").write_text("odd\n")
    root = RootFilesystem((bench.lower, odd), bench.upper, bench.folder / "work")
    assert bench.sh("cat /file /m/file", Bind(odd, "/m:x,y"), root=root).code == 1
    assert bench.sh("cat /file '/m:x,y/file'", Bind(odd, "/m:x,y"), root=root).out == "odd\nodd\n"
