"""The layout on disk: names, foreign layouts, crashes, full disks, many processes."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from polyarch.content import ingest
from polyarch.content.layout import Layout
from polyarch.content.verify import read
from polyarch.errors import ContentError, NotFoundError, PolyarchError
from polyarch.oci import digest as digests
from polyarch.oci.descriptor import Descriptor
from polyarch.testing.store_contract import describe


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path / "layout")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_reading_creates_nothing(layout: Layout) -> None:
    assert not layout.exists(digests.of(b""))
    assert layout.names() == [] and list(layout.blobs()) == []
    assert not layout.untag("a") and not layout.delete(digests.of(b""))
    assert not layout.root.exists()


def test_what_is_on_disk_is_an_oci_layout(layout: Layout) -> None:
    layout.tag("app:1", layout.push_bytes(b"{}", "application/json"))
    assert json.loads((layout.root / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((layout.root / "index.json").read_bytes())
    assert index["schemaVersion"] == 2
    (entry,) = index["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "docker.io/library/app:1"}
    assert files(layout.root) == [
        f"blobs/sha256/{digests.encoded(digests.of(b'{}'))}",
        "index.json",
        "oci-layout",
    ]


def test_a_layout_without_any_name_is_one_too(layout: Layout) -> None:
    layout.push_bytes(b"x", "a/b")
    assert Layout(layout.root, create=False).names() == []


def test_names_are_normalised_and_replaced(layout: Layout) -> None:
    first, second = layout.push_bytes(b"1", "a/b"), layout.push_bytes(b"2", "a/b")
    layout.tag("app", first)
    layout.tag("docker.io/library/app:latest", second)
    assert [(name, d.digest) for name, d in layout.names()] == [
        ("docker.io/library/app:latest", second.digest)
    ]
    assert layout.untag("app") and not layout.untag("app")
    assert layout.exists(second.digest)


def test_publish_keeps_the_annotations_it_is_given(layout: Layout) -> None:
    made = layout.push_bytes(b"1", "a/b")
    for note in ("old", "new"):
        annotations = {
            "io.containerd.image.name": "docker.io/library/app:1",
            "org.opencontainers.image.ref.name": "1",
            "note": note,
        }
        layout.publish(
            Descriptor(media_type="a/b", digest=made.digest, size=made.size, annotations=annotations)
        )
    assert [entry.annotations["note"] for entry in layout.roots()] == ["new"]
    assert layout.resolve("1").digest == layout.resolve("app:1").digest == made.digest
    assert [name for name, _ in layout.names()] == ["docker.io/library/app:1"]


def test_a_foreign_layout_keeps_what_we_do_not_know(layout: Layout) -> None:
    made = layout.push_bytes(b"1", "a/b")
    foreign = {
        "schemaVersion": 2,
        "x-unknown": [1],
        "manifests": [
            {"mediaType": "a/b", "digest": made.digest, "size": 1, "x-more": {"deep": True}},
            {"mediaType": "a/b", "digest": made.digest, "size": 1,
             "annotations": {"org.opencontainers.image.ref.name": "some name of theirs"}},
        ],
    }  # fmt: skip
    (layout.root / "index.json").write_text(json.dumps(foreign))
    assert layout.resolve("some name of theirs").digest == made.digest
    layout.tag("ours", made)
    written = json.loads((layout.root / "index.json").read_bytes())
    assert written["x-unknown"] == [1]
    assert written["manifests"][:2] == foreign["manifests"]
    assert len(layout.roots()) == 3 and len(layout.names()) == 2


@pytest.mark.parametrize(
    "broken",
    [b"", b"{", b"[]", b'{"manifests": 3}', b'{"manifests": [3]}', b'{"manifests": [{"digest": 1}]}',
     b'{"manifests":' + b"[" * 100_000],
)  # fmt: skip
def test_a_broken_index_is_an_error_and_stays_as_it_is(layout: Layout, broken: bytes) -> None:
    made = layout.push_bytes(b"1", "a/b")
    (layout.root / "index.json").write_bytes(broken)
    for attempt in (layout.names, lambda: layout.tag("a", made), lambda: Layout(layout.root, create=False)):
        with pytest.raises(ContentError) as caught:
            attempt()
        assert caught.value.reason == "invalid-layout"
    assert (layout.root / "index.json").read_bytes() == broken


def test_what_is_no_layout(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        Layout(tmp_path, create=False)
    assert caught.value.reason == "not-a-layout"


def test_a_blob_that_rotted_on_disk_is_noticed(layout: Layout) -> None:
    made = layout.push_bytes(b"good content", "a/b")
    path = layout.path(made.digest)
    path.write_bytes(b"evil content")
    with pytest.raises(ContentError) as caught:
        read(layout, made, limit=100)
    assert caught.value.reason == "digest-mismatch"
    path.write_bytes(b"good")
    with pytest.raises(ContentError) as caught:
        read(layout, made, limit=100)
    assert caught.value.reason == "truncated"
    layout.push(io.BytesIO(b"good content"), made)  # a truncated blob is mended by the next push
    assert read(layout, made, limit=100) == b"good content"


def test_a_pipe_in_place_of_a_blob_does_not_block(layout: Layout) -> None:
    made = layout.push_bytes(b"x", "a/b")
    layout.path(made.digest).unlink()
    os.mkfifo(layout.root / "blobs/sha256" / digests.encoded(made.digest))
    with pytest.raises(ContentError):
        layout.open(made)
    assert not layout.exists(made.digest)


def test_writer(layout: Layout) -> None:
    with layout.writer() as writer:
        for piece in (b"some ", bytearray(b"bytes"), memoryview(b"!")):
            writer.write(piece)
        digest, size = writer.commit()
    assert (digest, size) == (digests.of(b"some bytes!"), 11)
    assert list(layout.blobs()) == [(digest, 11)]


def test_an_abandoned_writer_leaves_nothing(layout: Layout) -> None:
    with pytest.raises(RuntimeError), layout.writer() as writer:
        writer.write(b"half")
        raise RuntimeError
    with layout.writer() as writer:
        writer.write(b"never committed")
    assert files(layout.root) == ["index.json", "oci-layout"]


def test_a_full_disk(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    layout.push_bytes(b"before", "a/b")
    before = files(layout.root)

    def full(_descriptor: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ingest.os, "write", full)
    for attempt in (
        lambda: layout.push_bytes(b"new", "a/b"),
        lambda: layout.push(io.BytesIO(b"new"), describe(b"new")),
        lambda: layout.tag("name", describe(b"before", "a/b")),
    ):
        with pytest.raises(PolyarchError) as caught:
            attempt()
        assert caught.value.reason == "no-space" and caught.value.hint
    monkeypatch.undo()
    assert files(layout.root) == before
    assert layout.names() == []


FULL = """
import io, os, sys
from pathlib import Path
from polyarch.content.layout import Layout
from polyarch.errors import PolyarchError
from polyarch.testing.store_contract import describe

def files():
    return sorted(path for path in layout.root.rglob("*") if path.is_file())

layout = Layout(Path(sys.argv[1]) / "layout")
kept = layout.push_bytes(b"kept", "a/b")
layout.tag("kept", kept)
before = files()
data = os.urandom(400_000)
try:
    layout.push(io.BytesIO(data), describe(data))
except PolyarchError as error:
    assert error.reason == "no-space", error
else:
    raise SystemExit("it fitted")
assert files() == before
assert layout.resolve("kept").digest == kept.digest
"""


@pytest.mark.userns
def test_a_really_full_disk(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=300k none "$0" && exec "$@" "$0"'
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, str(tmp_path)]
    done = subprocess.run([*command, sys.executable, "-c", FULL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


WRITER = """
import sys
from pathlib import Path
from polyarch.content.layout import Layout
layout = Layout(Path(sys.argv[1]))
for number in range(30):
    made = layout.push_bytes(f"{sys.argv[2]}-{number}".encode(), "a/b")
    layout.tag(f"name-{sys.argv[2]}-{number}", made)
"""


def test_two_processes_do_not_lose_each_others_names(layout: Layout) -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(layout.root), name]) for name in ("a", "b", "c")
    ]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert len(layout.names()) == 90
    for _, descriptor in layout.names():
        read(layout, descriptor, limit=100)


KILLED = """
import os, signal, sys
from pathlib import Path
from polyarch.content.layout import Layout
writer = Layout(Path(sys.argv[1])).writer()
writer.write(b"half of it")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_swept_by_the_next(layout: Layout) -> None:
    layout.push_bytes(b"x", "a/b")
    clean = files(layout.root)
    subprocess.run([sys.executable, "-c", KILLED, str(layout.root)], check=False)
    assert len(files(layout.root)) == len(clean) + 1
    with layout.writer() as alive:  # one that is being written just now must survive
        alive.write(b"alive")
        Layout(layout.root).push_bytes(b"x", "a/b")
        alive.commit()
    assert layout.exists(digests.of(b"alive"))
    layout.delete(digests.of(b"alive"))
    assert files(layout.root) == clean
