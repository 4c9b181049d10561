"""A base from a recipe, made with the real apt out of an archive made on the spot."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from debian_mirror import Mirror

from polyarch.base.make import Made, make
from polyarch.base.recipe import Recipe
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.content.verify import read_manifest
from polyarch.errors import PolyarchError, UsageError
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform

AMD64, ARM64 = Platform.parse("linux/amd64"), Platform.parse("linux/arm64")


@pytest.fixture
def recipe(mirror: Mirror) -> Recipe:
    """Two packages of which one needs the other, for two architectures, and one that all share."""
    for architecture in ("amd64", "arm64"):
        program = f"program for {architecture}".encode()
        mirror.add(
            "tool", {"bin": None, "bin/tool": program}, architecture=architecture, more="Depends: shared"
        )
    mirror.add("shared", {"usr/share/ca-certificates/a.crt": b"AAA\n"}, architecture="all", version="2:1.0")
    for architecture in ("amd64", "arm64"):
        mirror.stanzas[architecture] += mirror.stanzas["all"]
    mirror.write()
    return Recipe(
        name="test/tool",
        platforms=(AMD64, ARM64),
        suite="test",
        variant="extract",
        scripts="skip",
        include=("tool",),
        mirrors=(mirror.line,),
    )


def content(state: State, descriptor: Descriptor) -> bytes:
    return Layout(state.content).path(descriptor.digest).read_bytes()


def files(state: State, made: Made, number: int) -> dict[str, bytes]:
    manifest = read_manifest(Layout(state.content), made.variants[number].manifest).manifest
    data = gzip.decompress(content(state, manifest.layers[0]))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive if info.isfile()}  # type: ignore[union-attr]


def test_one_index_with_a_variant_for_each_platform(state: State, recipe: Recipe) -> None:
    made = make(recipe, state=state)
    store = Layout(state.content)
    assert store.resolve("test/tool").digest == made.index.digest
    index = read_manifest(store, made.index).index
    assert [entry.platform for entry in index.manifests] == [AMD64, ARM64]
    for number, architecture in enumerate(("amd64", "arm64")):
        found = files(state, made, number)
        assert found["usr/bin/tool"] == f"program for {architecture}".encode()
        assert found["etc/ssl/certs/ca-certificates.crt"] == b"AAA\n"
        assert b"root:x:0:0" in found["etc/passwd"]
        status = found["var/lib/dpkg/status"].decode()
        assert "Package: tool\nStatus: install ok unpacked\n" in status
        assert found["var/lib/dpkg/info/tool.list"] == b"/bin\n/bin/tool\n"
        labels = {package.label for package in made.variants[number].packages}
        assert labels == {"tool=1.0", "shared=2:1.0"}


def test_the_config_says_what_it_is(state: State, recipe: Recipe) -> None:
    recipe = replace(recipe, command=("tool", "-x"), environment=("A=b",), platforms=(ARM64,))
    made = make(recipe, state=state)
    manifest = read_manifest(Layout(state.content), made.variants[0].manifest).manifest
    config = json.loads(content(state, manifest.config))
    assert (config["os"], config["architecture"]) == ("linux", "arm64")
    assert config["created"] == "2020-09-13T12:26:40Z"
    assert config["config"]["Cmd"] == ["tool", "-x"]
    assert config["config"]["Env"][1:] == ["A=b"]
    assert config["config"]["Env"][0].startswith("PATH=/usr/local/sbin:")
    assert config["history"][0]["created_by"].startswith("polyarch base create")


def test_the_same_versions_are_not_made_again(state: State, recipe: Recipe, mirror: Mirror) -> None:
    first = make(recipe, state=state)
    again = make(recipe, state=state)
    assert [variant.made for variant in again.variants] == [False, False]
    assert again.index.digest == first.index.digest
    other = make(recipe, state=State(state.root / "other"))
    assert other.index.digest == first.index.digest  # from nothing, the same bytes
    wider = make(replace(recipe, platforms=(ARM64, AMD64)), state=state)
    assert [variant.made for variant in wider.variants] == [False, False]


def test_new_versions_are_found_with_refresh(state: State, recipe: Recipe, mirror: Mirror) -> None:
    first = make(recipe, state=state)
    mirror.add("tool", {"bin/tool": b"newer"}, version="1.1", more="Depends: shared")
    mirror.write()
    again = make(replace(recipe, platforms=(AMD64,)), state=state, refresh=True)
    assert again.variants[0].made
    assert again.index.digest != first.index.digest
    assert files(state, again, 0)["usr/bin/tool"] == b"newer"


def test_an_image_names_debians_mirror_unless_asked(state: State, recipe: Recipe, mirror: Mirror) -> None:
    for architecture in ("amd64", "arm64"):
        mirror.add("apt", {"usr/bin/apt-get": b"apt"}, architecture=architecture)
    mirror.write()
    recipe = replace(recipe, include=("tool", "apt"))
    listed = files(state, make(recipe, state=state), 0)["etc/apt/sources.list"].decode()
    assert listed.startswith("deb http://deb.debian.org/debian test main\n")
    assert str(mirror.folder) not in listed
    kept = files(state, make(replace(recipe, keep_sources=True), state=state), 0)
    assert kept["etc/apt/sources.list"].decode() == mirror.line + "\n"


def test_the_epoch_clamps_every_time(state: State, recipe: Recipe) -> None:
    made = make(replace(recipe, epoch=1_000), state=state)
    manifest = read_manifest(Layout(state.content), made.variants[0].manifest).manifest
    data = gzip.decompress(content(state, manifest.layers[0]))
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert {info.mtime for info in archive} == {1_000}


def test_a_package_that_is_not_there_is_apts_to_say(state: State, recipe: Recipe) -> None:
    with pytest.raises(PolyarchError, match="choosing packages for amd64 failed") as caught:
        make(replace(recipe, include=("nonesuch",)), state=state)
    assert "Unable to locate package nonesuch" in caught.value.detail
    assert not list(Layout(state.content).names())


def test_a_mirror_without_the_architecture_is_named(state: State, recipe: Recipe) -> None:
    with pytest.raises(PolyarchError, match="no packages for s390x") as caught:
        make(replace(recipe, platforms=(Platform.parse("linux/s390x"),)), state=state)
    assert "the mirror has amd64 arm64" in caught.value.hint


def test_a_mirror_that_is_not_there(state: State, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(PolyarchError, match="reading the package lists failed"):
        make(replace(recipe, mirrors=(f"deb [trusted=yes] copy://{tmp_path}/none test main",)), state=state)


def test_credentials_do_not_show(state: State, recipe: Recipe) -> None:
    mirrors = ("deb [trusted=yes] http://user:secret@127.0.0.1:9/debian test main",)
    with pytest.raises(PolyarchError) as caught:
        make(replace(recipe, mirrors=mirrors, apt_options=('Acquire::Retries "0"',)), state=state)
    assert "secret" not in caught.value.detail + caught.value.summary + caught.value.hint


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"platforms": ()}, "at least one platform"),
        ({"platforms": (Platform.parse("windows/amd64"),)}, "no packages for windows/amd64"),
        ({"variant": "huge"}, "unknown variant"),
        ({"include": ("rm -rf",)}, "not the name of a package"),
        ({"include": ("-o=Dir::Bin::dpkg=x",)}, "not the name of a package"),
        ({"suite": "../x"}, "not the name of a suite"),
        ({"include": ()}, "nothing is included"),
        ({"scripts": "run"}, "runs no scripts"),
    ],
)
def test_recipes_that_make_no_sense(
    state: State, recipe: Recipe, changes: dict[str, object], why: str
) -> None:
    with pytest.raises(UsageError, match=why):
        make(replace(recipe, **changes), state=state)  # type: ignore[arg-type]
