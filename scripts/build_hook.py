"""Hatch's build hook: compiles the exec dispatcher for the processor the wheel is built on.

Without a C compiler the wheel is built all the same; emulated steps then run without native twins.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run by hand: python scripts/build_hook.py
    BuildHookInterface = object

_FOLDER = Path("src/polyarch/executor/dispatch")
_FLAGS = """
    -std=c11 -O2 -Wall -Wextra -ffreestanding -fno-builtin -fno-stack-protector -fPIC -fvisibility=hidden
    -fno-asynchronous-unwind-tables -fno-unwind-tables -fno-tree-loop-distribute-patterns -nostdlib -static
    -Wl,--build-id=none
""".split()
_OWN_FLAGS = {"x86_64": ["-fcf-protection=none", "-mno-red-zone"], "aarch64": ["-mbranch-protection=none"]}


def compile_dispatcher(root: Path, machine: str) -> Path | None:
    """The dispatcher for ``machine``, freshly compiled; None (and a word on standard error) without one."""
    if machine not in _OWN_FLAGS:
        return None
    prefix = "" if machine == platform.machine() else f"{machine}-linux-gnu-"
    compiler = shlex.split(os.environ.get("CC", "")) if not prefix else []
    if not compiler:
        names = (prefix + name for name in ("gcc", "cc", "clang"))
        found = next((path for name in names if (path := shutil.which(name))), None)
        if found is None:
            print("polyarch: no C compiler: emulated steps will have no native twins", file=sys.stderr)
            return None
        compiler = [found]
    folder = root / _FOLDER
    target = folder / f"dispatch-{machine}.bin"
    with tempfile.TemporaryDirectory() as place:
        linked, flat = f"{place}/linked", f"{place}/flat"
        script = f"-Wl,-T,{folder / 'dispatch.lds'}"
        steps = (
            [*compiler, *_FLAGS, *_OWN_FLAGS[machine], script, "-o", linked, str(folder / "dispatch.c")],
            [shutil.which(f"{prefix}objcopy") or "objcopy", "-O", "binary", linked, flat],
        )
        for command in steps:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"polyarch: the dispatcher was not built: {done.stderr.strip()}", file=sys.stderr)
                return None
        temporary = target.with_suffix(f".{os.getpid()}")
        shutil.copyfile(flat, temporary)
    temporary.replace(target)
    return target


class DispatcherHook(BuildHookInterface):  # type: ignore[misc]  # hatchling is there only while it builds
    """Adds the compiled dispatcher to the wheel, which then belongs to one processor."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        target = compile_dispatcher(Path(self.root), platform.machine())
        if target is not None and version != "editable":
            build_data["artifacts"].append(str(target.relative_to(self.root)))
            build_data["pure_python"] = False
            build_data["tag"] = (
                f"py3-none-manylinux_2_17_{platform.machine()}.musllinux_1_1_{platform.machine()}"
            )


if __name__ == "__main__":
    print(compile_dispatcher(Path(__file__).resolve().parents[1], (sys.argv[1:] or [platform.machine()])[0]))
