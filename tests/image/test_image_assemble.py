"""Manifests and indexes as they are made."""

from __future__ import annotations

import json

import pytest

from polyarch.errors import ContentError, UsageError
from polyarch.image.assemble import assemble, index
from polyarch.layer.layer import Blob
from polyarch.oci import media_types
from polyarch.oci.config import ContainerConfig, History, ImageConfig
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform

ARM = Platform.parse("linux/arm/v7")
LAYERS = [
    Blob(
        Descriptor(media_type=media_types.OCI_LAYER_GZIP, digest="sha256:" + c * 64, size=n),
        "sha256:" + d * 64,
    )
    for c, d, n in (("a", "1", 10), ("b", "2", 20))
]
CONFIG = ImageConfig(
    architecture="amd64",
    os="linux",
    created="2024-01-01T00:00:00Z",
    config=ContainerConfig(labels={"b": "2", "a": "1"}, cmd=()),
    history=(History(created_by="COPY"), History(created_by="ENV", empty_layer=True)),
)


def test_the_config_is_filled_from_layers_and_platform() -> None:
    made = assemble(CONFIG, LAYERS, platform=ARM)
    config = json.loads(made.config_bytes)
    assert (config["architecture"], config["variant"], config["os"]) == ("arm", "v7", "linux")
    assert config["rootfs"]["diff_ids"] == ["sha256:" + "1" * 64, "sha256:" + "2" * 64]
    assert "Entrypoint" not in config["config"]
    assert len(config["history"]) == 2
    assert made.manifest.manifest.config == made.config
    assert [layer.size for layer in made.manifest.manifest.layers] == [10, 20]
    assert made.manifest.descriptor.size == len(made.manifest.data)


def test_the_order_of_labels_changes_nothing() -> None:
    other = ImageConfig(
        architecture="amd64",
        os="linux",
        created="2024-01-01T00:00:00Z",
        config=ContainerConfig(labels={"a": "1", "b": "2"}, cmd=()),
        history=CONFIG.history,
    )
    one, two = (assemble(c, LAYERS, platform=ARM, annotations={"x": "1"}) for c in (CONFIG, other))
    assert one == two


def test_docker_media_types_throughout() -> None:
    made = assemble(CONFIG, LAYERS, platform=ARM, media_types="docker")
    found = made.manifest.manifest
    assert made.manifest.media_type == media_types.DOCKER_MANIFEST
    assert found.config.media_type == media_types.DOCKER_CONFIG
    assert {layer.media_type for layer in found.layers} == {media_types.DOCKER_LAYER_GZIP}
    assert made.config_bytes == assemble(CONFIG, LAYERS, platform=ARM).config_bytes
    with pytest.raises(UsageError):
        assemble(CONFIG, LAYERS, platform=ARM, media_types="docker", annotations={"a": "b"})
    with pytest.raises(UsageError):
        index([made.manifest.descriptor], media_types="docker", annotations={"a": "b"})


def test_a_history_of_more_layers_than_there_are() -> None:
    with pytest.raises(ContentError) as caught:
        assemble(CONFIG, [], platform=ARM)
    assert caught.value.reason == "history-mismatch"


def test_empty_lists_are_left_out() -> None:
    """``CMD []``: Go programs write an empty list as none, and so must two builders of one image agree."""
    config = ImageConfig(config=ContainerConfig(cmd=(), entrypoint=("x",), labels={}))
    made = assemble(config, [], platform=Platform(os="linux", architecture="amd64"))
    assert json.loads(made.config_bytes)["config"] == {"Entrypoint": ["x"]}
