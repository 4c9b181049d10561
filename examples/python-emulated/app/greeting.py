"""Says hello, where it runs, and where it was built."""

from __future__ import annotations

import pathlib
import platform
import struct
import sys


def greeting(who: str, machine: str, built_on: str) -> str:
    """One line for ``who``."""
    bits = struct.calcsize("P") * 8
    version = platform.python_version()
    return f"hello {who}, from Python {version} ({bits} bits) on {machine}, built on {built_on}"


def main() -> None:
    who = " ".join(sys.argv[1:]) or "world"
    built_on = pathlib.Path(__file__).with_name("built-on").read_text().strip()
    print(greeting(who, platform.machine(), built_on))


if __name__ == "__main__":
    main()
