"""``polyarch run`` and ``polyarch doctor``."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from polyarch import container
from polyarch.errors import NotFoundError, PolyarchError, UsageError
from polyarch.executor.diagnosis import Finding

pytestmark = pytest.mark.userns


class Collector:
    """What a container wrote."""

    def __init__(self) -> None:
        self.chunks = {1: b"", 2: b""}

    def __call__(self, stream: int, data: bytes) -> None:
        self.chunks[stream] += data

    @property
    def lines(self) -> list[str]:
        return self.chunks[1].decode().splitlines()


def polyarch(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    program = "from polyarch.cli.entry import run; run()"
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize(("platform", "machine"), [("linux/amd64", "x86_64"), ("linux/arm64", "aarch64")])
@pytest.mark.qemu
@pytest.mark.network
def test_every_variant(busybox, state, platform, machine):
    output = Collector()
    code = container.run(
        busybox, ["sh", "-c", "uname -m; exit 5"], platform=platform, state=state, output=output
    )
    assert (code, output.lines) == (5, [machine])


@pytest.mark.network
def test_options(busybox, state, tmp_path):
    (tmp_path / "file").write_text("mine\n")
    tmp_path.chmod(0o755)
    output = Collector()
    container.run(
        busybox,
        [
            "sh",
            "-c",
            "id -u; id -g; pwd; echo $A $HOME; cat /m/file; touch /m/x 2>/dev/null || echo ro; hostname",
        ],
        environment={"A": "b"},
        directory="/made",
        user="33:44",
        volumes=[container.Volume(tmp_path, "/m", True)],
        network="none",
        hostname="here",
        state=state,
        output=output,
    )
    assert output.lines == ["33", "44", "/made", "b /", "mine", "ro", "here"]


@pytest.mark.network
def test_entrypoint_and_command(busybox, state):
    output = Collector()
    container.run(busybox, ["-c", "echo entry"], entrypoint="sh", state=state, output=output)
    assert output.lines == ["entry"]
    with pytest.raises(UsageError, match="does not say what to run"):
        container.run(busybox, [], entrypoint="", state=state)


@pytest.mark.network
def test_what_is_not_there(busybox, state):
    with pytest.raises(NotFoundError, match="no variant for linux/s390x") as caught:
        container.run(busybox, ["true"], platform="linux/s390x", state=state)
    assert "linux/arm64" in caught.value.hint
    with pytest.raises(PolyarchError, match="unable to find user nobody-here"):
        container.run(busybox, ["true"], user="nobody-here", state=state)


@pytest.mark.network
def test_pulled_when_it_is_not_local(busybox, state, registry, tmp_path):
    from polyarch import api
    from polyarch.content.layout import Layout
    from polyarch.content.state import State

    name = f"{registry}/team/tool:1"
    api.push(busybox, to=name, root=state.root)
    other = State(tmp_path / "other")
    output = Collector()
    assert container.run(name, ["sh", "-c", "echo pulled"], state=other, output=output) == 0
    assert output.lines == ["pulled"]
    assert Layout(other.content).resolve(name)


@pytest.mark.network
def test_the_command(busybox, state):
    done = polyarch(
        "run",
        "--rm",
        "-i",
        "-e",
        "X=1",
        busybox,
        "sh",
        "-c",
        "cat; echo $X; echo e >&2; exit 4",
        stdin="in\n",
    )
    assert (done.returncode, done.stdout, done.stderr) == (4, "in\n1\n", "e\n")
    assert "not a terminal" in polyarch("run", "-it", busybox, "sh").stderr


@pytest.mark.parametrize("text", ["x", "/a", "/a:b", "name:/b", "/a:/b:odd"])
def test_volumes_that_are_none(text):
    with pytest.raises(UsageError):
        container.Volume.parse(text)


def test_volumes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert container.Volume.parse("./x:/y:ro") == container.Volume(tmp_path / "x", "/y", True)
    assert container.Volume.parse("/x:/y") == container.Volume(type(tmp_path)("/x"), "/y", False)


def test_doctor(state):
    done = polyarch("doctor", "--json")
    rows = {row["subject"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 0, done.stdout
    assert rows["namespaces"]["state"] == rows["sandbox"]["state"] == "ok"
    assert rows["linux/amd64" if os.uname().machine == "x86_64" else "linux/arm64"]["detail"].startswith(
        "native"
    )
    text = polyarch("doctor").stdout
    assert "RUN steps are possible here." in text


def test_doctor_says_what_mends(monkeypatch, state, capsys):
    from polyarch.cli.doctor import doctor

    bad = Finding("namespaces", "missing", "not permitted", "sudo sysctl -w x=1", needed=True)
    monkeypatch.setattr("polyarch.executor.diagnosis.diagnose", lambda state: [bad])
    assert doctor.main([], standalone_mode=False) == 1
    assert "-> sudo sysctl -w x=1" in capsys.readouterr().out
