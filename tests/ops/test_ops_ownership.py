"""Owners, identities and modes of what a build makes."""

from __future__ import annotations

import pytest

from polyarch.errors import PolyarchError
from polyarch.executor.spec import Identity
from polyarch.ops import chmod
from polyarch.ops.owner import file_owner, process_identity

FILES = {
    "etc/passwd": b"root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n# no\nbroken\n",
    "etc/group": b"root:x:0:\napp:x:1001:\nextra:x:2000:app,other\n",
}


@pytest.mark.parametrize(
    ("spec", "owner"),
    [
        ("", (0, 0)),
        ("5", (5, 5)),
        ("5:6", (5, 6)),
        ("app", (1000, 1001)),
        ("app:extra", (1000, 2000)),
        ("app:7", (1000, 7)),
        (":extra", (0, 2000)),
    ],
)
def test_file_owner(spec: str, owner: tuple[int, int]) -> None:
    assert file_owner(spec, FILES.get) == owner


@pytest.mark.parametrize(
    ("spec", "identity", "home"),
    [
        ("", Identity(0, 0, (0,)), "/root"),
        ("app", Identity(1000, 1001, (1001, 2000)), "/home/app"),
        ("1000", Identity(1000, 1001, (1001, 2000)), "/home/app"),
        ("app:root", Identity(1000, 0, (0,)), "/home/app"),
        ("4242", Identity(4242, 0, (0,)), "/"),
        ("4242:7", Identity(4242, 7, (7,)), "/"),
    ],
)
def test_process_identity(spec: str, identity: Identity, home: str) -> None:
    assert process_identity(spec, FILES.get) == (identity, home)


def test_an_unknown_user_is_named() -> None:
    with pytest.raises(PolyarchError, match="unable to find user nobody"):
        process_identity("nobody", FILES.get)


@pytest.mark.parametrize(
    ("spec", "before", "directory", "after"),
    [
        ("", 0o640, False, 0o640),
        ("755", 0o640, False, 0o755),
        ("4755", 0o640, False, 0o4755),
        ("u+x", 0o640, False, 0o740),
        ("a-w", 0o666, False, 0o444),
        ("go=", 0o777, False, 0o700),
        ("u=rwX,go=rX", 0o600, False, 0o644),
        ("u=rwX,go=rX", 0o700, True, 0o755),
        ("+x", 0o644, False, 0o755),
        ("g=u", 0o640, False, 0o660),
        ("u+s,+t", 0o755, False, 0o5755),
    ],
)
def test_chmod(spec: str, before: int, directory: bool, after: int) -> None:
    assert oct(chmod.apply(spec, before, directory=directory)) == oct(after)
