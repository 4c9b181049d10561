"""The index.json of an OCI layout: which names it gives to what (image-spec, image-layout.md).

Entries and fields that polyarch does not know are kept as they are.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec

from polyarch.errors import ContentError
from polyarch.oci import media_types
from polyarch.oci.descriptor import Descriptor

REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"
MAX_BYTES = 64 << 20


@dataclass
class NameTable:
    """One index.json, parsed. Methods change this value only; writing it is the layout's matter."""

    document: dict[str, Any]

    @classmethod
    def empty(cls) -> NameTable:
        return cls({"schemaVersion": 2, "mediaType": media_types.OCI_INDEX, "manifests": []})

    @classmethod
    def parse(cls, data: bytes, where: str) -> NameTable:
        """ContentError names ``where`` when ``data`` is no index."""
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ContentError(f"{where} is not valid JSON: {error}", reason="invalid-layout") from None
        if not isinstance(document, dict) or not isinstance(document.get("manifests", []), list | None):
            raise ContentError(f"{where} is not an image index", reason="invalid-layout")
        if not document.get("manifests"):
            document["manifests"] = []
        table = cls(document)
        try:
            for entry in table._entries:
                msgspec.convert(entry, Descriptor)
        except msgspec.ValidationError as error:
            raise ContentError(f"{where} has an invalid entry: {error}", reason="invalid-layout") from None
        return table

    def encode(self) -> bytes:
        return json.dumps(self.document, ensure_ascii=False, indent=2).encode() + b"\n"

    @property
    def _entries(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = self.document["manifests"]
        return entries

    def roots(self) -> list[Descriptor]:
        """Every entry, named or not, in order."""
        return [msgspec.convert(entry, Descriptor) for entry in self._entries]

    def names(self) -> list[tuple[str, Descriptor]]:
        """Every named entry by its name; containerd's annotation, which is the full reference, goes first."""
        named = []
        for descriptor in self.roots():
            found = descriptor.annotations
            if name := found.get(CONTAINERD_NAME) or found.get(REF_NAME):
                named.append((name, descriptor))
        return named

    def find(self, *names: str) -> Descriptor | None:
        """What one of ``names`` names: the first of them that is there; the newest entry of that name."""
        roots = self.roots()
        for name in names:
            for key in (CONTAINERD_NAME, REF_NAME):
                for descriptor in reversed(roots):
                    if descriptor.annotations.get(key) == name:
                        return descriptor
        return None

    def remove(self, name: str) -> bool:
        """Forget ``name``; whether it was there."""
        kept = [entry for entry in self._entries if name not in _names_of(entry)]
        found = len(kept) < len(self._entries)
        self.document["manifests"] = kept
        return found

    def forget(self, digest: str) -> None:
        """Remove every entry of ``digest``."""
        self.document["manifests"] = [entry for entry in self._entries if entry["digest"] != digest]

    def set(self, name: str, target: Descriptor) -> None:
        """Let ``name``, and nothing else of that name, name ``target``."""
        self.remove(name)
        annotations = {key: value for key, value in target.annotations.items() if key != CONTAINERD_NAME}
        annotations[REF_NAME] = name
        entry = msgspec.structs.replace(target, annotations=annotations, data="")
        self._entries.append(msgspec.to_builtins(entry))

    def publish(self, entry: Descriptor) -> None:
        """Add an entry with exactly its own annotations, in place of one of the same name or, without a
        name, of the same digest."""
        name = entry.annotations.get(CONTAINERD_NAME) or entry.annotations.get(REF_NAME)
        if name:
            self.remove(name)
        else:
            self.document["manifests"] = [e for e in self._entries if e["digest"] != entry.digest]
        self._entries.append(msgspec.to_builtins(msgspec.structs.replace(entry, data="")))


def _names_of(entry: dict[str, Any]) -> tuple[str | None, ...]:
    annotations = entry.get("annotations") or {}
    if name := annotations.get(CONTAINERD_NAME):
        return (name,)
    return (annotations.get(REF_NAME),)
