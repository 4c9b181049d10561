"""Importing without collecting garbage: modules are no garbage, and looking for some costs a tenth of it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """What is made in this block is never looked at by the collector again."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
