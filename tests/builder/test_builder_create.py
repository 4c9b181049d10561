"""What ``create`` makes of what it is told: drivers, endpoints, options, and every mistake."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from polyarch.builder import options
from polyarch.builder.create import Wish, create, leave
from polyarch.builder.daemon_config import CONFIG_FOLDER
from polyarch.builder.endpoint import resolve
from polyarch.builder.records import Builders
from polyarch.builder.words import new_name
from polyarch.content.state import State
from polyarch.errors import NotFoundError, PolyarchError, UsageError


@pytest.mark.parametrize(
    "driver, endpoint, expected",
    [
        ("", "", ("embedded", "")),
        ("", "embedded", ("embedded", "")),
        ("", "default", ("embedded", "")),
        ("embedded", "", ("embedded", "")),
        ("", "ssh://user@arm64-host", ("ssh", "ssh://user@arm64-host")),
        ("", "ssh://[fe80::1]:2222", ("ssh", "ssh://[fe80::1]:2222")),
        ("", "tcp://buildkitd:1234", ("remote", "tcp://buildkitd:1234")),
        ("", "tcp://engine:2376", ("docker-engine", "tcp://engine:2376")),
        ("", "unix:///run/buildkit/buildkitd.sock", ("remote", "unix:///run/buildkit/buildkitd.sock")),
        ("", "unix:///var/run/docker.sock", ("docker-engine", "unix:///var/run/docker.sock")),
        ("remote", "unix:///var/run/docker.sock", ("remote", "unix:///var/run/docker.sock")),
        ("remote", "ssh://me@host", ("remote", "ssh://me@host")),
        ("", "docker-container://buildkitd", ("remote", "docker-container://buildkitd")),
        (
            "",
            "kube-pod://pod?namespace=a&container=b",
            ("remote", "kube-pod://pod?namespace=a&container=b"),
        ),
        ("docker", "ssh://me@host", ("docker-engine", "ssh://me@host")),
        ("docker-engine", "", ("docker-engine", "unix:///var/run/docker.sock")),
        ("kubernetes", "", ("kubernetes", "")),
        ("k8s", "", ("kubernetes", "")),
    ],
)
def test_endpoints(driver: str, endpoint: str, expected: tuple[str, str]) -> None:
    assert resolve(driver, endpoint, {"DOCKER_CONFIG": "/nonexistent"}) == expected


@pytest.mark.parametrize(
    "driver, endpoint, said",
    [
        ("", "user@host", "ssh://user@host"),
        ("", "ssh://", "host is missing"),
        ("", "ssh://-oProxyCommand=sh", "hyphen"),
        ("", "ssh://-l@host", "hyphen"),
        ("", "ssh://me:secret@host", "no password"),
        ("", "ssh://host:port", "ort"),
        ("", "ssh://ho st", "white space"),
        ("", "ssh://host/path", "nothing comes behind"),
        ("", "tcp://host:1?x=y", "nothing comes behind"),
        ("", "ssh://host\n-x", "ssh"),
        ("", "tcp://host", "port is missing"),
        ("", "unix://relative/path", "absolute path"),
        ("", "http://host", "reaches"),
        ("", "kubernetes://x", "--driver kubernetes"),
        ("", "npipe:////./pipe/docker", "reaches"),
        ("ssh", "", "no ssh endpoint"),
        ("ssh", "tcp://host:1", "the driver ssh reaches ssh://"),
        ("remote", "", "no remote endpoint"),
        ("remote", "host:1234", "reaches tcp://"),
        ("embedded", "ssh://host", "takes no endpoint"),
        ("kubernetes", "ssh://host", "takes no endpoint"),
        ("docker-container", "", "without a container"),
        ("kubernets", "", "did you mean 'kubernetes'"),
        ("foo", "", 'failed to find driver "foo"'),
    ],
)
def test_endpoints_that_cannot_be(driver: str, endpoint: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolve(driver, endpoint, {"DOCKER_CONFIG": "/nonexistent"})
    error = caught.value
    text = f"{error.summary}\n{error.detail}\n{error.hint}"
    assert said in text and error.hint and "secret" not in text


def test_endpoints_of_the_environment(tmp_path: Path) -> None:
    assert resolve("remote", "", {"BUILDKIT_HOST": "tcp://b:1"}) == ("remote", "tcp://b:1")
    assert resolve("docker", "", {"DOCKER_HOST": "tcp://d:2375"}) == ("docker-engine", "tcp://d:2375")
    digest = hashlib.sha256(b"node-arm64").hexdigest()
    meta = tmp_path / "contexts" / "meta" / digest / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Name": "node-arm64", "Endpoints": {"docker": {"Host": "ssh://me@arm"}}}))
    environment = {"DOCKER_CONFIG": str(tmp_path)}
    assert resolve("", "node-arm64", environment) == ("docker-engine", "ssh://me@arm")
    assert resolve("docker", "node-arm64", environment) == ("docker-engine", "ssh://me@arm")
    meta.write_text("[" * 10_000)
    with pytest.raises(UsageError):
        resolve("", "node-arm64", environment)


def test_the_guide_word_for_word(state: State) -> None:
    builders = Builders(state)
    first = Wish(
        name="multiarch", node="arm-builder", platforms=("linux/arm64",), endpoint="ssh://user@arm64-host"
    )
    create(builders, first, {})
    made = create(builders, Wish(name="multiarch", platforms=("linux/amd64",), append=True), {})
    assert [(n.name, n.driver, n.endpoint, *map(str, n.platforms)) for n in made.builder.nodes] == [
        ("arm-builder", "ssh", "ssh://user@arm64-host", "linux/arm64"),
        ("multiarch0", "embedded", "", "linux/amd64"),
    ]
    assert made.notes == ()


def test_a_node_is_changed_by_what_is_said(state: State) -> None:
    builders = Builders(state)
    create(builders, Wish(name="b", node="n", platforms=("linux/arm64",), endpoint="ssh://a"), {})
    made = create(builders, Wish(name="b", node="n", platforms=("linux/amd64,linux/386",)), {})
    assert (made.nodes[0].endpoint, made.nodes[0].driver) == ("ssh://a", "ssh")
    assert [str(p) for p in made.nodes[0].platforms] == ["linux/amd64", "linux/386"]
    options = ("cacert=/etc/hostname", "servername=x")
    made = create(
        builders, Wish(name="b", node="n", driver="remote", endpoint="tcp://a:1", driver_opts=options), {}
    )
    assert made.nodes[0].driver == "remote" and made.nodes[0].driver_opts == {
        "cacert": "/etc/hostname",
        "servername": "x",
    }
    assert [str(p) for p in made.nodes[0].platforms] == ["linux/amd64", "linux/386"]
    made = create(builders, Wish(name="b", node="n", endpoint="tcp://b:1", append=True), {})
    assert made.nodes[0].endpoint == "tcp://b:1" and made.nodes[0].driver_opts["servername"] == "x"
    assert made.notes == ("node n was there already, and was changed",)


def test_mistakes(state: State) -> None:
    builders = Builders(state)
    create(builders, Wish(name="b", endpoint="ssh://a"), {})
    for wish, said in [
        (Wish(append=True), "append requires a builder name"),
        (Wish(name="x", append=True), 'failed to find builder "x" for append'),
        (Wish(name="b"), 'existing builder for "b" but no append mode'),
        (Wish(name="b", node="n"), "node n not found, did you mean to append?"),
        (Wish(name="b", append=True, endpoint="ssh://a"), "place of node b0 already"),
        (Wish(name="default"), "reserved"),
        (Wish(name="bad name"), "invalid name"),
        (Wish(name="c", node="bad name"), "invalid name"),
        (Wish(name="c", platforms=("linux/amd46",)), "unknown architecture"),
        (Wish(name="c", driver_opts=("x",)), "not KEY=VALUE"),
        (Wish(name="c", driver_opts=("x=1",)), "invalid driver option"),
        (Wish(name="c", flags="'"), "--buildkitd-flags"),
        (Wish(name="c", config="/nonexistent"), "--buildkitd-config"),
        (Wish(name="c", driver="remote", endpoint="tcp://a:1", driver_opts=("cert=/etc/hostname",)), "both"),
    ]:
        with pytest.raises(PolyarchError) as caught:
            create(builders, wish, {})
        assert said in str(caught.value), said
    assert builders.names() == ["b"] and len(builders.get("b").nodes) == 1
    for name, node, said in [
        ("", "n", "leave requires a builder name"),
        ("b", "", "leave requires a node name"),
        ("x", "n", 'failed to find builder "x" for leave'),
        ("b", "n", "has no node 'n'"),
        ("b", "b0", "the last"),
    ]:
        with pytest.raises(PolyarchError, match=said):
            leave(builders, name, node)


def test_leaving(state: State) -> None:
    builders = Builders(state)
    create(builders, Wish(name="b", endpoint="ssh://a"), {})
    create(builders, Wish(name="b", endpoint="ssh://c", append=True), {})
    leave(builders, "b", "b0")
    assert [node.name for node in builders.get("b").nodes] == ["b1"]
    create(builders, Wish(name="b", endpoint="ssh://d", append=True), {})  # names are not used twice
    assert [node.name for node in builders.get("b").nodes] == ["b1", "b0"]


def test_the_environment_names_a_daemon_for_a_new_builder_alone(state: State) -> None:
    builders, environment = Builders(state), {"BUILDKIT_HOST": "tcp://b:1"}
    assert create(builders, Wish(name="b"), environment).nodes[0].driver == "remote"
    assert create(builders, Wish(name="b", append=True), environment).nodes[0].driver == "embedded"


def test_what_scripts_for_buildx_say_is_taken(state: State, tmp_path: Path) -> None:
    config = tmp_path / "buildkitd.toml"
    config.write_text("debug = true\n")
    wish = Wish(
        driver_opts=("network=host", "image=moby/buildkit:latest"), flags="--debug", config=str(config)
    )
    made = create(Builders(state), wish, {})
    assert made.nodes[0].driver_opts == {} and len(made.notes) == 2
    assert all("has no effect" in note for note in made.notes)


def test_a_daemons_configuration_brings_its_certificates(state: State, tmp_path: Path) -> None:
    certificate, config = tmp_path / "ca.pem", tmp_path / "buildkitd.toml"
    certificate.write_text("certificate")
    config.write_text(f'[registry."r.example:5000"]\n  ca = ["{certificate}"]\n')
    made = create(Builders(state), Wish(driver="kubernetes", name="k", config=str(config)), {})
    assert made.nodes[0].files["certs/r.example:5000/ca.pem"] == b"certificate"
    text = made.nodes[0].files["buildkitd.toml"].decode()
    assert f'"{CONFIG_FOLDER}/certs/r.example:5000/ca.pem"' in text and str(tmp_path) not in text
    assert made.nodes[0].endpoint == "kubernetes:///k?deployment=k0"
    for content in (b"\xff", b"a = ["):
        config.write_bytes(content)
        with pytest.raises(UsageError, match="not TOML"):
            create(Builders(state), Wish(driver="kubernetes", name="l", config=str(config)), {})


@pytest.mark.parametrize(
    "key, value, kept",
    [
        ("replicas", "3", "3"),
        ("replicas", "0", None),
        ("replicas", "x", None),
        ("rootless", "1", "true"),
        ("rootless", "maybe", None),
        ("requests.cpu", "500m", "500m"),
        ("limits.memory", "4Gi", "4Gi"),
        ("limits.memory", "4GiB", None),
        ("loadbalance", "random", "random"),
        ("loadbalance", "fair", None),
        ("timeout", "2m30s", "2m30s"),
        ("timeout", "soon", None),
        ("namespace", "builds", "builds"),
        ("namespace", "Builds/..", None),
        ("tolerations", "key=a,operator=Exists;key=b,value=c,effect=NoSchedule", "same"),
        ("tolerations", "name=a", None),
        ("nodeselector", "a=b,kubernetes.io/arch=arm64", "same"),
        ("nodeselector", "=b", None),
        ("env.HTTP_PROXY", "http://p", "same"),
        ("image", "", None),
    ],
)
def test_kubernetes_options(key: str, value: str, kept: str | None) -> None:
    if kept is None:
        with pytest.raises(UsageError):
            options.parse("kubernetes", {key: value})
    else:
        assert options.parse("kubernetes", {key: value}) == {key: value if kept == "same" else kept}


def test_a_node_in_a_cluster_for_each_architecture(state: State) -> None:
    builders = Builders(state)
    platforms = ("linux/amd64,linux/386", "linux/arm64", "linux/arm/v7")
    made = create(builders, Wish(name="k", driver="kubernetes", platforms=platforms), {})
    assert [(node.name, node.endpoint, *map(str, node.platforms)) for node in made.nodes] == [
        ("k0", "kubernetes:///k?deployment=k0", "linux/amd64", "linux/386"),
        ("k1", "kubernetes:///k?deployment=k1", "linux/arm64", "linux/arm/v7"),
    ]
    named = Wish(name="n", node="n", driver="kubernetes", platforms=("linux/amd64,linux/s390x",))
    assert [node.name for node in create(builders, named, {}).nodes] == ["n-amd64", "n-s390x"]
    with pytest.raises(UsageError, match="one architecture"):
        create(builders, Wish(name="k", node="k0", platforms=("linux/amd64,linux/s390x",)), {})


def test_files_of_options_are_there_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ca.pem").touch()
    monkeypatch.chdir(tmp_path)
    assert options.parse("remote", {"cacert": "ca.pem"}) == {"cacert": str(tmp_path / "ca.pem")}
    with pytest.raises(NotFoundError, match=r"no file .*/other\.pem"):
        options.parse("remote", {"cacert": "other.pem"})


def test_a_builder_that_loads(state: State) -> None:
    builders = Builders(state)
    plain = create(builders, Wish(name="a", driver="remote", endpoint="tcp://a:1"), {}).builder
    options = ("default-load=true",)
    loading = create(builders, Wish(name="b", driver="remote", endpoint="tcp://a:1", driver_opts=options), {})
    assert not plain.loads and loading.builder.loads


def test_durations() -> None:
    assert [options.seconds(text) for text in ("90", "1m30s", "500ms", "x", "1x", "")] == [
        90.0,
        90.0,
        0.5,
        None,
        None,
        None,
    ]


def test_new_names() -> None:
    names = {new_name(()) for _ in range(200)}
    assert len(names) > 150 and all("_" in name and name.islower() for name in names)
