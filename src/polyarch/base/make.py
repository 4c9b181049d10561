"""From a recipe to an index in the local store: resolve, compare with what is there, make what is not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from polyarch.base import host_sources
from polyarch.base.archive import Archive, Package
from polyarch.base.host_sources import Entry
from polyarch.base.publish import FINGERPRINT, manifest_of, write_image, write_index
from polyarch.base.recipe import Recipe, architecture
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.errors import NotFoundError
from polyarch.oci.descriptor import Descriptor
from polyarch.oci.platform import Platform

Progress = Callable[[str], None]
_FORMAT = 1  # raised when the same packages would now make another image


@dataclass(frozen=True)
class Variant:
    """One platform of the base: its manifest, the packages in it, and whether it was made just now."""

    platform: Platform
    manifest: Descriptor
    packages: tuple[Package, ...]
    made: bool


@dataclass(frozen=True)
class Made:
    """The index that ``name`` names now, and its variants in the order asked for."""

    name: str
    index: Descriptor
    variants: tuple[Variant, ...]


@dataclass(frozen=True)
class _Plan:
    platform: Platform
    archive: Archive
    packages: tuple[Package, ...]
    fingerprint: str


def make(
    recipe: Recipe,
    *,
    state: State | None = None,
    refresh: bool = False,
    progress: Progress = lambda _line: None,
) -> Made:
    """Make ``recipe`` and name it in the local store.

    A variant that the name already has, made the same way of the same package versions, is kept; ``refresh``
    asks the mirror again and makes everything anew. UsageError for a recipe that makes no sense,
    UnsupportedError for what this machine lacks, PolyarchError with apt's words where packages cannot be had.
    """
    state = state or State.default()
    recipe = recipe.checked()
    suite = recipe.suite or host_sources.host_suite()
    entries = host_sources.chosen(recipe, suite, host_sources.read())
    store = Layout.local(state)
    known = {} if refresh else _known(store, recipe.name)
    variants = []
    for platform in recipe.platforms:
        plan = _plan(
            recipe, suite, platform, entries, state.root / "base", refresh=refresh, progress=progress
        )
        kept = known.get(plan.fingerprint)
        manifest = kept or _make(recipe, plan, suite, store, state, progress)
        variants.append(Variant(platform, manifest, plan.packages, made=kept is None))
    index = write_index(store, [variant.manifest for variant in variants])
    store.tag(recipe.name, index)
    return Made(recipe.name, index, tuple(variants))


def _plan(
    recipe: Recipe,
    suite: str,
    platform: Platform,
    entries: tuple[Entry, ...],
    cache: Path,
    *,
    refresh: bool,
    progress: Progress,
) -> _Plan:
    archive = Archive(cache, architecture(platform), entries, recipe.apt_options)
    progress(f"{platform}: reading the package lists of {suite}")
    archive.update(refresh=refresh)
    packages = archive.resolve(recipe.wanted)
    facts = {
        "format": _FORMAT,
        "platform": str(platform.normalized()),
        "source": recipe.source,
        "variant": recipe.variant,
        "scripts": recipe.scripts,
        "packages": [(package.file, package.checksum) for package in packages],
        "sources": sources_of_image(recipe, suite, entries),
        "command": recipe.command,
        "environment": recipe.environment,
        "epoch": recipe.epoch,
    }
    fingerprint = "sha256:" + hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
    return _Plan(platform, archive, packages, fingerprint)


def sources_of_image(recipe: Recipe, suite: str, entries: Sequence[Entry]) -> str:
    """The sources.list of the image: Debian's public mirror, unless the ones used are to be kept."""
    chosen = entries if recipe.keep_sources else host_sources.official(suite, recipe.components)
    return "".join(entry.public() + "\n" for entry in chosen)


def _known(store: Layout, name: str) -> dict[str, Descriptor]:
    """The variants that ``name`` has now, by fingerprint; only those whose content is all there."""
    found = {}
    try:
        index = store.resolve(name)
        for descriptor, manifest in manifest_of(store, index):
            fingerprint = manifest.annotations.get(FINGERPRINT)
            parts = (manifest.config, *manifest.layers)
            if fingerprint and all(store.exists(part.digest) for part in parts):
                found[fingerprint] = descriptor
    except NotFoundError:
        pass  # nothing of that name, or not whole: it is made
    return found


def _make(
    recipe: Recipe, plan: _Plan, suite: str, store: Layout, state: State, progress: Progress
) -> Descriptor:
    total = sum(package.size for package in plan.packages)
    progress(f"{plan.platform}: fetching {len(plan.packages)} packages, {total / 1e6:.0f} MB")
    folder = plan.archive.fetch(recipe.wanted)
    for package in plan.packages:
        if not (folder / package.file).is_file():
            raise NotFoundError(f"apt did not fetch {package.label}", reason="apt")
    state.temporary.mkdir(parents=True, exist_ok=True)
    sources = sources_of_image(recipe, suite, plan.archive.entries)

    def report(line: str) -> None:
        progress(f"{plan.platform}: {line}")

    with write_image(store, recipe, plan.platform, suite, plan.fingerprint) as image:
        if recipe.assembled:
            from polyarch.base.assemble import assemble

            image.epoch = assemble(
                recipe,
                plan.packages,
                folder,
                sources,
                image.write,
                temporary=state.temporary,
                progress=report,
            )
        else:
            from polyarch.base.bootstrap import bootstrap

            image.epoch = bootstrap(
                recipe,
                suite,
                plan.platform,
                plan.archive,
                plan.packages,
                sources,
                image.write,
                state=state,
                progress=report,
            )
        return image.finish()
