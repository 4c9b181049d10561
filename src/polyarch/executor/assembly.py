"""Puts a step's root filesystem together inside its mount namespace: /proc, /dev, /sys, files, mounts.

Every path that an image decides is resolved inside the image (openat2, RESOLVE_IN_ROOT), never by the host.
Mount points that are missing are made and removed again, so that the layer shows no trace of them.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from polyarch.executor import syscalls
from polyarch.layer import owners

MASKED = (
    "proc/acpi", "proc/asound", "proc/interrupts", "proc/kcore", "proc/keys", "proc/latency_stats",
    "proc/sched_debug", "proc/scsi", "proc/timer_list", "proc/timer_stats", "sys/firmware",
    "sys/devices/virtual/powercap", "sys/fs/cgroup", "sys/kernel/debug", "sys/kernel/tracing",
    "sys/kernel/security", "sys/fs/bpf",
)  # fmt: skip
READ_ONLY = ("proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger")
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_IN_ROOT = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
_SAFE = syscalls.ATTR_NOSUID | syscalls.ATTR_NODEV
_STRICT = _SAFE | syscalls.ATTR_NOEXEC

Made = tuple[int, str, bool]  # descriptor of the folder, name, is it a directory


class Assembly:
    """The root filesystem at ``place/root``, while it is put together and when it is taken apart."""

    def __init__(self, place: str, root_tree: int) -> None:
        private = syscalls.new_mount("tmpfs", [("mode", "700")], _SAFE)
        syscalls.move_mount(private, place)
        os.close(private)
        self.place = place
        self.path = os.path.join(place, "root")
        os.mkdir(self.path)
        syscalls.move_mount(root_tree, self.path)
        self.root = os.open(self.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.made: list[Made] = []
        self.mounted: list[int] = []  # mounts that may cover mount points that were made
        os.mkdir(os.path.join(place, "empty"), 0o755)
        self._files = 0

    # --- resolving ------------------------------------------------------------------------------------------

    def system(self, name: str) -> str:
        """The path of a top directory (proc, sys, dev), made if missing; a symlink there is an error."""
        try:
            found = syscalls.openat2(
                self.root,
                name,
                os.O_PATH | os.O_DIRECTORY,
                syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_BENEATH,
            )
            os.close(found)
        except FileNotFoundError:
            parent = syscalls.openat2(self.root, ".", os.O_RDONLY | os.O_DIRECTORY, _IN_ROOT)
            self._make(parent, name, directory=True)
        except OSError as error:
            raise OSError(error.errno, f"/{name} of the image is not a directory") from None
        return os.path.join(self.path, name)

    def target(self, path: str, *, directory: bool) -> int:
        """An O_PATH descriptor of the mount point ``path``, made if missing with its parents."""
        try:
            return syscalls.openat2(self.root, path, os.O_PATH, _IN_ROOT)
        except FileNotFoundError:
            return self._walk(path, directory=directory)

    def _walk(self, path: str, *, directory: bool) -> int:
        """Resolve component by component, symlinks inside the root, and make what is not there."""
        todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
        done: list[str] = []
        links = 0
        while todo:
            part = todo.pop()
            if part == "..":
                done = done[:-1]
                continue
            here = "/".join([*done, part])
            try:
                found = syscalls.openat2(self.root, here, os.O_PATH | os.O_NOFOLLOW, _IN_ROOT)
            except FileNotFoundError:
                parent = syscalls.openat2(self.root, "/".join(done), os.O_RDONLY | os.O_DIRECTORY, _IN_ROOT)
                self._make(parent, part, directory=directory or bool(todo))
                done.append(part)
                continue
            status = os.fstat(found)
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > 40:
                    raise OSError(errno.ELOOP, f"mount point {path}: too many symbolic links")
                link = os.readlink("", dir_fd=found)
                if link.startswith("/"):
                    done = []
                todo.extend(p for p in reversed(link.split("/")) if p not in ("", "."))
            else:
                done.append(part)
            os.close(found)
        return syscalls.openat2(self.root, "/".join(done), os.O_PATH, _IN_ROOT)

    def _make(self, parent: int, name: str, *, directory: bool) -> None:
        """One missing mount point; the folder keeps its times."""
        times = os.fstat(parent)
        if directory:
            os.mkdir(name, 0o755, dir_fd=parent)
        else:
            os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644, dir_fd=parent))
        _set_times(parent, times)
        self.made.append((parent, name, directory))

    # --- mounting -------------------------------------------------------------------------------------------

    def attach(self, tree: int, target: str) -> None:
        """Mount at a path that no image decides."""
        syscalls.move_mount(tree, target)
        os.close(tree)

    def attach_system(self, tree: int, name: str) -> str:
        """Mount at a top directory; returns its path."""
        path = self.system(name)
        syscalls.move_mount(tree, path)
        self.mounted.append(tree)
        return path

    def attach_in_image(self, tree: int, path: str, *, directory: bool) -> None:
        """Mount at a path of the image."""
        target = self.target(path, directory=directory)
        try:
            if stat.S_ISDIR(os.fstat(target).st_mode) != directory:
                kinds = ("a directory", "a file")
                raise OSError(
                    errno.ENOTDIR, f"mount point {path} is {kinds[directory]}, not {kinds[not directory]}"
                )
            syscalls.move_mount(tree, "", target)
            self.mounted.append(tree)
        finally:
            os.close(target)

    def private_file(self, content: bytes, uid: int, gid: int, mode: int) -> int:
        """A detached read-only mount of a file in memory."""
        self._files += 1
        path = os.path.join(self.place, f"file{self._files}")
        file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(content)
            while view:
                view = view[os.write(file, view) :]
            give(file, uid, gid)
            os.fchmod(file, mode)
        finally:
            os.close(file)
        tree = syscalls.open_tree(path)
        syscalls.mount_setattr(tree, _STRICT | syscalls.ATTR_RDONLY)
        return tree

    def part(self, tree: int, path: str, name: str) -> int:
        """The file or directory ``path`` inside the detached mount ``tree``, as a detached mount."""
        if not path.strip("/"):
            return tree
        folder = os.path.join(self.place, f"tree{name}")
        os.mkdir(folder)
        syscalls.move_mount(tree, folder)
        found = syscalls.openat2(tree, path, os.O_PATH, _IN_ROOT)
        try:
            return syscalls.open_tree("", found)
        finally:
            os.close(found)
            os.close(tree)

    # --- the parts of a root filesystem ---------------------------------------------------------------------

    def proc(self) -> None:
        """A /proc of this pid namespace; under a masked outer /proc the kernel allows only that one."""
        try:
            tree = syscalls.new_mount("proc", [], _STRICT)
        except PermissionError:
            tree = syscalls.open_tree("/proc", recursive=True)
        self.attach_system(tree, "proc")

    def dev(self, shm_size: int) -> None:
        """/dev: the harmless devices of the host, terminals, shared memory and message queues."""
        tree = syscalls.new_mount("tmpfs", [("mode", "755"), ("size", "65536k")], _SAFE)
        dev = self.attach_system(tree, "dev")
        for name in _DEVICES:
            try:
                tree = syscalls.open_tree(f"/dev/{name}")
            except FileNotFoundError:
                continue
            os.close(os.open(f"{dev}/{name}", os.O_CREAT | os.O_WRONLY, 0o666))
            self.attach(tree, f"{dev}/{name}")
        for name in ("pts", "shm", "mqueue"):
            os.mkdir(f"{dev}/{name}", 0o755)
        options: list[tuple[str, str | None]] = [("ptmxmode", "0666"), ("mode", "0620")]
        try:
            pts = syscalls.new_mount(
                "devpts", [*options, ("gid", "5")], syscalls.ATTR_NOSUID | syscalls.ATTR_NOEXEC
            )
        except OSError:  # group 5 is not mapped
            pts = syscalls.new_mount("devpts", options, syscalls.ATTR_NOSUID | syscalls.ATTR_NOEXEC)
        self.attach(pts, f"{dev}/pts")
        self.attach(
            syscalls.new_mount("tmpfs", [("mode", "1777"), ("size", str(shm_size))], _STRICT), f"{dev}/shm"
        )
        try:
            self.attach(syscalls.new_mount("mqueue", [], _STRICT), f"{dev}/mqueue")
        except OSError:
            pass  # a kernel without message queues
        for name, link in (
            ("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2"), ("core", "/proc/kcore"),
        ):  # fmt: skip
            if name != "core" or os.path.lexists(f"{self.path}{link}"):
                os.symlink(link, f"{dev}/{name}")

    def terminal(self, uid: int) -> tuple[int, str]:
        """A new pseudo-terminal of the step's own: its master, and its path inside; also /dev/console."""
        import fcntl

        master = os.open(f"{self.path}/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        fcntl.ioctl(master, 0x40045431, struct.pack("=i", 0))  # TIOCSPTLCK
        (number,) = struct.unpack("=I", fcntl.ioctl(master, 0x80045430, bytes(4)))  # TIOCGPTN
        slave = f"{self.path}/dev/pts/{number}"
        if not owners.recorded():
            os.chown(slave, uid, -1)
        console = f"{self.path}/dev/console"
        os.close(os.open(console, os.O_CREAT | os.O_WRONLY, 0o600))
        self.attach(syscalls.open_tree(slave), console)
        return master, f"/dev/pts/{number}"

    def mask(self) -> None:
        """Hide and protect what docker hides and protects of /proc and /sys."""
        for name in MASKED:
            path = os.path.join(self.path, name)
            try:
                directory = stat.S_ISDIR(os.lstat(path).st_mode)
            except OSError:
                continue
            tree = syscalls.open_tree(os.path.join(self.place, "empty") if directory else "/dev/null")
            if directory:
                syscalls.mount_setattr(tree, _STRICT | syscalls.ATTR_RDONLY)
            self.attach(tree, path)
        for name in READ_ONLY:
            path = os.path.join(self.path, name)
            try:
                tree = syscalls.open_tree(path)
            except FileNotFoundError:
                continue
            syscalls.mount_setattr(tree, _STRICT | syscalls.ATTR_RDONLY)
            self.attach(tree, path)

    def directory(self, path: str) -> None:
        """Make the working directory as runtimes do; it stays."""
        before = len(self.made)
        try:
            os.close(self.target(path, directory=True))
        except OSError:
            return  # the process says what is wrong with it
        for parent, _, _ in self.made[before:]:
            os.close(parent)
        del self.made[before:]

    def take_apart(self) -> None:
        """After the process: unmount what covers mount points that were made, and remove those."""
        if not self.made:
            return
        for tree in self.mounted[3:] + self.mounted[:3]:  # /proc, which names the others, at the end
            try:
                syscalls.umount(f"/proc/self/fd/{tree}", syscalls.MNT_DETACH)
            except OSError:
                pass  # already gone with the one it was in
        for parent, name, directory in reversed(self.made):
            try:
                times = os.fstat(parent)
                if directory:
                    os.rmdir(name, dir_fd=parent)
                elif os.stat(name, dir_fd=parent, follow_symlinks=False).st_size == 0:
                    os.unlink(name, dir_fd=parent)
                _set_times(parent, times)
            except OSError:
                pass  # the step put something there, which is then the step's


def give(file: int, uid: int, gid: int) -> None:
    """Give a new file away, or record that it is, as far as its file system can."""
    if not owners.recorded():
        os.fchown(file, uid, gid)
        return
    try:
        owners.write(file, uid, gid)
    except OSError:
        pass  # a tmpfs before Linux 6.6


def _set_times(folder: int, status: os.stat_result) -> None:
    os.utime(folder, ns=(status.st_atime_ns, status.st_mtime_ns))
