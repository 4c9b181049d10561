"""Which programs may run as their native twin, and which never.

What is named here computes the same on every 64-bit little-endian processor. Left out on purpose is what
tells the architecture (uname, arch, bash with its HOSTTYPE, perl with its Config, df -h of another libc),
what computes in long double or with the processor's own mathematics (printf, seq, numfmt, od, awk), and what
loads code into itself (perl, python, tar's and env's friends that preload).
"""

from __future__ import annotations

from typing import NamedTuple


class Tool(NamedTuple):
    """``avoid`` is a letter that no argument may contain ("" for none): what it stands for is emulated.
    ``patch`` says that the program knows its architecture and must be told the other."""

    avoid: str = ""
    patch: bool = False


_PLAIN = """
    [ b2sum base32 base64 basename basenc cat chgrp chmod chown cksum cmp comm cp csplit cut date dd diff
    diff3 dir dircolors dirname dpkg-deb dpkg-split du dash echo egrep env expand expr false fgrep find fmt
    fold gpgv grep groups gzip head id install join link ln logname ls lzmainfo md5sum mkdir mkfifo mknod
    mktemp mv nice nl nohup paste pathchk pr printenv ptx pwd readlink realpath rm rmdir sdiff sed sha1sum
    sha224sum sha256sum sha384sum sha512sum shred shuf sleep split stat stty sum sync tac tail tar tee test
    timeout touch tr true truncate tsort tty unexpand uniq unlink vdir wc who whoami xargs xz yes zstd bzip2
    start-stop-daemon run-parts tempfile which update-alternatives
"""

_SPECIAL = {
    "sort": Tool(avoid="g"),  # --general-numeric-sort compares in long double
    "dpkg": Tool(patch=True),
    "dpkg-query": Tool(patch=True),
    "dpkg-divert": Tool(patch=True),
    "dpkg-statoverride": Tool(patch=True),
    "dpkg-trigger": Tool(patch=True),
}

TOOLS: dict[str, Tool] = dict.fromkeys(_PLAIN.split(), Tool()) | _SPECIAL

# Applets of busybox. Its shell runs nothing of these inside itself, which is checked (``prepare``).
APPLETS: frozenset[str] = frozenset(
    """
    [ ash base64 basename bunzip2 bzcat bzip2 cat chgrp chmod chown cksum cmp comm cp cpio cut date dd diff
    dirname du echo egrep env expand expr false fgrep find flock fold fsync getopt grep groups gunzip gzip
    head hexdump id install link ln logname ls lzcat lzma md5sum mkdir mkfifo mknod mktemp mv nice nl nohup
    paste printenv pwd readlink realpath rev rm rmdir sed setsid sh sha1sum sha256sum sha3sum sha512sum shred
    shuf sleep sort split stat sum sync tac tail tar tee test timeout touch tr true truncate tty unexpand
    uniq unlink unlzma unxz unzip uudecode uuencode wc which who whoami xargs xxd xzcat yes zcat
    """.split()
)

FOLDERS = ("bin", "sbin", "usr/bin", "usr/sbin")
