"""What an error of the operating system means to the user."""

from __future__ import annotations

import errno

from polyarch.errors import PolyarchError

_SPACE = "free some space, or set POLYARCH_ROOT to a place with more"
_MEANINGS = {
    errno.ENOSPC: ("no-space", "no space left on the device", _SPACE),
    errno.EDQUOT: ("no-space", "the disk quota is used up", _SPACE),
    errno.EACCES: ("permission", "permission denied", "check who owns it, and its mode"),
    errno.EROFS: ("read-only", "the file system is read-only", "set POLYARCH_ROOT to another place"),
    errno.EMFILE: ("too-many-files", "too many open files", "raise the limit: ulimit -n 4096"),
}


def explain(error: OSError) -> PolyarchError:
    """A PolyarchError that names the object and the way out."""
    reason, meaning, hint = _MEANINGS.get(error.errno or 0, ("system", error.strerror or str(error), ""))
    name = f"{error.filename}: " if error.filename is not None else ""
    return PolyarchError(f"{name}{meaning}", hint=hint, reason=reason)
