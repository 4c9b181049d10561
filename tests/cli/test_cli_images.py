"""images, tag, rmi, pull, push, save, load, as a user types them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.content.verify import read
from polyarch.content.walk import walk
from polyarch.oci.descriptor import Descriptor
from polyarch.registry.client import Client
from polyarch.testing.random_images import random_image, random_index

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def image(state: State) -> Descriptor:
    """A two-platform image that is called app:1."""
    layout = Layout(state.content)
    made = random_index(layout)
    layout.tag("app:1", made)
    return made


def test_an_empty_store(polyarch: Run, state: State) -> None:
    assert polyarch("images") == (0, "IMAGE   DIGEST   PLATFORMS   SIZE   CREATED\n", "")
    assert polyarch("images", "-q") == (0, "", "")
    assert not state.root.exists()  # looking makes nothing


def test_the_list_in_all_its_forms(polyarch: Run, image: Descriptor) -> None:
    assert polyarch("tag", "app:1", "r.example.com/team/app:2")[0] == 0
    code, out, _ = polyarch("images")
    lines = out.splitlines()
    short = image.digest[7:19]
    assert code == 0
    assert lines[1].split()[:4] == ["app:1", short, "linux/amd64,", "linux/arm64"]
    assert lines[2].split()[:2] == ["r.example.com/team/app:2", short]
    assert polyarch("images", "-q")[1] == short + "\n"
    assert polyarch("images", "-q", "--no-trunc")[1] == image.digest + "\n"
    assert image.digest in polyarch("images", "--digests")[1]
    row = json.loads(polyarch("images", "--format", "json")[1])
    assert row["Names"] == ["app:1", "r.example.com/team/app:2"]
    assert row["Platforms"] == ["linux/amd64", "linux/arm64"]
    assert polyarch("images", "--format", "{{.Tag}} {{.ID}}")[1] == f"1 {short}\n"
    assert polyarch("images", "r.example.com/team/app")[1].count("\n") == 3
    assert polyarch("images", "other")[1].count("\n") == 1
    assert polyarch("images", "--format", "{{.Nmae}}")[0] == 2


def test_tag_and_rmi(polyarch: Run, image: Descriptor, state: State) -> None:
    assert polyarch("tag", "app:1", "app:2") == (0, "", "")
    assert polyarch("rmi", "app:1") == (0, "Untagged: docker.io/library/app:1\n", "")
    code, _, err = polyarch("tag", "app:1", "app:3")
    assert (code, err.splitlines()[0]) == (1, "error: app:1 is not in the local store")
    assert polyarch("tag", "app:2", f"app@{image.digest}")[0] == 2
    assert polyarch("rmi", "app:1")[0] == 1
    assert polyarch("rmi", "-f", "app:1") == (0, "", "")
    code, out, _ = polyarch("rmi", "app:1", image.digest[7:19])
    assert code == 1  # one of them was not there; the other is gone all the same
    assert f"Deleted: {image.digest}" in out
    assert Layout(state.content).roots() == []


def test_push_and_pull(
    polyarch: Run, image: Descriptor, registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{registry}/team/app"
    polyarch("tag", "app:1", f"{name}:1", f"{name}:2")
    code, out, err = polyarch("push", f"{name}:1")
    assert (code, out) == (0, f"{name}:1@{image.digest} ({image.size} bytes)\n"), err
    code, out, _ = polyarch("push", "-a", "-q", name)
    assert (code, len(out.splitlines())) == (0, 2)
    repository = Client().repository(name)
    assert repository.tags() == ["1", "2"]
    for descriptor in walk(repository, repository.resolve("2")):
        assert len(read(repository, descriptor, limit=1 << 20)) == descriptor.size

    other = State(tmp_path / "other")
    monkeypatch.setenv("POLYARCH_ROOT", str(other.root))
    assert polyarch("pull", "-q", "--platform", "linux/arm64", f"{name}:1")[:2] == (
        0,
        f"{name}:1@{image.digest}\n",
    )
    assert "linux/arm64  " in polyarch("images")[1]
    assert "linux/amd64" not in polyarch("images")[1]
    assert polyarch("pull", f"{name}:1")[0] == 0
    assert "linux/amd64, linux/arm64" in polyarch("images")[1]
    code, _, err = polyarch("pull", "-q", "--platform=linux/s390x", f"{name}:1")
    assert code == 1
    assert "hint: platforms it has: linux/amd64, linux/arm64" in err
    code, _, err = polyarch("pull", "-q", f"{name}:none")
    assert code == 1
    assert "not found" in err


def test_an_image_by_digest(polyarch: Run, image: Descriptor, registry: str) -> None:
    polyarch("tag", "app:1", f"{registry}/app:1")
    polyarch("push", "-q", f"{registry}/app:1")
    polyarch("rmi", "app:1", f"{registry}/app:1")
    name = f"{registry}/app@{image.digest}"
    assert polyarch("pull", "-q", name)[:2] == (0, name + "\n")
    row = json.loads(polyarch("images", "--format", "json")[1])
    assert (row["Names"], row["Repository"], row["Tag"]) == ([name], f"{registry}/app", "<none>")
    assert image.digest in polyarch("imagetools", "inspect", "--local", name)[1]
    assert polyarch("rmi", name)[0] == 0
    assert polyarch("images", "-q")[1] == ""


def test_pushing_what_is_not_there_or_nowhere(polyarch: Run, image: Descriptor) -> None:
    assert polyarch("push", "nothing:1")[0] == 1
    assert polyarch("push", "-a", "nothing")[0] == 1
    assert polyarch("push", "-a", "app:1")[0] == 2
    polyarch("tag", "app:1", "127.0.0.1:9/app:1")
    code, _, err = polyarch("push", "-q", "127.0.0.1:9/app:1")
    assert code == 1
    assert "127.0.0.1:9" in err


def test_a_sparse_image_is_pushed_whole(
    polyarch: Run, image: Descriptor, registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polyarch("tag", "app:1", f"{registry}/app:1")
    polyarch("push", "-q", f"{registry}/app:1")
    monkeypatch.setenv("POLYARCH_ROOT", str(tmp_path / "other"))
    polyarch("pull", "-q", "--platform", "linux/arm64", f"{registry}/app:1")
    polyarch("tag", f"{registry}/app:1", f"{registry}/copy:1")
    code, _, err = polyarch("push", f"{registry}/copy:1")
    assert code == 0, err
    copied = Client().repository(f"{registry}/copy")
    assert len(list(walk(copied, copied.resolve("1")))) == 9


@pytest.mark.parametrize("form", ["oci", "auto"])
def test_save_and_load(
    polyarch: Run, image: Descriptor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    polyarch("tag", "app:1", "r.example.com/app:2")
    target = tmp_path / "app.tar"
    assert polyarch("save", "--format", form, "-o", str(target), "app:1", "r.example.com/app:2")[0] == 0
    monkeypatch.setenv("POLYARCH_ROOT", str(tmp_path / "other"))
    code, out, _ = polyarch("load", "-i", str(target))
    assert (code, out) == (0, "Loaded image: app:1\nLoaded image: r.example.com/app:2\n")
    assert image.digest in polyarch("images", "--digests")[1]
    with target.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert polyarch("load", "-q") == (0, "", "")


def test_saving_from_several_places(polyarch: Run, image: Descriptor, tmp_path: Path) -> None:
    elsewhere = Layout(tmp_path / "layout")
    other = random_index(elsewhere, seed=8)
    elsewhere.publish(other)
    target = tmp_path / "both.tar"
    code, _, err = polyarch("save", "-o", str(target), f"oci-layout://{elsewhere.root}", "app:1")
    assert code == 0, err
    assert polyarch("load", "-i", str(target))[1] == f"Loaded image: {other.digest}\nLoaded image: app:1\n"


def test_saving_one_platform_for_docker(polyarch: Run, image: Descriptor, tmp_path: Path) -> None:
    target = tmp_path / "arm.tar"
    code, _, err = polyarch("save", "--format", "docker", "-o", str(target), "app:1")
    assert code == 2
    assert "--platform" in err
    assert not target.exists()
    assert polyarch("save", "--platform", "linux/arm64", "-o", str(target), "app:1")[0] == 0
    assert polyarch("rmi", "app:1")[0] == 0
    assert polyarch("load", "-i", str(target))[:2] == (0, "Loaded image: app:1\n")
    row = json.loads(polyarch("images", "app:1", "--format", "json")[1])
    assert row["Platforms"] == ["linux/arm64"]
    assert polyarch("save", "--platform", "linux/s390x", "-o", str(target), "app:1")[0] in (0, 1)


def test_loading_nonsense_changes_nothing(polyarch: Run, state: State, tmp_path: Path) -> None:
    broken = tmp_path / "broken.tar"
    broken.write_bytes(b"no archive at all" * 100)
    for source in (broken, tmp_path / "missing.tar", tmp_path):
        code, out, err = polyarch("load", "-i", str(source))
        assert (code != 0, out) == (True, "")
        assert err.startswith("error: ")
    assert Layout(state.content).roots() == []


def test_archives_and_terminals_do_not_mix(
    polyarch: Run, image: Descriptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.TextIOWrapper):
        def __init__(self) -> None:
            super().__init__(io.BytesIO())

        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    code, _, err = polyarch("load")
    assert (code, "terminal" in err) == (2, True)


def test_a_plain_image(polyarch: Run, state: State) -> None:
    from polyarch.oci.platform import Platform

    layout = Layout(state.content)
    layout.tag("plain:1", random_image(layout, Platform.parse("linux/riscv64")))
    assert "linux/riscv64" in polyarch("images")[1]


def test_system_info(polyarch: Run, image: Descriptor, state: State) -> None:
    code, out, _ = polyarch("system", "info", "--json")
    found = json.loads(out)
    assert (code, found["root"], found["images"]) == (0, str(state.root), 1)
    assert found["parts"]["content"]["size"] > 8000
    assert str(state.root) in polyarch("system", "info")[1]
