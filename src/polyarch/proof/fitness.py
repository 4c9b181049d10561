"""Which machine code runs on which platform, and what a path says about the code that lies there."""

from __future__ import annotations

import re

from polyarch.oci.platform import Platform

# Besides its own programs, what a platform's kernel runs in compatibility mode. Not x32: hardly any kernel of
# today has it switched on.
_ALSO = {
    "amd64": ("386", "486"),
    "386": ("486",),
    "s390x": ("s390",),
    "ppc64": ("ppc",),
    "mips64": ("mips", "mipsn32"),
    "mips64le": ("mipsle", "mipsn32le"),
    "sparc64": ("sparc", "sparc32plus"),
}
_WINDOWS = {
    "amd64": ("amd64", "386"),
    "386": ("386",),
    "arm64": ("arm64", "arm64ec", "arm", "arm/v7", "386"),
    "arm": ("arm", "arm/v7"),
}
_TRIPLETS = {
    "amd64": "x86_64-linux-gnu",
    "386": "i386-linux-gnu",
    "arm64": "aarch64-linux-gnu",
    "arm": "arm-linux-gnueabihf",
    "riscv64": "riscv64-linux-gnu",
    "s390x": "s390x-linux-gnu",
    "ppc64le": "powerpc64le-linux-gnu",
    "ppc64": "powerpc64-linux-gnu",
    "loong64": "loongarch64-linux-gnu",
    "mips64le": "mips64el-linux-gnuabi64",
    "mipsle": "mipsel-linux-gnu",
}
# Machines that no container platform is: microcontrollers, graphics cards, virtual machines.
DEVICES = frozenset(
    "avr xtensa msp430 8051 cuda amdgpu bpf cris csky sh m68k parisc alpha ia64 sparc riscv32 loong32".split()
)
_NAMES = {
    "amd64": ("amd64", "x86_64", "x86-64", "x8664"),
    "386": ("i386", "i486", "i586", "i686"),
    "486": ("i386", "i486"),
    "x32": ("gnux32", "libx32"),
    "arm64": ("arm64", "aarch64"),
    "arm": ("armv5", "armv6", "armv7", "armhf", "armel", "arm32", "arm-", "arm_", "-arm", "_arm", "/arm/"),
    "riscv64": ("riscv64", "rv64"),
    "riscv32": ("riscv32", "rv32"),
    "s390x": ("s390x",),
    "ppc64le": ("ppc64le", "ppc64el", "powerpc64le"),
    "ppc64": ("ppc64", "powerpc64"),
    "ppc": ("powerpc", "ppc"),
    "loong64": ("loong64", "loongarch64"),
    "sparc64": ("sparc64",),
}
_SHORT = {
    "amd64": ("x64", "linux64"),
    "386": ("x86", "386", "ia32", "lib32", "linux32", "32"),
    "arm": ("arm",),
    "arm64": ("armv8",),
    "x32": ("x32",),
}


def runs_on(machine: str, platform: Platform) -> bool:
    """Whether programs for ``machine`` (``amd64``, ``arm/v7``: what stands behind the colon in
    ``layer.machine``) run natively on ``platform``. A machine without a name runs nowhere.

    Hard-float ARM code is let pass on arm/v6: the header does not tell v6 from v7.
    """
    architecture, _, variant = machine.partition("/")
    if architecture == "arm":
        if platform.architecture == "arm64":
            return True
        if platform.architecture != "arm":
            return False
        return not (platform.variant == "v5" and variant == "v7")
    wanted = platform.architecture
    return architecture == wanted or architecture in _ALSO.get(wanted, ())


def runs_on_windows(machine: str, platform: Platform) -> bool:
    """The same for PE programs and Windows."""
    return machine in _WINDOWS.get(platform.architecture, (platform.architecture,))


def loader_folders(platform: Platform) -> tuple[str, ...]:
    """Where the platform's loader looks for libraries without being told."""
    folders = ["lib", "usr/lib", "usr/local/lib"]
    if platform.architecture not in ("386", "arm", "mips", "mipsle", "ppc", "s390"):
        folders += ["lib64", "usr/lib64", "usr/local/lib64"]
    triplet = _TRIPLETS.get(platform.architecture, "")
    if platform.architecture == "arm" and platform.variant in ("v5", "v6"):
        folders += ["lib/arm-linux-gnueabi", "usr/lib/arm-linux-gnueabi"]
    if triplet:
        folders += [f"lib/{triplet}", f"usr/lib/{triplet}", f"usr/local/lib/{triplet}"]
    return tuple(folders)


def names_machine(path: str, machine: str) -> bool:
    """Whether ``path`` says itself that what lies there is for ``machine``: nobody put it there unawares."""
    architecture = machine.partition("/")[0]
    lowered = "/" + path.lower()
    if any(name in lowered for name in _NAMES.get(architecture, (architecture,))):
        return True
    words = set(re.split(r"[^a-z0-9]+", lowered))
    return any(name in words for name in _SHORT.get(architecture, ()))
