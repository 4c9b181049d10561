"""Who owns a file: ``user[:group]`` by name or number, looked up in a root filesystem's own files."""

from __future__ import annotations

from collections.abc import Callable

from polyarch.errors import PolyarchError
from polyarch.executor.spec import Identity
from polyarch.layer.rootfs import Rootfs

Reader = Callable[[str], bytes | None]  # path inside the root → content, None when there is none

_LINKED = "; COPY --link knows numbers only, since it looks at nothing of the image below"


def _rows(content: bytes | None) -> list[list[str]]:
    text = (content or b"").decode("utf-8", "surrogateescape")
    return [line.split(":") for line in text.splitlines() if line and not line.startswith("#")]


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _file_number(text: str) -> int | None:
    return 0 if text == "root" else _number(text)


def file_owner(spec: str, read: Reader) -> tuple[int, int]:
    """The uid and gid of ``--chown`` or of WORKDIR's user. A number alone is both user and group; root is 0
    without being looked up, so that an image need not have an /etc/passwd."""
    if not spec:
        return 0, 0
    user, _, group = spec.partition(":")
    uid, gid = 0, 0
    number = _file_number(user)
    if number is not None:
        uid = gid = number
    elif user:
        row = _find(_rows(read("etc/passwd")), user, 4)
        if row is None:
            raise _unknown("user", user, "passwd", _LINKED)
        uid, gid = int(row[2]), int(row[3])
    if group:
        number = _file_number(group)
        if number is None:
            row = _find(_rows(read("etc/group")), group, 3)
            if row is None:
                raise _unknown("group", group, "group", _LINKED)
            number = int(row[2])
        gid = number
    return uid, gid


def process_identity(spec: str, read: Reader) -> tuple[Identity, str]:
    """Who a process runs as, and its home directory, of an image's USER (docker's rules).

    A user's number needs no entry in /etc/passwd; without a group the user's own and all groups that list
    the user apply. The group itself is among the supplementary ones, or a set-group-id program could drop it
    (CVE-2023-25173).
    """
    user, _, group = (spec or "0").partition(":")
    passwd = _rows(read("etc/passwd"))
    groups = _rows(read("etc/group"))
    number = _number(user)
    row = _find(passwd, user, 4)
    if row is None and number is not None:
        row = next((r for r in passwd if len(r) > 3 and r[2] == user), None)
    if row is None and number is None:
        raise _unknown("user", user, "passwd")
    uid = int(row[2]) if row is not None else number or 0
    gid = int(row[3]) if row is not None else 0
    home = row[5] if row is not None and len(row) > 5 and row[5] else "/"
    extra: tuple[int, ...] = ()
    if group:
        gid_number = _number(group)
        if gid_number is None:
            found = _find(groups, group, 3)
            if found is None:
                raise _unknown("group", group, "group")
            gid_number = int(found[2])
        gid = gid_number
    elif row is not None:
        extra = tuple(
            int(r[2]) for r in groups if len(r) > 3 and r[2].isdigit() and row[0] in r[3].split(",")
        )
    return Identity(uid, gid, tuple(dict.fromkeys((gid, *extra)))), home


def _find(rows: list[list[str]], name: str, columns: int) -> list[str] | None:
    for row in rows:
        if len(row) >= columns and row[0] == name and row[2].isdigit():
            return row
    return None


def _unknown(what: str, name: str, file: str, more: str = "") -> PolyarchError:
    return PolyarchError(
        f"unable to find {what} {name}: no matching entries in /etc/{file} of the image",
        hint=f"create the {what} in an earlier RUN, or give its number{more}",
        reason=f"unknown-{what}",
    )


def link_owners(base: Rootfs) -> dict[str, tuple[int, int]]:
    """The owners of symbolic links and fifos that are not root's, by path: on disk nothing may tell them."""
    return {
        entry.path: (entry.uid, entry.gid)
        for entry in base.walk()
        if entry.type in ("symlink", "fifo") and (entry.uid or entry.gid)
    }
