"""Where a tag, or a platform of it, is missing: the tags of its repository that come nearest and have it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from polyarch.content.walk import children, variants
from polyarch.errors import PolyarchError
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform
from polyarch.oci.reference import Reference
from polyarch.registry.client import Client

_TRIED = 8  # tags whose manifest is looked at
_SHOWN = 3
_MAX_TAGS = 20_000


def closest(client: Client, reference: Reference, wanted: Sequence[Platform] = ()) -> list[str]:
    """Tags like ``reference``'s that serve every platform of ``wanted``, the nearest first; none where the
    registry does not tell. A few requests, at the same time; only asked when something is missing."""
    if not reference.tag:
        return []
    try:
        repository = client.repository(reference)
        tags = [tag for tag in repository.tags()[:_MAX_TAGS] if tag != reference.tag]
    except PolyarchError:
        return []
    near = sorted(tags, key=lambda tag: _distance(reference.tag, tag))[: _TRIED if wanted else _SHOWN]
    near = [tag for tag in near if _distance(reference.tag, tag)[0] < 0.7]

    def serves(tag: str) -> bool:
        try:
            _, raw = repository.manifest(tag)
            entries = children(raw) if raw.is_index else []
            there = [entry.platform for entry in variants(repository, entries) if entry.platform is not None]
        except PolyarchError:
            return False
        return all(platforms.choose(one, there) is not None for one in wanted)

    if wanted and near:
        with ThreadPoolExecutor(len(near), thread_name_prefix="closest") as pool:
            near = [tag for tag, fits in zip(near, pool.map(serves, near), strict=True) if fits]
    return near[:_SHOWN]


def _distance(wanted: str, tag: str) -> tuple[float, list[int], str]:
    """How unlike two tags are: their words first, then how far their numbers are apart."""
    likeness = difflib.SequenceMatcher(None, re.sub(r"\d+", "0", wanted), re.sub(r"\d+", "0", tag)).ratio()
    mine, its = ([int(number) for number in re.findall(r"\d{1,9}", text)] for text in (wanted, tag))
    apart = [abs(a - b) for a, b in zip(mine, its, strict=False)]
    return round(1 - likeness, 2), [*apart, abs(len(mine) - len(its))], tag
