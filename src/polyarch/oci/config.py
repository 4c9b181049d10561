"""The image configuration (OCI image-spec, config.md; Docker's additions: health check, shell, ONBUILD)."""

from __future__ import annotations

from typing import Any

import msgspec

from polyarch.oci.manifest import decode
from polyarch.oci.platform import Platform


class Healthcheck(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Docker's HEALTHCHECK; durations in nanoseconds, 0 means the engine's default."""

    test: tuple[str, ...] = msgspec.field(default=(), name="Test")
    interval: int = msgspec.field(default=0, name="Interval")
    timeout: int = msgspec.field(default=0, name="Timeout")
    start_period: int = msgspec.field(default=0, name="StartPeriod")
    start_interval: int = msgspec.field(default=0, name="StartInterval")
    retries: int = msgspec.field(default=0, name="Retries")


class ContainerConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="pascal"):
    """How a container of the image starts. None means absent, which differs from empty."""

    hostname: str = ""
    domainname: str = ""
    user: str = ""
    exposed_ports: dict[str, dict[str, Any]] | None = None
    env: tuple[str, ...] | None = None
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    healthcheck: Healthcheck | None = None
    args_escaped: bool = False
    volumes: dict[str, dict[str, Any]] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None
    stop_signal: str = ""
    stop_timeout: int | None = None
    on_build: tuple[str, ...] | None = None
    shell: tuple[str, ...] | None = None


class RootFs(msgspec.Struct, frozen=True, kw_only=True):
    """The uncompressed layers by digest, lowest first."""

    type: str = "layers"
    diff_ids: tuple[str, ...] | None = None


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One instruction in the image's past. ``created`` is RFC 3339."""

    created: str = ""
    created_by: str = ""
    author: str = ""
    comment: str = ""
    empty_layer: bool = False


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole configuration blob of an image."""

    architecture: str = ""
    os: str = ""
    os_version: str = msgspec.field(default="", name="os.version")
    os_features: tuple[str, ...] = msgspec.field(default=(), name="os.features")
    variant: str = ""
    author: str = ""
    created: str | None = None
    config: ContainerConfig | None = None
    rootfs: RootFs | None = None
    history: tuple[History, ...] | None = None

    @classmethod
    def parse(cls, data: bytes) -> ImageConfig:
        """ContentError names the field that is wrong."""
        return decode(data, cls, "image-config")

    def encode(self) -> bytes:
        return msgspec.json.encode(self)

    @property
    def platform(self) -> Platform:
        """The platform the configuration declares, normalised."""
        return Platform(
            os=self.os or "linux",
            architecture=self.architecture,
            variant=self.variant,
            os_version=self.os_version,
            os_features=self.os_features,
        ).normalized()
