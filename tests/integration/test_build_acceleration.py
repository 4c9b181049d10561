# ruff: noqa: E501  a step is a line
"""Emulated steps with native twins: the same trees as without, in a root of Debian's packages and one of busybox."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import polyarch
from polyarch.base.make import make
from polyarch.base.recipe import Recipe
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.errors import PolyarchError
from polyarch.executor.dispatch.graft import dispatcher, graft
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform
from polyarch.solver.events import VertexCompleted, VertexLog

DEBIAN = "accelerated/debian:1"
PACKAGES = "dash,coreutils,grep,sed,tar,gzip,findutils,diffutils,dpkg,bash,mawk,base-files"
FOREIGN = Platform.parse("linux/arm64" if platforms.host().architecture != "arm64" else "linux/amd64")

pytestmark = [pytest.mark.userns, pytest.mark.qemu]

# What a step may do, a line each; every one is run with twins and without.
STEPS = r"""
for i in 1 2 3 4 5 6 7 8 9 10; do /bin/true && echo $i; done > /count
mkdir -p /a/b/c && touch -d @86400 /a/b/c/file && chmod 640 /a/b/c/file && chown 12:34 /a/b
printf '%s %.3f %x\n' word 3.14159 255 > /printed
uname -m > /machine; arch >> /machine; dpkg --print-architecture >> /machine
seq 1 0.1 3 > /numbers; seq 5 | sort -rn >> /numbers; printf '1e3\n5\n2e1\n' | sort -g >> /numbers
echo $HOSTTYPE $MACHTYPE > /shell; bash -c 'echo $HOSTTYPE $MACHTYPE' >> /shell
tar -C /usr/share -cf /doc.tar base-files && tar -tvf /doc.tar | cut -c1-10 > /doc.list
tar -C / -czf /doc.tgz usr/share/base-files && mkdir /out && tar -xzf /doc.tgz -C /out && rm /doc.tgz
gzip -9n < /usr/share/base-files/profile > /profile.gz && gzip -dc /profile.gz | cmp - /usr/share/base-files/profile
find / -xdev -maxdepth 2 -type d -not -path '/proc*' | sort > /directories
find /usr/bin -type f -exec sha256sum {} + | sort -k2 > /sums
sed -e 's/root/toor/' -e '/nobody/d' /etc/passwd > /users 2>/dev/null || echo none > /users
cat /usr/bin/* | md5sum > /all.md5
grep -rl bin /usr/share/base-files | sort > /grepped
ln -s /a/b /link; ln /count /hard; cp -a /a /copy; mv /copy /moved; rm -rf /moved/b
cp --preserve=all /usr/bin/sort /sorted && /sorted < /count > /sorted.out
dd if=/dev/zero of=/sparse bs=1 count=0 seek=1M 2>/dev/null; truncate -s 5 /short; mkfifo /fifo
dpkg -l | wc -l > /installed; dpkg-query -W -f '${binary:Package} ${Architecture}\n' > /packages
dpkg -S /usr/bin/sort > /owner; dpkg-divert --list > /diverted; update-alternatives --get-selections > /alternatives
mkdir -p /p/DEBIAN && printf 'Package: mine\nVersion: 1\nArchitecture: all\nMaintainer: me <a@b>\nDescription: x\n' > /p/DEBIAN/control && mkdir -p /p/opt && echo x > /p/opt/x && SOURCE_DATE_EPOCH=1 dpkg-deb -b /p /mine.deb >/dev/null && rm -r /p
dpkg --force-all --unpack /mine.deb > /dev/null && dpkg -L mine > /mine.files
basename /x/y.z .z > /names; dirname /x/y >> /names; realpath /bin/../usr/lib >> /names; readlink /bin >> /names
echo a,b,c | tr , '\n' | tac | nl | head -2 | tail -1 | cut -f2 > /piped
yes | head -1000 | uniq -c > /yes; fold -w 3 /piped > /folded; split -l 2 /count /split-; paste /count /count > /pasted
env -i A=1 B=2 env | sort > /env; id > /id; whoami >> /id; stat -c '%a %u %g %s %F' /a/b /bin/ls >> /id
expr 6 '*' 7 > /expr; test -x /bin/sh && [ 1 -lt 2 ] && echo yes >> /expr; date -u -d @1700000000 +%FT%TZ >> /expr
sh -c 'exit 3'; echo $? > /status; sh -c 'kill -9 $$'; echo $? >> /status; false || echo failed >> /status
cmp /count /hard && diff -u /count /numbers > /diffed; comm -12 /count /numbers > /common; join /count /count > /joined
echo '#!/bin/sh\necho "$0" "$@"' > /script; chmod +x /script; /script one 'two three' > /script.out
install -D -m 4755 -o 5 -g 6 /usr/bin/id /opt/bin/id; chmod g+s /opt; mktemp -d /opt/XXXXXX > /dev/null; rm -rf /opt/??????
xargs -n 2 echo < /count > /xargs; find /a -print0 | xargs -0 ls -ld | cut -c1-10 > /ls; tee /t1 < /count > /t2
mawk '{ s += $1 } END { printf "%.6f %d\n", s / 3, s }' /count > /awk; base64 /profile.gz | base64 -d | cmp - /profile.gz
LC_ALL=C.UTF-8 sh -c 'echo äöü | wc -m' > /chars; printf 'b\nA\na\nB\n' | LC_ALL=C sort > /order
cd /a/b && pwd > /pwd && pwd -P >> /pwd; (cd /link && pwd -P) >> /pwd; nice -n 5 nice > /nice; nproc > /dev/null
""".strip().splitlines()


class Recorder:
    """How each step ran, and what it printed."""

    def __init__(self) -> None:
        self.how: dict[str, str] = {}
        self.emulation: list[float | None] = []
        self.output = b""

    def __call__(self, event: object) -> None:
        if isinstance(event, VertexCompleted) and " RUN " in event.name and not event.cached:
            self.how[event.name] = event.how
            self.emulation.append(event.emulation)
        if isinstance(event, VertexLog):
            self.output += event.data


@pytest.fixture(scope="session")
def debian_layout() -> Path:
    """An OCI layout with a small Debian for this machine and a foreign one, made once."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "polyarch-tests"
    store = State(cache / "debian-twins-1")
    try:
        Layout(store.content).resolve(DEBIAN)
    except PolyarchError:
        both = (platforms.host(), FOREIGN)
        include = tuple(PACKAGES.split(","))
        make(
            Recipe(name=DEBIAN, variant="extract", scripts="skip", include=include, platforms=both),
            state=store,
        )
    return store.content


@pytest.fixture
def debian(state: State, debian_layout: Path) -> str:
    shutil.copytree(debian_layout, state.content)
    return DEBIAN


def build(folder: Path, dockerfile: str, mode: str, **options: object) -> Recorder:
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(dockerfile)
    seen = Recorder()
    polyarch.build(folder, platforms=[str(FOREIGN)], accelerate=mode, progress=seen, **options)  # type: ignore[arg-type]
    return seen


def steps(base: str, lines: list[str]) -> str:
    return "\n".join([f"FROM {base}", *(f"RUN {line}" for line in lines)]) + "\n"


def test_trees_are_those_of_plain_emulation(debian, tmp_path):
    assert len(STEPS) >= 30
    seen = build(tmp_path / "c", steps(debian, STEPS), "strict")
    assert set(seen.how.values()) == {"accelerated"}


def test_what_is_dispatched_is_seen_to_run_natively(debian, tmp_path):
    look = "/bin/uname -m; cd /proc/self && exec readlink exe"
    plain = build(tmp_path / "c", steps(debian, [look]), "off", no_cache=True)
    fast = build(tmp_path / "c", steps(debian, [look]), "auto", no_cache=True)
    assert set(plain.how.values()) == {"emulated"} and b"/dev/.polyarch" not in plain.output
    assert b"/dev/.polyarch/native/usr/lib/" in fast.output  # the loader
    machine = {"arm64": b"aarch64", "amd64": b"x86_64"}[FOREIGN.architecture]
    assert machine in plain.output and machine in fast.output


def test_the_share_of_emulation_is_told(debian, tmp_path):
    twins = "for i in 1 2 3 4 5 6; do cat /usr/bin/* | sha256sum; done"
    none = "mawk 'BEGIN { for (i = 0; i < 9000000; i++) x += i % 7; print x }'"
    seen = build(tmp_path / "c", steps(debian, [twins, none]), "auto")
    native, emulated = seen.emulation
    assert native is not None and emulated is not None and native < 0.5 < emulated


def test_strict_refuses_what_differs(debian, tmp_path):
    differs = "cd /proc/self && exec readlink exe > /told"
    with pytest.raises(PolyarchError, match=r"another result .* with native twins") as caught:
        build(tmp_path / "c", steps(debian, [differs]), "strict")
    assert caught.value.reason == "twins-differ"
    assert "/told: another content" in caught.value.detail


@pytest.mark.parametrize(
    ("change", "later"),
    [
        ("cp /usr/bin/readlink /r && cp /r /usr/bin/readlink", True),  # the same bytes, which later is seen
        ("chmod 700 /usr/bin/readlink", True),
        ("{ cat /usr/bin/readlink; echo; } > /r && chmod +x /r && mv /r /usr/bin/readlink", False),
    ],
)
def test_a_program_that_was_changed_has_no_twin(debian, tmp_path, change, later):
    look = "cd /proc/self && exec readlink exe"
    same_step = build(tmp_path / "c", steps(debian, [f"{change}; {look}"]), "auto").output
    next_step = build(tmp_path / "c", steps(debian, [change, look]), "auto").output
    assert b"native" not in same_step
    assert (b"native" in next_step) is later


@pytest.mark.parametrize("variable", ["LD_PRELOAD=/nothing.so", "LD_LIBRARY_PATH=/x", "QEMU_STRACE="])
def test_an_environment_that_changes_programs_is_emulated(debian, tmp_path, variable):
    look = f"cd /proc/self && {variable} exec readlink exe"
    assert b"native" not in build(tmp_path / "c", steps(debian, [look]), "auto").output


def test_works_behind_chroot_and_for_other_users(debian, tmp_path):
    lines = [
        "mkdir /jail && cp -a /usr /jail/ && ln -s usr/bin /jail/bin && ln -s usr/lib /jail/lib",
        "if [ -e /usr/lib64 ]; then ln -s usr/lib64 /jail/lib64; fi; chroot /jail /bin/ls / && chroot /jail uname -m",
    ]
    seen = build(
        tmp_path / "c", steps(debian, lines) + "USER 1234:99\nRUN id -u; ls /usr/bin | wc -l\n", "auto"
    )
    assert b"1234" in seen.output and b"usr" in seen.output


def test_nothing_of_it_is_in_a_layer(debian, tmp_path):
    build(
        tmp_path / "c",
        steps(debian, ["ls /dev/.polyarch > /seen; ls -d /dev/* > /devices"]),
        "auto",
        tags=["n:1"],
    )
    outcome = polyarch.build(
        tmp_path / "c", platforms=[str(FOREIGN)], outputs=[f"type=local,dest={tmp_path / 'out'}"]
    )
    assert (tmp_path / "out/seen").read_text().split() == [
        "applets", "files", "libraries", "loader", "native", "patched"
    ]  # fmt: skip
    assert not (tmp_path / "out/dev/.polyarch").exists()
    assert outcome.platforms[0].how == "emulated"


def test_a_shell_that_runs_applets_itself_is_no_twin(state, busybox, tmp_path):
    """Debian's static busybox finds its own applets before those in PATH: its sh must not be native."""
    record = (
        "mkdir -p /lib/apk/db && { echo P:busybox; echo V:1; echo F:bin; echo R:busybox; "
        "echo Z:Q1$(sha1sum /bin/busybox | cut -c1-40 | xxd -r -p | base64); } > /lib/apk/db/installed"
    )
    (tmp_path / "base").mkdir()
    (tmp_path / "base/Dockerfile").write_text(f"FROM {busybox}\nRUN {record}\n")
    both = [str(platforms.host()), str(FOREIGN)]
    polyarch.build(tmp_path / "base", platforms=both, tags=["apk:1"], accelerate="off")
    lines = ["uname -m; cd /proc/$$ && /bin/readlink exe"]
    seen = build(tmp_path / "c", steps("apk:1", lines), "auto")
    machine = {"arm64": b"aarch64", "amd64": b"x86_64"}[FOREIGN.architecture]
    assert machine in seen.output and b"native" not in seen.output


def test_no_twins_without_a_package_database(state, busybox, tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base/Dockerfile").write_text(f"FROM scratch\nCOPY --from={busybox} /bin /bin\n")
    polyarch.build(tmp_path / "base", platforms=[str(platforms.host()), str(FOREIGN)], tags=["bare:1"])
    seen = build(tmp_path / "c", steps("bare:1", ["ls / > /x"]), "auto")
    assert set(seen.how.values()) == {"emulated"}


@pytest.mark.parametrize("content", [b"", b"\x7fELF" + bytes(60), b"#!/bin/sh\n" * 30])
def test_only_programs_can_be_grafted(content):
    code = dispatcher()
    assert code is not None
    with pytest.raises(ValueError):
        graft(content, code)
