"""A build whose Dockerfile is not read here but given to a daemon's own frontend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from threading import Event
from typing import Protocol, runtime_checkable

from polyarch.builder.crew import Crew, Share, labelled
from polyarch.errors import UnsupportedError
from polyarch.graph.stages import NamedContext
from polyarch.layer.rootfs import Rootfs
from polyarch.oci.config import ImageConfig
from polyarch.oci.platform import Platform
from polyarch.solver.events import EventSink

Image = tuple[Platform, Rootfs, ImageConfig]


@dataclass(frozen=True)
class Handed:
    """What the frontend is given. ``dockerfile`` is the text, ``attributes`` are options in the frontend's
    own words; the files come from the contexts that the node knows."""

    frontend: str
    dockerfile: str
    target: str = ""
    build_args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    contexts: Mapping[str, NamedContext] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class HasFrontend(Protocol):
    """A node with a frontend of its own."""

    def frontend(
        self, given: Handed, wanted: tuple[Platform, ...], events: EventSink, cancelled: Event
    ) -> Sequence[Image]:
        """The images it makes for ``wanted``; for its own platform when that is empty."""
        ...


def attributes(
    *,
    network: str,
    hosts: Sequence[tuple[str, str]],
    shm_size: int,
    limits: Sequence[tuple[str, int, int]],
    no_cache: bool,
    no_cache_stages: frozenset[str],
    pull: bool,
) -> dict[str, str]:
    """Options of a build as frontends of Dockerfiles call them."""
    found: dict[str, str] = {}
    if network != "default":
        found["force-network-mode"] = network
    if hosts:
        found["add-hosts"] = ",".join(f"{name}={address}" for name, address in hosts)
    if shm_size:
        found["shm-size"] = str(shm_size)
    if limits:
        found["ulimit"] = ",".join(f"{name}={soft}:{hard}" for name, soft, hard in limits)
    if no_cache or no_cache_stages:
        found["no-cache"] = "" if no_cache else ",".join(sorted(no_cache_stages))
    if pull:
        found["image-resolve-mode"] = "pull"
    return found


def hand_over(
    crew: Crew, given: Handed, wanted: Sequence[Platform], events: EventSink, cancelled: Event
) -> tuple[list[Image], list[Share]]:
    """The images in the order of ``wanted``, and which node made what. UnsupportedError for a builder with a
    node that has no frontend."""
    shares = list(crew.shares(wanted, events))
    images: list[Image] = []
    for share in shares:
        node = crew.node(share.node)
        if not isinstance(node, HasFrontend):
            raise UnsupportedError(
                f"--frontend {given.frontend}: node {share.node} has no frontend of its own",
                hint="use a builder whose nodes are BuildKit daemons, or leave --frontend out",
                reason="no-frontend",
            )
        sink = labelled(events, share.node) if len(shares) > 1 else events
        images += node.frontend(given, share.platforms if wanted else (), sink, cancelled)
    order = [str(platform) for platform in wanted]
    images.sort(key=lambda image: order.index(str(image[0])) if str(image[0]) in order else len(order))
    return images, shares
