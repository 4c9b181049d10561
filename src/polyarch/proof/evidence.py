"""What is known of a variant: its files by their tables of contents, and the starts of its programs."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from polyarch.errors import NotFoundError, PolyarchError
from polyarch.layer.entry import Entry
from polyarch.layer.rootfs import Rootfs
from polyarch.oci.config import ContainerConfig, ImageConfig
from polyarch.oci.platform import Platform
from polyarch.proof.finding import Finding, Severity
from polyarch.proof.program import Program, of_stream

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Reader = Callable[[str], Program | None]


@dataclass
class Evidence:
    """One variant. ``complete`` is False where lower layers are not known: then what is missing may be there.

    ``reader`` tells what kind of program a regular file is, None when that would cost too much to find out;
    by default the file is read. ``below`` layers under those known are missing from ``rootfs``.
    """

    rootfs: Rootfs
    config: ImageConfig
    platform: Platform
    complete: bool = True
    reader: Reader | None = None
    below: int = 0
    _programs: dict[str, Program | None] = field(default_factory=dict)

    @cached_property
    def settings(self) -> ContainerConfig:
        """How a container of the image starts."""
        return self.config.config or ContainerConfig()

    @cached_property
    def environment(self) -> dict[str, str]:
        """The image's environment variables."""
        return dict(pair.partition("=")[::2] for pair in self.settings.env or ())

    @property
    def search_path(self) -> list[str]:
        """The folders where programs are looked for, absolute."""
        directory = self.settings.working_dir or "/"
        folders = self.environment.get("PATH", DEFAULT_PATH).split(":")
        return [posixpath.join("/", directory, folder) for folder in folders]

    def resolve(self, path: str) -> str | None:
        """``path`` without symlinks; None for a circle of them."""
        try:
            return self.rootfs.resolve(path)
        except PolyarchError:
            return None

    def file(self, path: str | None) -> Entry | None:
        """The regular file at the resolved ``path``, with its own mode; None when there is none."""
        entry = self.rootfs.get(path) if path is not None else None
        return entry if entry is not None and entry.type in ("file", "hardlink") else None

    def program(self, path: str) -> Program | None:
        """What the regular file at the resolved ``path`` is; None when unknown."""
        if path not in self._programs:
            self._programs[path] = self._read(path)
        return self._programs[path]

    def _read(self, path: str) -> Program | None:
        found = self.rootfs.content(path)
        if found is None:
            return None
        entry = found[0]
        if self.reader is not None:
            program = self.reader(path)
            return program or (Program(entry.machine) if entry.machine else None)
        try:
            with self.rootfs.open(path) as stream:
                return of_stream(stream)
        except NotFoundError:
            return Program(entry.machine) if entry.machine else None

    def machine(self, path: str) -> str:
        """The machine of the regular file at ``path``, from its table of contents where that says."""
        found = self.rootfs.content(path)
        if found is None:
            return ""
        if found[0].machine:
            return found[0].machine
        program = self.program(path)
        return program.machine if program is not None else ""

    @cached_property
    def names(self) -> dict[str, list[str]]:
        """Every path of the image by its last component; what lower layers had and upper ones hide may be
        among them."""
        found: dict[str, list[str]] = {}
        for layer in self.rootfs.layers:
            for entry in layer.toc().entries:
                if entry.type in ("file", "hardlink", "symlink"):
                    found.setdefault(entry.path.rpartition("/")[2], []).append(entry.path)
        return found

    @cached_property
    def instructions(self) -> list[str]:
        """For each known layer, what made it according to the history; "" where that does not fit."""
        history = [line.created_by for line in self.config.history or () if not line.empty_layer]
        history = history[self.below :]
        count = len(self.rootfs.layers)
        if len(history) != count:
            return [""] * count
        return [_shortened(line) for line in history]

    def finding(
        self, severity: Severity, rule: str, message: str, path: str = "", machine: str = ""
    ) -> Finding:
        """A finding about this variant, with who put ``path`` there."""
        found = self.rootfs.content(path) if path else None
        number = -1 if found is None else found[1]
        return self.finding_of_layer(severity, rule, message, number, path, machine)

    def finding_of_layer(
        self, severity: Severity, rule: str, message: str, number: int, path: str = "", machine: str = ""
    ) -> Finding:
        """The same for a layer known by its number; -1 for none."""
        return Finding(
            severity=severity,
            rule=rule,
            message=message,
            platform=str(self.platform),
            path=path,
            machine=machine,
            layer=number + 1 + self.below if number >= 0 else 0,
            instruction=self.instructions[number] if number >= 0 else "",
        )

    def layers(self) -> Iterator[tuple[int, tuple[Entry, ...]]]:
        """The entries of each known layer with its number."""
        for number, layer in enumerate(self.rootfs.layers):
            yield number, layer.toc().entries


def _shortened(line: str) -> str:
    """A line of the history as its author wrote it, about."""
    text = line.strip().removesuffix("# buildkit").strip()
    for prefix in ("/bin/sh -c #(nop) ", "/bin/sh -c "):
        if text.startswith(prefix):
            text = ("" if "nop" in prefix else "RUN ") + text.removeprefix(prefix).strip()
    text = text.partition("\n")[0]
    return text if len(text) <= 100 else text[:99] + "…"
