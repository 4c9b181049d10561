"""Which user and group ids an ordinary user may have in a user namespace, and writing them there.

Subordinate ids come from /etc/subuid and /etc/subgid (subuid(5)) and are written by newuidmap and newgidmap.
Where this process has CAP_SETUID already (root of a container), its own ids are mapped to themselves. Who has
none gets a namespace with a single id: then owners are recorded (``oneid``).
"""

from __future__ import annotations

import os
import subprocess

Extent = tuple[int, int, int]  # first id inside, first id outside, count


class NoIds(Exception):
    """This user has no subordinate ids, or the programs that map them are missing. ``hint`` mends it."""

    def __init__(self, summary: str, hint: str) -> None:
        super().__init__(summary)
        self.summary, self.hint = summary, hint


def subordinate(path: str, names: tuple[str, ...]) -> list[tuple[int, int]]:
    """The (start, count) ranges a subuid(5) file gives any of ``names``; broken lines are skipped."""
    ranges = []
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return []
    for line in lines:
        name, _, rest = line.strip().partition(":")
        start, _, count = rest.partition(":")
        if name in names and start.isdecimal() and count.isdecimal() and int(count) > 0:
            ranges.append((int(start), int(count)))
    return ranges


def extents(own: int, ranges: list[tuple[int, int]]) -> list[Extent]:
    """0 is ``own``, the ranges follow from 1 on, in the order of the file."""
    found, inside = [(0, own, 1)], 1
    for start, count in ranges:
        found.append((inside, start, count))
        inside += count
    return found


def plan() -> tuple[list[Extent], list[Extent]]:
    """The user and group maps for this user. NoIds when there are none."""
    uid, gid = os.geteuid(), os.getegid()
    if uid == 0:
        return _own_map("uid"), _own_map("gid")
    names = (_login(uid), str(uid))
    users, groups = (subordinate(f"/etc/{name}", names) for name in ("subuid", "subgid"))
    if not users or not groups:
        missing = "/etc/subuid" if not users else "/etc/subgid"
        raise NoIds(
            f"{missing} gives {names[0]} no subordinate ids, so files of other users cannot be made",
            f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {names[0]}",
        )
    for program in ("newuidmap", "newgidmap"):
        if find_program(program) is None:
            raise NoIds(
                f"the program {program} is missing, which maps subordinate ids",
                "sudo apt-get install uidmap (elsewhere the package is called shadow-utils or shadow-uidmap)",
            )
    return extents(uid, users), extents(gid, groups)


def single() -> tuple[list[Extent], list[Extent]]:
    """The maps of one id, which need no permission but that to make a user namespace."""
    return [(0, os.geteuid(), 1)], [(0, os.getegid(), 1)]


def _login(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _own_map(kind: str) -> list[Extent]:
    """What is mapped in the namespace this process is in, each id to itself."""
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        rows = [tuple(int(word) for word in line.split()) for line in file]
    return [(row[0], row[0], row[2]) for row in rows]


def find_program(name: str) -> str | None:
    for folder in [*os.environ.get("PATH", "").split(":"), "/usr/bin", "/bin", "/usr/sbin", "/sbin"]:
        path = os.path.join(folder, name)
        if folder.startswith("/") and os.access(path, os.X_OK):
            return path
    return None


def write(pid: int, users: list[Extent], groups: list[Extent]) -> None:
    """Write the maps of the fresh user namespace of process ``pid``; OSError says what was refused."""
    if (users, groups) == single():
        with open(f"/proc/{pid}/setgroups", "w", encoding="ascii") as file:
            file.write("deny")
    if os.geteuid() == 0 or (users, groups) == single():
        for kind, map_ in (("uid", users), ("gid", groups)):
            with open(f"/proc/{pid}/{kind}_map", "w", encoding="ascii") as file:
                file.write("".join(f"{a} {b} {c}\n" for a, b, c in map_))
        return
    for program, map_ in (("newuidmap", users), ("newgidmap", groups)):
        words = [str(number) for extent in map_ for number in extent]
        done = subprocess.run(
            [find_program(program) or program, str(pid), *words], capture_output=True, check=False
        )
        if done.returncode != 0:
            text = done.stderr.decode(errors="replace").strip()
            raise OSError(1, f"{program}: {text or f'status {done.returncode}'}")
