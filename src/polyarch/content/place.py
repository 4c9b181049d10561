"""Where the state directory is, for those who must not import more than that."""

from __future__ import annotations

import os

RECORDS = "unchanged"  # the folder of the records of builds, in the state directory


def state_root() -> str:
    """The state directory for this user and environment, absolute."""
    if root := os.environ.get("POLYARCH_ROOT"):
        return os.path.join(os.getcwd(), root)
    data = os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local", "share")
    return os.path.join(data, "polyarch")
