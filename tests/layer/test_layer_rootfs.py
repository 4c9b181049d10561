"""The merged view: against a model that simply applies layers to a dictionary, and by example."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_fixtures import file, layer, new_store

from polyarch.errors import ContentError, NotFoundError, PolyarchError, UsageError
from polyarch.layer.entry import Entry, Toc
from polyarch.layer.index import IndexedLayer
from polyarch.layer.rootfs import Rootfs
from polyarch.layer.toc import canonical


class FakeLayer(IndexedLayer):
    def __init__(self, *entries: Entry) -> None:
        super().__init__()
        self._toc = canonical(entries)

    @property
    def id(self) -> str:
        return f"fake:{id(self)}"

    def toc(self) -> Toc:
        return self._toc


def D(path: str, mode: int = 0o755) -> Entry:
    return Entry(path, "directory", mode)


def L(path: str, link: str) -> Entry:
    return Entry(path, "symlink", 0o777, link=link)


def W(path: str) -> Entry:
    return Entry(path, "whiteout", 0)


def O(path: str) -> Entry:  # noqa: E743 - as short as the others
    return Entry(path, "opaque", 0)


# --- a model --------------------------------------------------------------------------------------------

_names = st.sampled_from(["a", "b", "c", "a.x"])
_paths = st.lists(_names, min_size=1, max_size=3).map("/".join)


@st.composite
def _layers(draw: st.DrawFn) -> list[FakeLayer]:
    layers = []
    for number in range(draw(st.integers(1, 4))):
        entries: dict[str, Entry] = {}
        opaque: set[str] = set()
        for path in draw(st.lists(_paths, max_size=6, unique=True)):
            kind = draw(st.sampled_from(["file", "directory", "whiteout", "opaque"]))
            above = [path[:at] for at, c in enumerate(path) if c == "/"]
            if any(p in entries and entries[p].type != "directory" for p in above):
                continue
            if any(p.startswith(path + "/") for p in (*entries, *opaque)) and kind in ("file", "whiteout"):
                continue
            if kind == "opaque":
                opaque.add(path)
                entries[path] = D(path)
            elif kind == "whiteout":
                entries[path] = W(path)
            else:
                entries[path] = Entry(path, kind, 0o700 + number)  # type: ignore[arg-type]
        layers.append(FakeLayer(*entries.values(), *map(O, opaque)))
    return layers


def _model(layers: list[FakeLayer]) -> dict[str, tuple[str, int]]:
    tree: dict[str, tuple[str, int]] = {}

    def remove(path: str, *, inside_only: bool = False) -> None:
        for other in [p for p in tree if p.startswith(path + "/") or (p == path and not inside_only)]:
            del tree[other]

    for each in layers:
        entries = each.toc().entries
        for entry in entries:
            if entry.type == "whiteout":
                remove(entry.path)
            elif entry.type == "opaque":
                remove(entry.path, inside_only=True)
        for entry in entries:
            if entry.type in ("whiteout", "opaque"):
                continue
            if entry.type != "directory":
                remove(entry.path)
            for at, character in enumerate(entry.path):
                if character == "/":
                    parent = entry.path[:at]
                    if tree.get(parent, ("file", 0))[0] != "directory":
                        tree[parent] = ("directory", 0o755)
            tree[entry.path] = (entry.type, entry.mode)
    return tree


@given(_layers())
@settings(max_examples=400, deadline=None)
def test_merged_view_is_that_of_the_model(layers: list[FakeLayer]) -> None:
    expected = _model(layers)
    rootfs = Rootfs()
    for each in layers:
        rootfs = rootfs.with_layer(each)
    found = {entry.path: (entry.type, entry.mode) for entry in rootfs.walk() if entry.path}
    assert found == expected
    for path in expected:
        entry = rootfs.get(path)
        assert entry is not None and (entry.type, entry.mode) == expected[path]
    assert rootfs.get("no/such") is None
    assert list(expected) == [] or rootfs.children("") == sorted({p.split("/")[0] for p in expected})


# --- by example -----------------------------------------------------------------------------------------


def test_nothing_is_there_but_the_root() -> None:
    empty = Rootfs()
    root = empty.get("")
    assert root is not None and (root.type, root.mode) == ("directory", 0o755)
    assert empty.get("x") is None
    assert empty.children("") == []
    assert [e.path for e in empty.walk()] == [""]
    assert empty.resolve("/a/../../b") == "b"


LINKS = FakeLayer(
    D("usr"), D("usr/bin"), file("usr/bin/sh"), L("bin", "usr/bin"), L("abs", "/usr"), L("up", "../../.."),
    L("loop", "loop2"), L("loop2", "/loop"), L("usr/rel", "bin/../bin/sh"), L("dangling", "nowhere/x"),
    D("d"), L("d/self", "."), file("usr/bin/[x]"), file("usr/bin/.hidden"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("path", "last", "expected"),
    [
        ("bin/sh", True, "usr/bin/sh"),
        ("/bin", True, "usr/bin"),
        ("bin", False, "bin"),
        ("bin/sh", False, "usr/bin/sh"),
        ("abs/bin/sh", True, "usr/bin/sh"),
        ("up/usr/rel", True, "usr/bin/sh"),
        ("usr/rel", False, "usr/rel"),
        ("dangling", True, "nowhere/x"),
        ("no/such/../path", True, "no/path"),
        ("../../bin/../..", True, ""),
        ("d/self/self/self/x", True, "d/x"),
        ("", True, ""),
        (".", True, ""),
        ("usr/bin/sh/below", True, "usr/bin/sh/below"),
    ],
)
def test_resolve(path: str, last: bool, expected: str) -> None:
    assert Rootfs((LINKS,)).resolve(path, last=last) == expected


def test_loops_end() -> None:
    with pytest.raises(PolyarchError) as caught:
        Rootfs((LINKS,)).resolve("loop/x")
    assert caught.value.reason == "symlink-loop"
    assert Rootfs((LINKS,)).resolve("loop", last=False) == "loop"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["abs", "bin", "d", "dangling", "loop", "loop2", "up", "usr"]),
        ("bin/*", ["usr/bin/.hidden", "usr/bin/[x]", "usr/bin/sh"]),
        ("u?r/b?n/s*", ["usr/bin/sh"]),
        ("b?n/*", []),
        ("bin/s[a-h]", ["usr/bin/sh"]),
        ("bin/s[^h]", []),
        ("usr/bin/\\[x\\]", ["usr/bin/[x]"]),
        ("/usr/./bin/sh", ["usr/bin/sh"]),
        ("usr/bin/../b*", ["usr/bin"]),
        ("nothing*", []),
        ("", [""]),
    ],
)
def test_glob(pattern: str, expected: list[str]) -> None:
    assert Rootfs((LINKS,)).glob(pattern) == expected


def test_links_behind_a_wildcard_are_not_followed() -> None:
    rootfs = Rootfs((FakeLayer(file("x/b.c"), file("x/y/c.c"), L("l", "x"), L("loop", "loop")),))
    assert rootfs.glob("*/b.c") == rootfs.glob("**/*.c") == ["x/b.c"]
    assert rootfs.glob("l/*") == ["x/b.c", "x/y"]


@pytest.mark.parametrize("pattern", ["[", "[]", "[a", "[a-", "a\\", "[-a]"])
def test_bad_patterns(pattern: str) -> None:
    with pytest.raises(UsageError):
        Rootfs((LINKS,)).glob(pattern)


def test_content_across_layers(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    low = layer(store, [D("d", 0o700), file("d/a", b"low"), file("b", b"bb")], {"d/a": b"low", "b": b"bb"})
    top = layer(store, [file("d/c", b"cc"), Entry("d/l", "hardlink", link="d/c")], {"d/c": b"cc"})
    rootfs = Rootfs((low, top))
    assert rootfs.read("d/a", 10) == b"low"
    assert rootfs.read("d/l", 10) == b"cc"
    directory = rootfs.get("d")
    assert directory is not None and directory.mode == 0o700  # the top layer only implies it
    described = rootfs.files(["d/l", "b", "d/c"])
    assert [entry.path for entry in described] == ["d/l", "b", "d/c"]
    assert described[0].type == "file" and described[0].digest == rootfs.digest("d/c")
    with pytest.raises(ContentError):
        rootfs.read("d/a", 2)
    for missing in ("d", "nothing"):
        with pytest.raises(NotFoundError):
            rootfs.open(missing)


def test_hardlinks_to_lower_layers_are_read(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    low = layer(store, [file("a", b"low")], {"a": b"low"})
    top = FakeLayer(Entry("b", "hardlink", link="a"), Entry("c", "hardlink", link="none"))
    assert Rootfs((low, top)).read("b", 10) == b"low"
    with pytest.raises(ContentError) as caught:
        Rootfs((low, top)).open("c")
    assert caught.value.reason == "broken-hardlink"


def test_content_digest_ignores_place_and_times(tmp_path: Path) -> None:
    store = new_store(tmp_path)

    def view(
        prefix: str, *, mtime: int = 0, mode: int = 0o644, content: bytes = b"x", uid: int = 0
    ) -> Rootfs:
        entries = [
            D(prefix),
            file(f"{prefix}/f", content, mode=mode, mtime_ns=mtime * 10**9, uid=uid),
            L(f"{prefix}/l", "f"),
        ]
        return Rootfs((layer(store, entries, {f"{prefix}/f": content}),))

    same = view("one").content_digest("one")
    assert view("two", mtime=5).content_digest("two") == same
    for other in (view("one", mode=0o600), view("one", content=b"y"), view("one", uid=1)):
        assert other.content_digest("one") != same
    only = view("one").content_digest("one", exclude=lambda name: name == "l")
    assert only != same
    assert view("one").content_digest("one", include=lambda name: name == "f") == only
    assert view("one").content_digest("one/f") == view("two").content_digest("two/f")


def test_walk_order_is_that_of_tocs() -> None:
    names = ["a", "a.b", "a/b", "a/b/c", "a-b"]
    rootfs = Rootfs((FakeLayer(D("a"), D("a/b"), *map(file, ["a.b", "a-b", "a/b/c"])),))
    walked = [entry.path for entry in rootfs.walk() if entry.path]
    assert walked == ["a", "a/b", "a/b/c", "a-b", "a.b"] and sorted(walked) == sorted(names)
    two = rootfs.with_layer(FakeLayer(file("z")))
    assert [entry.path for entry in two.walk() if entry.path] == [*walked, "z"]
