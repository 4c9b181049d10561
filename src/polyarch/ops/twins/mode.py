"""Whether emulated steps may run programs as their native twins."""

from typing import Literal

Mode = Literal[
    "auto", "off", "strict"
]  # strict: every step is run with twins and without, and must be the same
