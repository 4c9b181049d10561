"""Exporting: every output of one build, the image in the local store first, so that nothing is ever lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import BinaryIO

from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.content.store import Store
from polyarch.errors import PolyarchError, UsageError
from polyarch.export import push
from polyarch.export.destination import STDOUT, check, writing
from polyarch.export.image import AssembledImage, Assembler, Form
from polyarch.export.output import Output
from polyarch.export.progress import Reporter, reporter
from polyarch.export.push import Repositories
from polyarch.export.result import BuildResult, ExportSummary
from polyarch.image.origins import Origins
from polyarch.image.sparse import SparseStore
from polyarch.layer.store import LayerStore
from polyarch.oci.reference import Reference
from polyarch.solver.events import EventSink

BeforeTags = Callable[["AssembledImage"], None]


def export(
    result: BuildResult,
    outputs: Sequence[Output],
    *,
    state: State,
    layout: Layout,
    layers: LayerStore,
    client: Repositories,
    tags: Sequence[Reference] = (),
    progress: EventSink | None = None,
    cancelled: Event | None = None,
    before_tags: BeforeTags | None = None,
    stdout: BinaryIO | None = None,
    store: SparseStore | None = None,
) -> ExportSummary:
    """Do what ``outputs`` say; without any, the image stays in the local store under ``tags``.

    ``tags`` go before the names of the outputs. ``before_tags`` is asked for every image, when its content
    is everywhere and before any name is given to it; what it raises stops the export. An image whose push
    failed has its names in the local store all the same. ``store`` is the local store of the build, where
    nodes hold some of its layers.
    """
    check_outputs(outputs, tags, platforms=len(result.results))
    store = store or SparseStore(layout, Origins(state), client)
    work = _Export(
        result=result,
        tags=tuple(tags),
        layout=layout,
        store=store,
        client=client,
        assembler=Assembler(result, store, cancelled or Event()),
        sink=progress,
        cancelled=cancelled or Event(),
        before_tags=before_tags,
        stdout=stdout,
    )
    for output in outputs or (Output("image"),):
        work.output(output)
    return work.summary


def check_outputs(
    outputs: Sequence[Output], tags: Sequence[Reference], *, platforms: int | None = None
) -> None:
    """Refuse what cannot work before anything is built (UsageError). ``platforms`` is for how many the build
    is, where that is known."""
    for output in outputs:
        if output.type == "docker" and output.destination and (platforms or 1) > 1:
            raise _docker_holds_one()
        names = tags or output.names
        if output.push and not names:
            raise UsageError("tag is needed when pushing to registry", hint="add -t NAME", reason="no-name")
        if output.push_by_digest:
            for name in names:
                if name.tag not in ("", "latest"):
                    raise UsageError(
                        f"can't push tagged ref {name} by digest", hint="leave the tag out", reason="tagged"
                    )
        if output.destination:
            check(output.destination, directory=output.type == "local" or not output.tar)


def _docker_holds_one() -> UsageError:
    return UsageError(
        "docker exporter does not support exporting manifest lists, use the oci exporter instead",
        hint="-o type=oci,dest=FILE holds every platform",
        reason="docker-archive-index",
    )


def insecure_hosts(outputs: Sequence[Output], tags: Sequence[Reference]) -> frozenset[str]:
    """The registries that ``registry.insecure=true`` lets be reached by plain http, for the client's
    configuration."""
    return frozenset(name.registry for o in outputs if o.insecure for name in tags or o.names)


def _time(created: str | None) -> datetime | None:
    try:
        return datetime.fromisoformat(created).astimezone(UTC) if created else None
    except ValueError:
        return None


def _shown(destination: str) -> str:
    return "standard output" if destination == STDOUT else destination


@dataclass
class _Export:
    result: BuildResult
    tags: tuple[Reference, ...]
    layout: Layout
    store: SparseStore
    client: Repositories
    assembler: Assembler
    sink: EventSink | None
    cancelled: Event
    before_tags: BeforeTags | None
    stdout: BinaryIO | None
    summary: ExportSummary = field(default_factory=lambda: ExportSummary(None))

    def output(self, output: Output) -> None:
        match output.type:
            case "image":
                self._image(output)
            case "oci" | "docker" if output.loads:
                self._load(output)
            case "oci" | "docker":
                self._archive(output)
            case "local":
                self._local(output)
            case "tar":
                self._tar(output)
            case "cacheonly":
                self._tell("nothing was exported; the result stays in the build cache")

    # --- images ---------------------------------------------------------------------------------------------

    def _image(self, output: Output) -> None:
        with reporter("exporting to image", self.sink).running() as report:
            image = self._assemble(output, report)
            names = self._names(output)
            if not output.push:
                self._prove(image)
                self._name_locally(image, output, report)
                return
            repositories = self._upload(image, output, report)
            self.assembler.remember(image, repositories)
            self._prove(image)
            self._name_locally(image, output, report)
            with report.phase(f"pushing manifest {image.descriptor.digest}"):
                pushed = push.name(image.descriptor, names, repositories, by_digest=output.push_by_digest)
            self._add(image, [one.name for one in pushed])
            for one in pushed:
                self._tell(f"pushed {one.name}")

    def _upload(self, image: AssembledImage, output: Output, report: Reporter) -> dict[str, Store]:
        try:
            with report.phase("pushing layers"):
                return push.upload(
                    self.store,
                    image.descriptor,
                    self._names(output),
                    client=self.client,
                    progress=report.transferred,
                    cancelled=self.cancelled,
                )
        except PolyarchError as error:
            # What was built is not lost because a registry is down.
            self._prove(image)
            self._name_locally(image, output, report)
            if not error.hint:
                error.hint = (
                    "the image is in the local store; 'polyarch push' pushes it when the registry is back"
                )
            raise

    def _load(self, output: Output) -> None:
        from polyarch.export import engine

        with reporter("exporting to docker image format", self.sink).running() as report:
            image = self._assemble(output, report)
            self._prove(image)
            self._name_locally(image, output, report)
            found = engine.find(output.context)
            with report.phase(f"loading into {found.kind}"):
                names = self._names(output)
                loaded = engine.load(found, self.store, image.descriptor, image.platforms, names)
            self._tell(str(loaded))

    def _archive(self, output: Output) -> None:
        from polyarch.export import archives

        kind = "OCI" if output.type == "oci" else "docker"
        with reporter(f"exporting to {kind.lower()} image format", self.sink).running() as report:
            if output.type == "docker" and len(self.result.results) > 1:
                raise _docker_holds_one()
            image = self._assemble(output, report)
            self._prove(image)
            contents = [archives.Content(image.descriptor, self._names(output), self._created())]
            if not output.tar:
                folder = Path(output.destination)
                archives.write_directory(self.store, contents, folder, progress=report.transferred)
                self._tell(f"{kind} layout in {folder}")
            else:
                write = archives.write_oci if output.type == "oci" else archives.write_docker
                with report.phase("sending tarball"), writing(output.destination, self.stdout) as sink:
                    write(self.store, contents, sink)
                self._tell(f"{kind} archive in {_shown(output.destination)}")
            self._add(image, [str(name) for name in self._names(output)])

    def _assemble(self, output: Output, report: Reporter) -> AssembledImage:
        return self.assembler.make(Form.of(output, self.result), report)

    def _prove(self, image: AssembledImage) -> None:
        if self.before_tags is not None:
            self.before_tags(image)

    def _name_locally(self, image: AssembledImage, output: Output, report: Reporter) -> None:
        names = self._names(output)
        descriptor = image.descriptor
        self.store.fetch_held(image.layers)
        given = []
        if not output.push_by_digest:
            for name in names:
                report.line(f"naming to {name}")
                self.layout.tag(str(name), descriptor)
                given.append(str(name))
        if output.name_canonical:
            for reference in {name.name: name for name in names}.values():
                canonical = str(reference.with_digest(descriptor.digest))
                self.layout.tag(canonical, descriptor)
                given.append(canonical)
        if not given:
            self.layout.publish(descriptor)
        self._add(image, given)
        self._tell("in the local store")

    def _names(self, output: Output) -> tuple[Reference, ...]:
        return self.tags or output.names

    def _created(self) -> dict[str, str]:
        """When the image was made, for index.json: a property of the image, so that the same image gives
        the same archive."""
        times = [t for t in (_time(one.config.created) for one in self.result.results) if t is not None]
        if not times:
            return {}
        return {"org.opencontainers.image.created": max(times).strftime("%Y-%m-%dT%H:%M:%SZ")}

    # --- files ----------------------------------------------------------------------------------------------

    def _local(self, output: Output) -> None:
        from polyarch.export import directory

        with reporter("exporting to client directory", self.sink).running() as report:
            destination = Path(output.destination)
            with report.phase("copying files"):
                written = directory.write(
                    self.result.results,
                    destination,
                    split=output.platform_split,
                    epoch=self.result.epoch,
                    cancelled=self.cancelled,
                )
            text = f"{written.files} files in {destination}"
            if written.skipped:
                text += f" (left out, because only root can make devices: {len(written.skipped)})"
            self._tell(text)

    def _tar(self, output: Output) -> None:
        from polyarch.export import tarball

        with reporter("exporting to client tarball", self.sink).running() as report:
            with report.phase("sending tarball"), writing(output.destination, self.stdout) as sink:
                tarball.write(
                    self.result.results,
                    sink,
                    split=output.platform_split,
                    epoch=self.result.epoch,
                    cancelled=self.cancelled,
                )
            self._tell(f"tar in {_shown(output.destination)}")

    # --- the summary ----------------------------------------------------------------------------------------

    def _add(self, image: AssembledImage, names: Sequence[str]) -> None:
        """The first image that was made is the build's; names of all are kept."""
        first = self.summary.descriptor is None
        self.summary = replace(
            self.summary,
            descriptor=image.descriptor if first else self.summary.descriptor,
            platforms=image.platforms if first else self.summary.platforms,
            names=tuple(dict.fromkeys((*self.summary.names, *names))),
        )

    def _tell(self, sentence: str) -> None:
        destinations = dict.fromkeys((*self.summary.destinations, sentence))
        self.summary = replace(self.summary, destinations=tuple(destinations))
