"""OCI and docker archives: what they hold, that they never differ, and that hostile ones do no harm."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from export_workshop import Workshop

from polyarch.content.copy import copy
from polyarch.content.layout import Layout
from polyarch.content.memory import MemoryStore
from polyarch.errors import ContentError, NotFoundError, PolyarchError, UsageError
from polyarch.export.output import parse
from polyarch.image.archive import ArchiveStore
from polyarch.image.inspect import inspect
from polyarch.image.locate import locate


def names(path: Path) -> list[str]:
    with tarfile.open(path) as tar:
        return tar.getnames()


def member(path: Path, name: str) -> bytes:
    with tarfile.open(path) as tar:
        found = tar.extractfile(name)
        assert found is not None
        return found.read()


def test_an_oci_archive_holds_every_platform_and_both_names(workshop: Workshop, tmp_path: Path) -> None:
    target = tmp_path / "app.tar"
    summary = workshop.export(
        workshop.two(), parse(f"type=oci,dest={target}"), tags=("example.com/app:1", "other:2")
    )
    assert names(target)[:2] == ["blobs", "blobs/sha256"]
    assert names(target)[-2:] == ["index.json", "oci-layout"]
    entries = json.loads(member(target, "index.json"))["manifests"]
    assert [entry["annotations"] for entry in entries] == [
        {
            "io.containerd.image.name": name,
            "org.opencontainers.image.created": "2024-05-06T07:08:09Z",
            "org.opencontainers.image.ref.name": name.rpartition(":")[2],
        }
        for name in ("example.com/app:1", "docker.io/library/other:2")
    ]
    with ArchiveStore.open_file(target) as archive:
        found = inspect(archive, archive.resolve("example.com/app:1"))
        assert found.digest == summary.digest
        assert len(found.variants) == 2
        store = MemoryStore()
        copy(archive, store, archive.resolve("2"))
        assert store.exists(found.variants[1].layers[0].digest)
    for name in names(target)[2:-2]:
        assert hashlib.sha256(member(target, name)).hexdigest() == name.rpartition("/")[2]


def test_archives_are_the_same_every_time(
    workshop: Workshop, workshops: Callable[[str], Workshop], tmp_path: Path
) -> None:
    other = workshops("other")
    for kind, result in (("oci", "two"), ("docker", "one")):
        made = []
        for number, shop in enumerate((workshop, other)):
            target = tmp_path / f"{kind}{number}.tar"
            shop.export(getattr(shop, result)(), parse(f"type={kind},dest={target}"), tags=("app:1",))
            made.append(target.read_bytes())
        assert made[0] == made[1]


def test_a_docker_archive_is_for_old_and_new_engines(workshop: Workshop, tmp_path: Path) -> None:
    target = tmp_path / "app.tar"
    workshop.export(
        workshop.one(), parse(f"type=docker,dest={target}"), tags=("app:1", "r.example.com/app:2")
    )
    (saved,) = json.loads(member(target, "manifest.json"))
    assert saved["RepoTags"] == ["app:1", "r.example.com/app:2"]
    config = json.loads(member(target, saved["Config"]))
    layer = gzip.decompress(member(target, saved["Layers"][0]))
    assert "sha256:" + hashlib.sha256(layer).hexdigest() == config["rootfs"]["diff_ids"][0]
    with pytest.raises(UsageError, match="manifest lists"):
        workshop.export(workshop.two(), parse(f"type=docker,dest={tmp_path / 'two.tar'}"))
    assert not (tmp_path / "two.tar").exists()


def test_a_layout_directory(workshop: Workshop, tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    output = parse(f"type=oci,dest={folder},tar=false")
    summary = workshop.export(workshop.two(), output, tags=("app:1",))
    workshop.export(workshop.one(), output, tags=("app:2",))
    layout = Layout(folder, create=False)
    assert layout.resolve("app:1").digest == summary.digest
    found = locate(f"oci-layout://{folder}:1", state=workshop.state, client=workshop.client)
    assert found.descriptor.digest == summary.digest
    assert locate(f"oci-layout://{folder}@{summary.digest}", state=workshop.state, client=workshop.client)
    with pytest.raises(NotFoundError, match="which of its 2"):
        locate(f"oci-layout://{folder}", state=workshop.state, client=workshop.client)


def test_standard_output_but_no_terminal(workshop: Workshop) -> None:
    sink = io.BytesIO()
    workshop.export(workshop.two(), parse("type=oci"), tags=("app",), stdout=sink)
    sink.seek(0)
    with ArchiveStore.from_stream(sink, "standard input") as archive:
        assert len(archive.roots()) == 1

    class Terminal(io.BytesIO):
        def isatty(self) -> bool:
            return True

    with pytest.raises(UsageError, match="terminal"):
        workshop.export(workshop.two(), parse("type=tar"), stdout=Terminal())


def test_a_failed_export_leaves_the_old_file(workshop: Workshop, tmp_path: Path) -> None:
    target = tmp_path / "app.tar"
    target.write_bytes(b"old")
    result = workshop.two()
    summary = workshop.export(result)
    layer = inspect(workshop.layout, workshop.layout.resolve(summary.digest)).variants[0].layers[0]
    damaged = workshop.layout.path(layer.digest)
    damaged.chmod(0o644)
    damaged.write_bytes(b"x" * layer.size)
    with pytest.raises(ContentError):
        workshop.export(result, parse(f"type=oci,dest={target}"))
    assert target.read_bytes() == b"old"
    assert list(tmp_path.glob(".app.tar*")) == []


def test_destinations_that_cannot_work(workshop: Workshop, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for text in (f"type=oci,dest={tmp_path}", f"type=local,dest={tmp_path / 'file'}"):
        with pytest.raises(UsageError):
            workshop.export(workshop.one(), parse(text))
    with pytest.raises(NotFoundError):
        workshop.export(workshop.one(), parse(f"type=oci,dest={tmp_path / 'no' / 'where.tar'}"))


# --- archives that others made, or want to hurt with --------------------------------------------------------


def archive(tmp_path: Path, *members: tuple[tarfile.TarInfo, bytes] | tuple[str, bytes]) -> Path:
    path = tmp_path / "made.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def saved_image(layer: bytes, **changes: str) -> list[tuple[str, bytes]]:
    config = {
        "architecture": "arm64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest()]},
    }
    manifest = [{"Config": "c.json", "RepoTags": ["old/app:1"], "Layers": ["a/layer.tar"], **changes}]
    return [
        ("a/layer.tar", layer),
        ("c.json", json.dumps(config).encode()),
        ("manifest.json", json.dumps(manifest).encode()),
    ]


def test_what_old_dockers_saved(tmp_path: Path) -> None:
    layer = b"\0" * 1024
    path = archive(tmp_path, *saved_image(layer))
    with ArchiveStore.open_file(path) as store:
        found = inspect(store, store.resolve("old/app:1"))
        assert [str(platform) for platform in found.platforms] == ["linux/arm64"]
        assert store.open(found.variants[0].layers[0]).read() == layer


def test_links_inside_an_archive_are_followed_in_it_only(tmp_path: Path) -> None:
    layer = b"\0" * 1024
    link = tarfile.TarInfo("b/layer.tar")
    link.type, link.linkname = tarfile.SYMTYPE, "../a/layer.tar"
    image = saved_image(layer, Layers=["b/layer.tar"])  # type: ignore[arg-type]
    with ArchiveStore.open_file(archive(tmp_path, *image, (link, b""))) as store:
        assert store.open(inspect(store, store.roots()[0]).variants[0].layers[0]).read() == layer
    loop = tarfile.TarInfo("b/layer.tar")
    loop.type, loop.linkname = tarfile.SYMTYPE, "layer.tar"
    with pytest.raises(ContentError, match="lacks the layer"):
        ArchiveStore.open_file(archive(tmp_path, *image, (loop, b"")))
    out = tarfile.TarInfo("b/layer.tar")
    out.type, out.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(ContentError, match="lacks the layer"):
        ArchiveStore.open_file(archive(tmp_path, *image, (out, b"")))


@pytest.mark.parametrize(
    "members",
    [
        [],
        [("index.json", b"[]")],
        [("index.json", b"{" * 10_000)],
        [("manifest.json", b"[" * 100_000)],
        [("manifest.json", b"[{}]")],
        [("manifest.json", b'[{"Config":"../../etc/passwd","Layers":[]}]')],
        [
            (
                "index.json",
                b'{"schemaVersion":2,"manifests":[{"digest":"sha256:../../x","size":1,"mediaType":"m"}]}',
            )
        ],
        saved_image(b"x", RepoTags=["UPPER CASE"]),  # type: ignore[arg-type]
        saved_image(b"x", Layers=["a/layer.tar", "a/layer.tar"]),  # type: ignore[arg-type]
    ],
)
def test_hostile_archives_are_refused(tmp_path: Path, members: list[tuple[str, bytes]]) -> None:
    path = archive(tmp_path, *members)
    with pytest.raises(PolyarchError), ArchiveStore.open_file(path) as store:
        for root in store.roots():
            inspect(store, root)


def test_a_layer_that_is_not_what_the_config_says(tmp_path: Path) -> None:
    members = dict(saved_image(b"\0" * 1024))
    members["a/layer.tar"] = b"\1" * 1024
    with pytest.raises(ContentError, match="not what its config says"):
        ArchiveStore.open_file(archive(tmp_path, *members.items()))


def test_compressed_and_broken_archives(workshop: Workshop, tmp_path: Path) -> None:
    plain = tmp_path / "app.tar"
    workshop.export(workshop.two(), parse(f"type=oci,dest={plain}"), tags=("app:1",))
    packed = tmp_path / "app.tar.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    with ArchiveStore.open_file(packed) as store:
        assert len(inspect(store, store.roots()[0]).variants) == 2
    for name, data in {
        "cut.tar.gz": packed.read_bytes()[:-200],
        "cut.tar": plain.read_bytes()[:700],
        "noise.tar": b"noise" * 1000,
        "fake.zst": b"\x28\xb5\x2f\xfd" + b"noise" * 100,
        "empty.tar": b"",
    }.items():
        broken = tmp_path / name
        broken.write_bytes(data)
        with pytest.raises(ContentError):
            ArchiveStore.open_file(broken)
    with pytest.raises(NotFoundError):
        ArchiveStore.open_file(tmp_path / "missing.tar")
