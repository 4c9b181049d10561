"""Functions the tests call through a privilege."""

from __future__ import annotations

import os


def read_all(files: list[int]) -> bytes:
    return os.pread(files[0], 1 << 16, 0)
