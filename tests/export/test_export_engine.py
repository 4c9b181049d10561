"""--load, with engines that only pretend: what is asked of them, what they get, what is said."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from export_workshop import Workshop

from polyarch.errors import PolyarchError, UnsupportedError
from polyarch.export.output import Output
from polyarch.image.archive import ArchiveStore
from polyarch.image.inspect import inspect
from polyarch.oci.platform import host

Engine = Callable[..., Path]

DOCKER = """#!/bin/sh
echo "$@" >> {log}
case "$1" in
info) printf '%s' '{info}'; exit {code};;
load) cat > {archive}; [ -n "{refuse}" ] && echo "{refuse}" && exit 1; exit 0;;
esac
"""
PODMAN = """#!/bin/sh
echo "$@" >> {log}
case "$1 $2" in
"info "*) echo amd64; exit {code};;
"load "*) cat > {archive};;
"manifest add") cp "${{4#oci-archive:}}" "{archive}.$(basename "$4" .tar | cut -c1-8)";;
"manifest rm"|"rmi "*) exit 1;;
esac
exit 0
"""


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """Puts an engine of that name, and no other, on the PATH; gives the file that its archive goes to."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("sh", "cat", "cp", "cut", "basename"):
        (tools / tool).symlink_to(f"/bin/{tool}" if Path(f"/bin/{tool}").exists() else f"/usr/bin/{tool}")
    monkeypatch.setenv("PATH", str(tools))

    def make(name: str, *, info: object = None, code: int = 0, refuse: str = "") -> Path:
        archive = tmp_path / f"{name}.tar"
        text = (DOCKER if name == "docker" else PODMAN).format(
            log=tmp_path / "log", info=json.dumps(info or {}), code=code, archive=archive, refuse=refuse
        )
        (tools / name).write_text(text)
        (tools / name).chmod(stat.S_IRWXU)
        return archive

    return make


CONTAINERD = {"ServerVersion": "28", "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
CLASSIC = {"ServerVersion": "28", "DriverStatus": [["Backing Filesystem", "extfs"]]}


def loaded(workshop: Workshop, archive: Path, name: str) -> list[str]:
    with ArchiveStore.open_file(archive) as store:
        return [str(platform) for platform in inspect(store, store.resolve(name)).platforms]


def test_docker_with_the_containerd_store_gets_everything(workshop: Workshop, engine: Engine) -> None:
    archive = engine("docker", info=CONTAINERD)
    summary = workshop.export(workshop.two(), Output("docker"), tags=("app:1",))
    assert summary.destinations == ("in the local store", "loaded into docker")
    assert loaded(workshop, archive, "app:1") == ["linux/amd64", "linux/arm64"]


def test_an_older_docker_gets_the_hosts_platform_and_says_so(
    workshop: Workshop, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = engine("docker", info=CLASSIC)
    here = str(host())
    layers = {p: [workshop.layer({"bin/app": p.encode()})] for p in (here, "linux/s390x", "linux/riscv64")}
    summary = workshop.export(workshop.result(layers), Output("docker"), tags=("app:1",))
    assert loaded(workshop, archive, "app:1") == [here]
    assert "not loaded: linux/s390x, linux/riscv64" in summary.destinations[1]
    foreign = {p: layers[p] for p in ("linux/s390x", "linux/riscv64")}
    with pytest.raises(UnsupportedError, match="holds one platform"):
        workshop.export(workshop.result(foreign), Output("docker"), tags=("app:1",))


def test_podman_gets_a_manifest_list(workshop: Workshop, engine: Engine, tmp_path: Path) -> None:
    engine("podman")
    workshop.export(workshop.two(), Output("docker"), tags=("app:1",))
    log = (tmp_path / "log").read_text()
    assert "manifest create docker.io/library/app:1" in log
    assert log.count("manifest add docker.io/library/app:1 oci-archive:") == 2
    assert len(list(tmp_path.glob("podman.tar.*"))) == 2
    with pytest.raises(UnsupportedError, match="under a name"):
        workshop.export(workshop.two(), Output("docker"))
    workshop.export(workshop.one(), Output("docker"), tags=("app:1",))
    assert loaded(workshop, tmp_path / "podman.tar", "app:1") == ["linux/amd64"]


def test_docker_that_does_not_answer_and_podman_that_does(workshop: Workshop, engine: Engine) -> None:
    engine("docker", info={"ServerErrors": ["cannot connect"]}, code=1)
    archive = engine("podman")
    workshop.export(workshop.one(), Output("docker"), tags=("app:1",))
    assert archive.exists()


def test_no_engine_at_all_says_where_the_image_is(workshop: Workshop, engine: Engine) -> None:
    with pytest.raises(UnsupportedError) as caught:
        workshop.export(workshop.two(), Output("docker"), tags=("app:1",))
    assert "not installed" in caught.value.detail
    assert "local store" in caught.value.hint
    assert workshop.layout.resolve("app:1")
    engine("docker", info={"ServerErrors": ["cannot connect to the daemon"]}, code=1)
    with pytest.raises(UnsupportedError) as caught:
        workshop.export(workshop.two(), Output("docker"), tags=("app:1",))
    assert "cannot connect to the daemon" in caught.value.detail


def test_an_engine_that_refuses_is_quoted(workshop: Workshop, engine: Engine) -> None:
    engine("docker", info=CONTAINERD, refuse="no space left on device")
    with pytest.raises(PolyarchError) as caught:
        workshop.export(workshop.two(), Output("docker"), tags=("app:1",))
    assert caught.value.reason == "engine-refused"
    assert "no space left" in caught.value.detail
