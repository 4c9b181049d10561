"""Programs of other platforms, with tiny programs made by code and with whole ones from Debian."""

from __future__ import annotations

import dataclasses
import os
import shutil
import stat
import struct

import executor_debian
import pytest
from executor_applets import APPLETS

from polyarch.content.state import State
from polyarch.errors import UnsupportedError
from polyarch.executor import binfmt, machines
from polyarch.executor.emulator import Emulators
from polyarch.executor.sandbox import Sandbox
from polyarch.executor.spec import Identity, Process, RootFilesystem
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform


def foreign(emulators: Emulators) -> list[Platform]:
    """A platform of every emulator found that does not run natively."""
    found = [Platform(os="linux", architecture=e.architecture).normalized() for e in emulators.found]
    return [platform for platform in found if emulators.strategy(platform).kind == "emulated"]


class TestMachines:
    def test_programs_are_told_apart(self):
        programs = {machine.program()[:20] for machine in machines.MACHINES}
        assert len(programs) == len(machines.MACHINES)
        for machine in machines.MACHINES:
            assert machines.identify(machine.program()) is machine

    @pytest.mark.parametrize(
        "header", [b"", b"\x7fELF", b"#!/bin/sh\n" * 9, b"\x7fELF" + bytes(60), bytes(64)]
    )
    def test_no_program(self, header):
        assert machines.identify(header) is None
        assert machines.interpreter(header) == ""

    def test_loader(self):
        import sys

        with open(os.path.realpath(sys.executable), "rb") as file:
            assert "ld-" in machines.interpreter(file.read(4096))
        assert machines.interpreter(machines.MACHINES[0].program()) == ""

    def test_position_independent_programs_are_the_same_machine(self):
        for machine in machines.MACHINES:
            order = "<" if machine.little else ">"
            program = bytearray(machine.program())
            struct.pack_into(order + "H", program, 16, 3)
            assert machines.identify(bytes(program)) is machine

    def test_every_oci_architecture_once(self):
        names = [machine.architecture for machine in machines.MACHINES]
        assert len(set(names)) == len(names)
        assert set(names) <= platforms.KNOWN_ARCHITECTURES


class TestDiscovery:
    def test_names_of_distributions(self, tmp_path):
        host = machines.find(platforms.host().architecture)
        assert host is not None
        for name in ("qemu-aarch64-static", "qemu-s390x", "riscv64-binfmt-P"):
            (tmp_path / name).write_bytes(host.program())
            (tmp_path / name).chmod(0o755)
        found = Emulators.discover({"POLYARCH_QEMU_PATH": str(tmp_path), "PATH": ""})
        ours = {e.architecture for e in found.found if e.path.parent == tmp_path}
        assert ours == {"arm64", "s390x", "riscv64"}

    def test_what_is_of_no_use_is_said(self, tmp_path, monkeypatch):
        import sys

        monkeypatch.setattr("polyarch.executor.emulator._FOLDERS", ())
        shutil.copy(os.path.realpath(sys.executable), tmp_path / "qemu-aarch64")
        (tmp_path / "qemu-s390x").write_text("#!/bin/sh\n")
        found = Emulators.discover({"PATH": str(tmp_path)})
        assert found.found == ()
        assert "dynamically linked" in found.rejected["arm64"]
        assert "not a program" in found.rejected["s390x"]
        strategy = found.strategy(Platform(os="linux", architecture="s390x"))
        assert strategy.kind == "unsupported" and strategy.hint

    def test_nothing_found(self, monkeypatch):
        monkeypatch.setattr("polyarch.executor.emulator._FOLDERS", ())
        found = Emulators.discover({"PATH": ""})
        platform = Platform(os="linux", architecture="riscv64")
        if any(handler.serves(machines.find("riscv64")) for handler in binfmt.host_handlers()):
            pytest.skip("the host has a handler for riscv64")
        with pytest.raises(UnsupportedError, match="linux/riscv64") as caught:
            found.require(platform)
        assert "install" in caught.value.hint and caught.value.reason == "no-emulator"


class TestStrategy:
    def test_native(self, emulators):
        assert emulators.strategy(platforms.host()).kind == "native"

    @pytest.mark.parametrize("text", ["windows/amd64", "darwin/arm64", "linux/wasm"])
    def test_unsupported(self, emulators, text):
        strategy = emulators.strategy(Platform.parse(text))
        assert strategy.kind == "unsupported" and strategy.reason and strategy.hint

    @pytest.mark.qemu
    @pytest.mark.userns
    def test_emulated(self, emulators):
        assert foreign(emulators)


class TestHostHandlers:
    ARM64 = """enabled
interpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P
flags: POCF
offset 0
magic 7f454c460201010000000000000000000200b700
mask ffffffffffffff00fffffffffffffffffeffffff
"""

    def test_read(self, tmp_path):
        (tmp_path / "status").write_text("enabled\n")
        (tmp_path / "register").write_text("")
        (tmp_path / "qemu-aarch64").write_text(self.ARM64)
        (tmp_path / "off").write_text(self.ARM64.replace("enabled", "disabled"))
        (tmp_path / "jar").write_text("enabled\ninterpreter /usr/bin/java\nflags: \nextension .jar\n")
        (tmp_path / "odd").write_text("enabled\ninterpreter x\nflags: \noffset q\nmagic zz\n")
        (handler,) = binfmt.host_handlers(str(tmp_path))
        assert (handler.interpreter, handler.flags) == ("/usr/libexec/qemu-binfmt/aarch64-binfmt-P", "POCF")
        assert [m.architecture for m in machines.MACHINES if handler.serves(m)] == ["arm64"]

    def test_off_or_absent(self, tmp_path):
        assert binfmt.host_handlers(str(tmp_path / "absent")) == []
        (tmp_path / "status").write_text("disabled\n")
        assert binfmt.host_handlers(str(tmp_path)) == []

    def test_used_where_there_is_nothing_of_our_own(self, monkeypatch, tmp_path):
        """An older kernel: the host's handler if it has flag F, else a refusal that says what to do."""
        monkeypatch.setattr("polyarch.executor.emulator.probe.run", lambda *words: "no such device")
        machine = next(m for m in machines.MACHINES if m.architecture != platforms.host().architecture)
        platform = Platform(os="linux", architecture=machine.architecture)
        host = machines.find(platforms.host().architecture)
        assert host is not None
        (tmp_path / f"qemu-{machine.qemu}").write_bytes(host.program())
        (tmp_path / f"qemu-{machine.qemu}").chmod(0o755)

        def answer(flags: str):
            handler = binfmt.HostHandler("x", "/usr/bin/qemu-x", flags, 0, *machine.magic)
            monkeypatch.setattr("polyarch.executor.emulator.binfmt.host_handlers", lambda: [handler])
            found = Emulators.discover({"POLYARCH_QEMU_PATH": str(tmp_path), "PATH": ""})
            return found.strategy(platform)

        assert (answer("F").kind, answer("F").via) == ("emulated", "host")
        refused = answer("P")
        assert refused.kind == "unsupported" and "6.7" in refused.reason and "binfmt" in refused.hint


@pytest.mark.qemu
@pytest.mark.userns
class TestSteps:
    def test_every_machine(self, bench, emulators, tmp_path):
        """A root filesystem of one tiny program for each machine there is an emulator for."""
        results = {}
        for platform in foreign(emulators):
            machine = machines.find(platform.architecture)
            root = tmp_path / machine.qemu
            root.mkdir()
            (root / "program").write_bytes(machine.program())
            (root / "program").chmod(0o755)
            result = bench.run(Process(("/program",), platform), RootFilesystem((root,)))
            results[platform.architecture] = (result.code, result.status.emulated, result.err)
        assert results and all(result == (0, True, "") for result in results.values()), results

    def test_native_programs_run_beside(self, bench, emulators):
        platform = foreign(emulators)[0]
        machine = machines.find(platform.architecture)
        (bench.upper / "foreign").write_bytes(machine.program())
        (bench.upper / "foreign").chmod(0o755)
        result = bench.sh("/foreign && echo both; ls /proc/sys/fs/binfmt_misc", platform=platform)
        assert result.out == "both\n"
        assert bench.changed() == ["foreign"]

    def test_a_native_step_does_not_emulate(self, bench, emulators):
        machine = machines.find(foreign(emulators)[0].architecture)
        if any(handler.serves(machine) for handler in binfmt.host_handlers()):
            pytest.skip("the host has a handler for it")
        if bench.mode != "root":
            return  # steps of one user namespace share its emulators
        (bench.upper / "foreign").write_bytes(machine.program())
        (bench.upper / "foreign").chmod(0o755)
        result = bench.run(Process(("/foreign",), platforms.host()))
        assert result.code == 126 and f"a program for {machine.architecture}" in result.err

    def test_nothing_is_registered_on_the_host(self, bench, emulators, host_mounts):
        before = host_mounts(), binfmt.host_handlers()
        bench.sh("true", platform=foreign(emulators)[0])
        assert (host_mounts(), binfmt.host_handlers()) == before

    def test_the_emulator_cannot_be_written(self, bench, emulators, tmp_path):
        """A native program of the step holds on to the file behind an emulated process and writes it when
        that has ended. The emulator here is a copy, so that a failure harms nobody."""
        machine = machines.find(foreign(emulators)[0].architecture)
        platform = Platform(os="linux", architecture=machine.architecture)
        copy = tmp_path / f"qemu-{machine.qemu}-static"
        shutil.copy(emulators.find(platform).path, copy)
        before = copy.stat()
        own = Emulators.discover({"POLYARCH_QEMU_PATH": str(tmp_path)})
        (bench.upper / "foreign").write_bytes(_endless(machine).program())
        (bench.upper / "foreign").chmod(0o755)
        script = (
            "/foreign & p=$!; sleep 0.5; exec 3< /proc/$p/exe; readlink /proc/self/fd/3; kill -9 $p; wait; "
            "echo x >> /proc/self/fd/3; echo tried"
        )
        state = State(tmp_path / "state")
        with Sandbox.start(state, emulators=own, privileged=bench.mode == "root") as sandbox:
            result = dataclasses.replace(bench, sandbox=sandbox).sh(script, platform=platform)
        assert "qemu" in result.out and "tried" in result.out
        assert any(
            why in result.err for why in ("Read-only file system", "ermission denied", "Text file busy")
        )
        after = copy.stat()
        assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)

    def test_foreign_shell(self, bench, foreign_root):
        platform, root = foreign_root
        result = bench.sh("uname -m; id -u; echo x > /x; exit 7", root=bench.root(root), platform=platform)
        assert result.code == 7 and result.status.emulated and not result.status.crash
        assert result.out.split() == [{"arm64": "aarch64", "arm": "armv7l"}[platform.architecture], "0"]
        assert bench.changed() == ["x"]

    def test_name_of_the_program_is_kept(self, bench, foreign_root):
        platform, root = foreign_root
        result = bench.run(Process(("/bin/echo", "by", "name"), platform), bench.root(root))
        assert result.out == "by name\n"  # busybox chooses its applet by argv[0]

    def test_setuid_programs_get_their_owner(self, bench, emulators):
        platform = Platform(os="linux", architecture="arm64")
        if emulators.strategy(platform).kind != "emulated":
            pytest.skip("arm64 is not emulated here")
        # geteuid, then exit with what it returned
        program = machines.find("arm64")._replace(code="e81580d2010000d4a80b80d2010000d4").program()
        (bench.upper / "who").write_bytes(program)
        bench.sh("chmod 755 /who")
        process = Process(("/who",), platform, identity=Identity(33, 33))
        assert bench.run(process).code == 33
        bench.sh("chmod 4755 /who")
        assert bench.run(process).code == 0

    def test_a_crash_by_signal_may_be_anybodys_fault(self, bench, foreign_root):
        platform, root = foreign_root
        result = bench.sh("kill -11 $$", root=bench.root(root), platform=platform)
        assert result.code == 139 and result.status.crash == "unclear"

    @pytest.mark.parametrize(
        "message",
        [
            "runtime: lfstack.push invalid packing: node=0x1",
            "QEMU internal SIGSEGV {code=MAPERR, addr=0x20}",
            "Unable to reserve 0xffff0000 bytes of virtual address space",
        ],
    )
    def test_what_only_an_emulator_says(self, bench, foreign_root, message):
        platform, root = foreign_root
        result = bench.sh(f"echo '{message}' >&2; exit 2", root=bench.root(root), platform=platform)
        assert result.status.crash == "emulator"
        assert not bench.sh(
            f"echo '{message}'; exit 0", root=bench.root(root), platform=platform
        ).status.crash

    def test_an_unknown_instruction_is_the_emulators(self, bench, foreign_root):
        platform, root = foreign_root
        result = bench.sh("kill -4 $$", root=bench.root(root), platform=platform)
        assert result.status.crash == "emulator"

    def test_a_silent_step_is_killed(self, bench, foreign_root):
        platform, root = foreign_root
        command = ("/bin/sh", "-c", "echo begun; while :; do :; done")
        process = Process(command, platform, emulator_patience=0.5)
        result = bench.run(process, bench.root(root))
        assert result.status.silent and result.out == "begun\n"

    def test_a_native_step_may_be_silent(self, bench):
        process = Process(("/bin/sh", "-c", "sleep 0.6"), platforms.host(), emulator_patience=0.2)
        assert bench.run(process).code == 0


def _endless(machine):
    """A program that never ends: its first instruction is a jump to itself."""
    codes = {"arm64": "00000014", "arm": "feffffea", "386": "ebfe", "amd64": "ebfe"}
    return machine._replace(code=codes[machine.architecture])


@pytest.fixture(scope="session", params=["arm64", "arm"])
def foreign_root(request, tmp_path_factory, emulators):
    """(platform, root filesystem) of Debian's busybox-static for a foreign architecture."""
    platform = Platform.parse(f"linux/{request.param}")
    if emulators.strategy(platform).kind != "emulated":
        pytest.skip(f"{platform} is not emulated here")
    folder = tmp_path_factory.mktemp(f"debian-{request.param}")
    busybox = executor_debian.busybox({"arm64": "arm64", "arm": "armhf"}[request.param], folder)
    root = folder / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    (root / "bin/busybox").chmod(stat.S_IRWXU | 0o55)
    for applet in APPLETS:
        (root / "bin" / applet).symlink_to("busybox")
    root.chmod(0o755)
    return platform, root
