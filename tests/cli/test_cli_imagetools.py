"""imagetools and manifest: docker's and buildx's output, field by field."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.content.verify import read_manifest
from polyarch.content.walk import walk
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform
from polyarch.registry.client import Client
from polyarch.testing.random_images import random_image, random_index

Run = Callable[..., tuple[int, str, str]]
ARM = Platform.parse("linux/arm64")


@pytest.fixture
def name(registry: str, state: State, polyarch: Run) -> str:
    """A two-platform image in a registry, and not in the local store."""
    layout = Layout(state.content)
    name = f"{registry}/team/app:1"
    layout.tag(name, random_index(layout))
    assert polyarch("push", "-q", name)[0] == 0
    layout.untag(name)
    return name


def index_of(name: str) -> tuple[Descriptor, bytes]:
    repository = Client().repository(name)
    descriptor = repository.resolve(name)
    return descriptor, read_manifest(repository, descriptor).data


def test_the_text_has_every_line_of_buildx(polyarch: Run, name: str) -> None:
    descriptor, data = index_of(name)
    code, out, err = polyarch("imagetools", "inspect", name)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[:5] == [
        f"Name:      {name}",
        f"MediaType: {descriptor.media_type}",
        f"Digest:    {descriptor.digest}",
        " " * 11,
        "Manifests: ",
    ]
    for entry in json.loads(data)["manifests"]:
        start = lines.index(f"  Name:      {name}@{entry['digest']}")
        assert lines[start + 1] == f"  MediaType: {entry['mediaType']}"
        assert lines[start + 2] == f"  Platform:  linux/{entry['platform']['architecture']}"
    assert sum(line.strip().startswith("Layers:") for line in lines) == 2
    assert sum(line.strip().startswith("sha256:") for line in lines) == 4


def test_raw_is_raw(polyarch: Run, name: str) -> None:
    assert polyarch("imagetools", "inspect", "--raw", name)[1].encode() == index_of(name)[1]


def test_formats(polyarch: Run, name: str) -> None:
    descriptor, data = index_of(name)
    found = json.loads(polyarch("imagetools", "inspect", name, "--format", "{{json .}}")[1])
    assert list(found) == ["name", "manifest", "image"]
    assert found["name"] == name
    assert list(found["manifest"]) == ["schemaVersion", "mediaType", "digest", "size", "manifests"]
    assert found["manifest"]["manifests"] == json.loads(data)["manifests"]
    assert list(found["image"]) == ["linux/amd64", "linux/arm64"]
    assert found["image"]["linux/arm64"]["config"] == {"Cmd": ["/bin/sh"]}
    for form, wanted in {
        "{{.Name}}": name,
        "{{.Manifest.Digest}}": descriptor.digest,
        "{{len .Manifest.Manifests}}": "2",
        "{{range .Manifest.Manifests}}{{.Platform}}{{end}}": "{amd64 linux  [] }{arm64 linux  [] }",
        '{{(index .Image "linux/amd64").Config.Cmd}}': "[/bin/sh]",
        '{{index (index .Image "linux/amd64").RootFS.DiffIDs 0 | len}}': "71",
        "{{json .Provenance}}": "{}",
    }.items():
        assert polyarch("imagetools", "inspect", name, "--format", form)[1] == wanted
    code, _, err = polyarch("imagetools", "inspect", name, "--format", "{{.BuildInfo}}")
    assert code == 2
    assert "can't evaluate field BuildInfo" in err


def test_local_first_or_remote(polyarch: Run, name: str, state: State) -> None:
    layout = Layout(state.content)
    here = random_image(layout, ARM, seed=7)
    layout.tag(name, here)
    code, out, err = polyarch("imagetools", "inspect", name)
    assert here.digest in out
    assert "--remote" in err
    assert index_of(name)[0].digest in polyarch("imagetools", "inspect", "--remote", name)[1]
    layout.untag(name)
    assert polyarch("imagetools", "inspect", "--local", name)[0] == 1
    code, _, err = polyarch("imagetools", "inspect", name + "none")
    assert (code, "not found" in err) == (1, True)


def test_create_joins_what_is_in_registries(polyarch: Run, name: str, registry: str, state: State) -> None:
    layout = Layout(state.content)
    riscv = random_image(layout, Platform.parse("linux/riscv64"), seed=5)
    layout.tag(f"{registry}/parts/riscv:1", riscv)
    polyarch("push", "-q", f"{registry}/parts/riscv:1")
    target = f"{registry}/joined/app:1"
    code, out, err = polyarch(
        "imagetools", "create", "-t", target, "--annotation", "a=b", name, f"{registry}/parts/riscv:1"
    )
    assert code == 0, err
    descriptor, data = index_of(target)
    assert out == f"{target}@{descriptor.digest}\n"
    made = json.loads(data)
    assert made["annotations"] == {"a": "b"}
    assert [e["platform"]["architecture"] for e in made["manifests"]] == ["amd64", "arm64", "riscv64"]
    repository = Client().repository(target)
    for part in walk(repository, descriptor):
        assert repository.holds(part)


def test_create_copies_appends_and_shows(polyarch: Run, name: str, registry: str, tmp_path: Path) -> None:
    descriptor, data = index_of(name)
    assert polyarch("imagetools", "create", "--dry-run", name)[1].encode() == data + b"\n"
    copied = f"{registry}/copy:1"
    assert polyarch("imagetools", "create", "-t", copied, "-t", f"{registry}/copy:2", name)[0] == 0
    assert index_of(copied)[0].digest == index_of(f"{registry}/copy:2")[0].digest == descriptor.digest
    arm = json.loads(data)["manifests"][1]
    only = f"{registry}/team/app@{arm['digest']}"
    polyarch("imagetools", "create", "-t", f"{registry}/arm:1", only)
    assert len(json.loads(index_of(f"{registry}/arm:1")[1])["manifests"]) == 1
    assert polyarch("imagetools", "create", "-t", f"{registry}/arm:1", "--append", name)[0] == 0
    assert len(json.loads(index_of(f"{registry}/arm:1")[1])["manifests"]) == 2
    polyarch("imagetools", "create", "-t", f"{registry}/plain:1", "--prefer-index=false", only)
    assert index_of(f"{registry}/plain:1")[0].digest == arm["digest"]
    file = tmp_path / "descriptor.json"
    file.write_text(json.dumps(arm))
    assert polyarch("imagetools", "create", "-t", f"{registry}/f:1", "-f", str(file), name)[0] == 0
    assert json.loads(index_of(f"{registry}/f:1")[1])["manifests"][0]["digest"] == arm["digest"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["create"], 2, "no name"),
        (["create", "--dry-run"], 2, "no sources"),
        (["create", "--append", "--dry-run", "NAME"], 2, "--append needs a tag"),
        (["create", "-t", "REGISTRY/x:1", "REGISTRY/missing:1"], 1, "not found"),
        (["create", "-t", "REGISTRY/x:1", "-p", "linux/s390x", "NAME"], 1, "linux/s390x"),
        (["create", "-t", "REGISTRY/x:1", "--annotation", "manifest:a=b", "NAME"], 2, "stays as it is"),
        (["create", "-t", "REGISTRY/x:1", "-f", "/missing", "NAME"], 1, "no file"),
        (["inspect", "--format", "{{", "NAME"], 2, "unclosed"),
    ],
)
def test_what_cannot_be_done(
    polyarch: Run, name: str, registry: str, words: list[str], code: int, said: str
) -> None:
    given = [word.replace("NAME", name).replace("REGISTRY", registry) for word in words]
    found, out, err = polyarch("imagetools", *given)
    assert (found, out) == (code, "")
    assert said in err


# --- manifest -----------------------------------------------------------------------------------------------


def test_an_index_as_docker_shows_it(polyarch: Run, name: str) -> None:
    one, two = json.loads(index_of(name)[1])["manifests"]
    _, out, _ = polyarch("manifest", "inspect", "--insecure", name)
    assert out == (
        '{\n   "schemaVersion": 2,\n   "mediaType": "application/vnd.oci.image.index.v1+json",\n'
        '   "manifests": [\n'
        + ",\n".join(
            f'      {{\n         "mediaType": "{e["mediaType"]}",\n         "size": {e["size"]},\n'
            f'         "digest": "{e["digest"]}",\n         "platform": {{\n'
            f'            "architecture": "{e["platform"]["architecture"]}",\n            "os": "linux"\n'
            "         }\n      }"
            for e in (one, two)
        )
        + "\n   ]\n}\n"
    )


def test_a_manifest_and_all_of_them(polyarch: Run, name: str, registry: str) -> None:
    import base64

    one, _ = json.loads(index_of(name)[1])["manifests"]
    _, out, _ = polyarch("manifest", "inspect", f"{registry}/team/app@{one['digest']}")
    assert out.startswith(
        '{\n\t"schemaVersion": 2,\n\t"mediaType": "application/vnd.oci.image.manifest.v1+json",'
    )
    shown = json.loads(out)
    _, out, _ = polyarch("manifest", "inspect", "-v", name)
    first, second = json.loads(out)
    assert list(first) == ["Ref", "Descriptor", "Raw", "OCIManifest"]
    assert first["Ref"] == f"{name}@{one['digest']}"
    assert first["OCIManifest"] == shown
    assert json.loads(base64.b64decode(first["Raw"])) == shown
    assert second["Descriptor"]["platform"]["architecture"] == "arm64"


def test_lists_are_drafted_annotated_and_pushed(polyarch: Run, name: str, registry: str) -> None:
    one, two = json.loads(index_of(name)[1])["manifests"]
    listed = f"{registry}/listed:1"
    parts = [f"{registry}/team/app@{entry['digest']}" for entry in (one, two)]
    assert polyarch("manifest", "create", listed, parts[0])[1] == f"Created manifest list {listed}\n"
    assert polyarch("manifest", "create", listed, parts[1])[0] == 2
    assert polyarch("manifest", "create", listed, "--amend", parts[1])[0] == 0
    assert polyarch("manifest", "annotate", listed, parts[1], "--variant", "v9")[0] == 0
    assert polyarch("manifest", "annotate", listed, name, "--variant", "v9")[0] == 1
    draft = json.loads(polyarch("manifest", "inspect", listed)[1])
    assert draft["manifests"][1]["platform"]["variant"] == "v9"
    code, out, err = polyarch("manifest", "push", "--purge", listed)
    assert code == 0, err
    descriptor, data = index_of(listed)
    assert out == descriptor.digest + "\n"
    assert json.loads(data)["manifests"][1]["platform"] == {
        "architecture": "arm64",
        "os": "linux",
        "variant": "v9",
    }
    assert polyarch("manifest", "push", listed)[0] == 1
    assert polyarch("manifest", "create", listed, name)[0] == 2  # an index in an index
    assert polyarch("manifest", "rm", listed)[0] == 1


def test_attestations_are_shown_and_kept(polyarch: Run, registry: str, state: State) -> None:
    from polyarch.image import assemble

    layout = Layout(state.content)
    image = random_image(layout, ARM)
    unknown = Platform(os="unknown", architecture="unknown")
    statement = msgspec.structs.replace(
        random_image(layout, ARM, seed=3),
        platform=unknown,
        annotations={
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": image.digest,
        },
    )
    raw = assemble.index([image, statement])
    layout.tag(f"{registry}/attested:1", layout.push_bytes(raw.data, raw.media_type))
    _, out, _ = polyarch("imagetools", "inspect", f"{registry}/attested:1")
    assert "  Platform:    unknown/unknown" in out
    assert "    vnd.docker.reference.type:   attestation-manifest" in out
    assert len(json.loads(polyarch("manifest", "inspect", "-v", f"{registry}/attested:1")[1])) == 2
    polyarch("push", "-q", f"{registry}/attested:1")
    _, out, _ = polyarch("imagetools", "create", "--dry-run", "-p", "linux/arm64", f"{registry}/attested:1")
    assert len(json.loads(out)["manifests"]) == 2
