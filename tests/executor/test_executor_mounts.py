"""Root filesystem and mounts of a step, and that they leave no trace."""

from __future__ import annotations

import os
import stat

import pytest

from polyarch.errors import PolyarchError, UsageError
from polyarch.executor.spec import Bind, Identity, Overlay, RootFilesystem, SecretFile, Tmpfs

pytestmark = pytest.mark.userns


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "source"
    (folder / "sub").mkdir(parents=True)
    (folder / "file").write_text("from the host\n")
    (folder / "sub/inner").write_text("inner\n")
    return folder


def test_changes_are_in_the_upper_directory(bench):
    bench.sh("echo new > /new; rm /etc/passwd; mkdir /d; chmod 700 /tmp")
    assert bench.changed() == ["d", "etc", "etc/passwd", "new", "tmp"]
    gone = os.lstat(bench.upper / "etc/passwd")
    assert stat.S_ISCHR(gone.st_mode) and gone.st_rdev == 0


def test_a_step_that_changes_nothing_leaves_nothing(bench, source):
    bench.sh(
        "true",
        Bind(source, "/a/deep/mount/point"),
        Bind(source / "file", "/opt/file"),
        Tmpfs("/t"),
        SecretFile("/run/secrets/token", b"secret"),
    )
    assert bench.changed() == []


def test_without_upper_changes_are_lost(bench):
    assert bench.sh("echo x > /x && cat /x", root=bench.root(upper=False)).out == "x\n"
    assert bench.sh("cat /x", root=bench.root(upper=False)).code == 1


def test_read_only_root(bench):
    result = bench.sh("touch /x", read_only=True)
    assert "Read-only file system" in result.err


def test_bind_is_read_only_unless_asked(bench, source):
    result = bench.sh("cat /m/file; echo x > /m/file; echo y > /m/sub/inner", Bind(source, "/m"))
    assert result.out == "from the host\n" and result.err.count("Read-only") == 2
    bench.sh("echo written > /m/sub/inner", Bind(source, "/m", read_only=False))
    assert (source / "sub/inner").read_text() == "written\n"


def test_bind_of_a_file_over_a_file_of_the_image(bench, source):
    assert bench.sh("cat /etc/passwd", Bind(source / "file", "/etc/passwd")).out == "from the host\n"
    assert bench.changed() == []


def test_mount_points_that_the_image_hides_are_made_and_removed(bench, source, tmp_path):
    """An opaque directory hides the prepared mount points; then they are made for a while."""
    assert bench.sh("rm -r /tmp && mkdir /tmp && touch /tmp/keep").code == 0
    before = os.stat(bench.upper / "tmp").st_mtime_ns
    second = tmp_path / "second"
    for name in ("upper", "work"):
        (second / name).mkdir(parents=True)
    root = RootFilesystem((bench.lower, bench.upper), second / "upper", second / "work")
    result = bench.sh("ls /tmp; cat /tmp/m/file", Bind(source, "/tmp/m"), root=root)
    assert result.out.split()[:4] == ["keep", "m", "from", "the"]
    assert "from the host" in result.out
    left = [name for folder, _, names in os.walk(second / "upper") for name in names]
    assert left == []
    if (second / "upper/tmp").exists():
        assert os.stat(second / "upper/tmp").st_mtime_ns == before
    bench.sandbox.privilege.call("shutil:rmtree", str(second))


def test_what_the_step_puts_in_place_of_a_mount_point_stays(bench, source):
    bench.sh("mkdir -p /m2/kept", Bind(source, "/m2/point"))
    assert "m2/kept" in bench.changed() and "m2/point" not in bench.changed()


def test_symlinks_are_followed_inside_the_image_only(bench, source, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    os.symlink(str(victim), bench.upper / "absolute")
    os.symlink("../../../../../../../.." + str(victim), bench.upper / "relative")
    for link in ("absolute", "relative"):
        result = bench.sh(f"cat /{link}/x/file", Bind(source, f"/{link}/x"))
        assert result.out == "from the host\n"
    assert list(victim.iterdir()) == []
    # /tmp is of the image: it was copied up, equal, which is no change to a layer.
    changed = bench.changed()
    assert [name for name in changed if os.path.islink(bench.upper / name)] == ["absolute", "relative"]
    assert set(changed) <= {"absolute", "relative", "tmp"}


def test_looping_symlinks_are_an_error(bench, source):
    os.symlink("loop", bench.upper / "loop")
    with pytest.raises(PolyarchError, match="ymbolic"):
        bench.sh("true", Bind(source, "/loop/x"))


def test_proc_that_is_a_symlink_is_refused(bench):
    os.symlink("/etc", bench.upper / "proc")
    with pytest.raises(PolyarchError, match="/proc of the image is not a directory"):
        bench.sh("true")


def test_dangling_resolv_conf(bench):
    (bench.upper / "etc").mkdir()
    os.symlink("../run/resolve/stub.conf", bench.upper / "etc/resolv.conf")
    result = bench.sh("cat /etc/resolv.conf >/dev/null && readlink /etc/resolv.conf")
    assert result.out == "../run/resolve/stub.conf\n"
    assert bench.changed() == ["etc", "etc/resolv.conf"]


def test_mounts_in_mounts(bench, source):
    result = bench.sh(
        "cat /m/sub/x/file; ls /m/sub", Bind(source, "/m/sub/x"), Tmpfs("/m/sub"), Bind(source, "/m")
    )
    assert result.out == "from the host\nx\n"


@pytest.mark.parametrize("target", ["/", "/proc", "/proc/sys", "/sys/fs", "/a/../proc"])
def test_targets_that_cannot_be(bench, source, target):
    with pytest.raises(UsageError, match="nothing can be mounted"):
        bench.sh("true", Bind(source, target))


def test_mount_under_dev(bench, source):
    assert bench.sh("cat /dev/tools/file", Bind(source, "/dev/tools")).out == "from the host\n"
    assert bench.changed() == []


class TestOverlayMount:
    @pytest.fixture
    def layers(self, tmp_path):
        first, second = tmp_path / "first", tmp_path / "second"
        (first / "d").mkdir(parents=True)
        (second / "d").mkdir(parents=True)
        (first / "d/a").write_text("1\n")
        (second / "d/a").write_text("2\n")
        (first / "d/b").write_text("b\n")
        return first, second

    def test_joined(self, bench, layers):
        assert bench.sh("cat /m/d/a /m/d/b; touch /m/x", Overlay(layers, "/m")).out == "2\nb\n"

    def test_one_layer(self, bench, layers):
        result = bench.sh("cat /m/d/a; touch /m/x", Overlay(layers[:1], "/m"))
        assert result.out == "1\n" and "Read-only" in result.err

    def test_path_to_a_directory_and_to_a_file(self, bench, layers):
        result = bench.sh("cat /m/b /f", Overlay(layers, "/m", path="d"), Overlay(layers, "/f", path="/d/a"))
        assert result.out == "b\n2\n"
        assert bench.changed() == []

    def test_path_cannot_climb_out(self, bench, layers, tmp_path):
        os.symlink("/etc", layers[1] / "out")
        with pytest.raises(PolyarchError):
            bench.sh("true", Overlay(layers, "/m", path="out/../../etc/hostname"))

    def test_writes_are_discarded(self, bench, layers):
        overlay = Overlay(layers, "/m", writable=True)
        assert bench.sh("echo x > /m/d/a; cat /m/d/a", overlay).out == "x\n"
        assert bench.sh("cat /m/d/a", overlay).out == "2\n"
        inner = Overlay(layers, "/m", path="d", writable=True)
        assert bench.sh("echo y > /m/a; cat /m/a", inner).out == "y\n"
        assert (layers[1] / "d/a").read_text() == "2\n"


def test_tmpfs(bench):
    result = bench.sh(
        "dd if=/dev/zero of=/t/big bs=1024 count=2000 2>&1 | grep -c 'No space'; stat -c %a /t",
        Tmpfs("/t", 1 << 20, 0o711),
    )
    assert result.out.split() == ["1", "711"]


def test_secret(bench):
    secret = SecretFile("/run/secrets/token", b"s3cret\n", 33, 44, 0o440)
    result = bench.sh(
        "cat /run/secrets/token; stat -c '%u %g %a' /run/secrets/token; echo x >> /run/secrets/token", secret
    )
    assert result.out == "s3cret\n33 44 440\n"
    assert "Read-only" in result.err
    denied = bench.sh("cat /run/secrets/token", secret, identity=Identity(99, 99))
    assert denied.out == "" and "denied" in denied.err
    assert bench.changed() == []
    assert "s3cret" not in repr(secret)


def test_many_layers(bench, tmp_path):
    layers = [bench.lower]
    for number in range(120):
        layer = tmp_path / f"a-directory-name-that-is-rather-long-{number:04}"
        layer.mkdir()
        (layer / f"file{number}").write_text(f"{number}\n")
        (layer / "top").write_text(f"{number}\n")
        layers.append(layer)
    assert bench.sh("cat /top /file0 /file60", root=bench.root(*layers)).out == "119\n0\n60\n"


def test_an_empty_image(bench, source):
    """Nothing below: only what is mounted, and /proc, /dev, /sys, /etc."""
    root = RootFilesystem((), bench.upper, bench.folder / "work")
    busybox = Bind(bench.lower / "bin", "/bin")
    assert bench.sh("ls /", busybox, root=root).out.split() == ["bin", "dev", "etc", "proc", "sys"]
    assert bench.changed() == []


def test_network_none_has_a_loopback_only(bench):
    result = bench.sh("grep -c : /proc/net/dev; grep lo: /proc/net/dev; ls /sys/class/net", network="none")
    assert result.out.split()[0] == "1"
    assert result.out.split()[-1] == "lo"


def test_the_hosts_mounts_are_untouched(bench, source, host_mounts):
    before = host_mounts()
    bench.sh("true", Bind(source, "/m"), Overlay((source,), "/o", writable=True))
    bench.sh("true", root=bench.root(upper=False))
    assert host_mounts() == before


def test_mount_table_shows_no_host_path_of_layers(bench):
    table = bench.sh("grep ' / ' /proc/self/mountinfo").out
    assert str(bench.lower) not in table and str(bench.upper) not in table
