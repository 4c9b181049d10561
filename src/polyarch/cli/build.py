"""``polyarch build``: buildx's flags, progress while it runs, and a summary that says where the image is."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from polyarch.cli.docker_flags import DockerCommand
from polyarch.cli.limits import limit_options
from polyarch.cli.quickly import importing
from polyarch.cli.unchanged import write

if TYPE_CHECKING:
    from polyarch.builder.instance import Builder
    from polyarch.builder.ssh.transport import Ssh
    from polyarch.oci.platform import Platform
    from polyarch.request import BuildOutcome, BuildRequest

_MANY: dict[str, Any] = {"multiple": True}


@click.command(cls=DockerCommand, short_help="Build a Dockerfile for one or many platforms.")
@click.argument("context", default=".")
@click.option("--platform", "platform", metavar="P[,P…]", help="Target platforms.", **_MANY)
@click.option("-t", "--tag", "tags", metavar="NAME[:TAG]", help="Name the result.", **_MANY)
@click.option(
    "-f", "--file", "dockerfile", metavar="PATH", help="The Dockerfile (default: CONTEXT/Dockerfile)."
)
@click.option("--target", default="", metavar="STAGE", help="The stage to build.")
@click.option("--build-arg", "build_args", metavar="KEY[=VALUE]", help="Set a build argument.", **_MANY)
@click.option("--label", "labels", metavar="KEY=VALUE", help="Set a label of the image.", **_MANY)
@click.option(
    "--annotation",
    "annotations",
    metavar="[TYPE:]KEY=VALUE",
    help="Annotate manifests or the index.",
    **_MANY,
)
@click.option("--push", is_flag=True, help="Push the result to its registry.")
@click.option("--load", is_flag=True, help="Hand the result to docker or podman.")
@click.option(
    "-o", "--output", "outputs", metavar="type=TYPE[,…]", help="What becomes of the result.", **_MANY
)
@click.option("--no-cache", is_flag=True, help="Run everything again.")
@click.option(
    "--no-cache-filter", "no_cache_filter", metavar="STAGE", help="Run these stages again.", **_MANY
)
@click.option(
    "--cache-from", "cache_from", metavar="NAME|type=TYPE[,…]", help="Use results of other machines.", **_MANY
)
@click.option(
    "--cache-to", "cache_to", metavar="NAME|type=TYPE[,…]", help="Keep results for other machines.", **_MANY
)
@click.option("--pull", is_flag=True, help="Ask the registry for bases even when they are here.")
@click.option(
    "--progress",
    default=lambda: os.environ.get("BUILDKIT_PROGRESS", "auto"),
    metavar="auto|tty|plain|quiet|rawjson",
)
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but the image's digest.")
@click.option("--iidfile", metavar="FILE", help="Write the image's ID to a file.")
@click.option("--metadata-file", metavar="FILE", help="Write what was built, as JSON.")
@click.option("--network", default="default", metavar="default|host|none", help="The network of RUN steps.")
@click.option(
    "--add-host", "hosts", metavar="NAME:ADDRESS", help="A line for /etc/hosts of RUN steps.", **_MANY
)
@click.option(
    "--secret", "secrets", metavar="id=ID[,src=FILE|,env=VAR]", help="A secret for RUN --mount.", **_MANY
)
@click.option("--ssh", "ssh", metavar="default|ID[=SOCKET]", help="An ssh agent for RUN --mount.", **_MANY)
@click.option("--build-context", "contexts", metavar="NAME=VALUE", help="A named context.", **_MANY)
@click.option(
    "--allow", "allow", metavar="ENTITLEMENT", help="Allow network.host or security.insecure.", **_MANY
)
@click.option("--shm-size", default="", metavar="SIZE", help="The size of /dev/shm in RUN steps.")
@click.option("--ulimit", "ulimits", metavar="NAME=SOFT[:HARD]", help="A limit for RUN steps.", **_MANY)
@limit_options
@click.option("--runtime", default="", metavar="crun|runc", help="Run steps in an OCI runtime.")
@click.option(
    "--accelerate",
    type=click.Choice(["auto", "off", "strict"]),
    default="auto",
    help="Run programs of emulated steps as their native twins; strict: run steps both ways and compare.",
)
@click.option(
    "--emulator-timeout",
    default="",
    metavar="DURATION",
    help="Kill an emulated step that writes nothing for so long, such as 10m.",
)
@click.option("--check", is_flag=True, help="Check the Dockerfile and build nothing.")
@click.option(
    "--call", default="build", metavar="build|check|outline|targets", help="What to do with the Dockerfile."
)
@click.option(
    "--proof",
    type=click.Choice(["strict", "default", "off"]),
    default="default",
    help="Refuse variants that cannot run on their platform; strict: and what is probably not meant.",
)
@click.option(
    "--proof-ignore", "proof_ignore", metavar="PATTERN", help="Accept these files, or this rule.", **_MANY
)
@click.option(
    "--if-tag-is", "if_tag_is", default="", metavar="DIGEST|none", help="Push only if the tags name this now."
)
@click.option("--part", "part", default="", metavar="DIR", help="Leave a part here, for polyarch merge.")
@click.option("--part-of", "part_of", metavar="P[,P…]", help="With --part: the whole image's.", **_MANY)
@click.option("--keep-going", is_flag=True, help="When a platform fails, finish the others; tag nothing.")
@click.option(
    "--resume",
    is_flag=False,
    flag_value="",
    metavar="[REF]",
    help="Do again what a failed build did not (default: the last that failed).",
)
@click.option("--dry-run", is_flag=True, help="Print the plan and run nothing.")
@click.option("--builder", default="", metavar="NAME", help="The builder to use, instead of the current one.")
@click.option(
    "--fallback",
    type=click.Choice(["emulate"]),
    help="Emulate platforms of a node that is lost, rather than fail.",
)
@click.option(
    "--frontend",
    type=click.Choice(["dockerfile.v0"]),
    help="Let the builder's BuildKit daemon read the Dockerfile itself.",
)
@click.option("--provenance", hidden=True)
@click.option("--sbom", hidden=True)
def build(**options: Any) -> int:
    """Build a Dockerfile for one or many platforms.

    CONTEXT is a directory, a git or http URL, or - for a Dockerfile or tar on standard input. The result
    stays in the local store under its tags; --push, --load and -o send it elsewhere too.
    """
    call = "check" if options["check"] else options["call"]
    if call != "build":
        from polyarch.cli.check import answer

        return answer(call, options)
    with ExitStack() as stack:
        request = _resumed(options, stack) if options["resume"] is not None else request_of(options, stack)
        if options["dry_run"]:
            from polyarch.cli.plan import show

            return show(request)
        return _run(request, options)


def _resumed(options: dict[str, Any], stack: ExitStack) -> BuildRequest:
    """The request of a recorded build; ``options`` becomes what it was asked with, too."""
    from dataclasses import replace

    from polyarch.cli.resume import recorded

    given, done = recorded(options["resume"], click.get_current_context())
    options.clear()
    options.update(given)
    return replace(request_of(options, stack), done=done)


def request_of(options: dict[str, Any], stack: ExitStack) -> BuildRequest:
    """What the options ask for; agents for key files end with ``stack``. UsageError where they are wrong."""
    from polyarch.builder.records import Builders
    from polyarch.content.state import State
    from polyarch.errors import UsageError
    from polyarch.oci.platform import parse_list

    platforms = parse_list(options["platform"] or [os.environ.get("DOCKER_DEFAULT_PLATFORM", "")])
    builder = Builders(State.default()).selected(options["builder"])
    begun = _begin(builder, platforms, stack)  # ssh is at work while the rest is imported

    from polyarch.cli import limits
    from polyarch.cli import options as values
    from polyarch.export import annotations, cache_options, output
    from polyarch.graph.named import build_contexts
    from polyarch.request import BuildRequest, names_of

    unsaid = builder.loads and not options["push"] and not options["outputs"] and len(platforms) < 2
    outputs = output.parse_all(options["outputs"], push=options["push"], load=options["load"] or unsaid)
    tags = names_of(options["tags"])
    if any(out.push and not (tags or out.names) for out in outputs):
        raise UsageError(
            "tag is needed when pushing to registry", hint="add -t NAME", reason="push-without-tag"
        )
    if options["network"] not in ("default", "host", "none"):
        raise UsageError(
            f"--network {options['network']}: not supported", hint="default, host or none", reason="network"
        )
    build_args = values.pairs("--build-arg", options["build_args"])
    return BuildRequest(
        context=options["context"],
        dockerfile=options["dockerfile"],
        platforms=platforms,
        tags=tags,
        outputs=outputs,
        target=options["target"],
        build_args=build_args,
        labels=values.labels(options["labels"]),
        annotations=annotations.parse_all(options["annotations"]),
        contexts=build_contexts(options["contexts"]),
        secrets=values.secrets(options["secrets"]),
        agents=values.ssh_agents(options["ssh"], stack),
        network=options["network"],
        hosts=values.hosts(options["hosts"]),
        shm_size=values.size("--shm-size", options["shm_size"]) if options["shm_size"] else 0,
        limits=values.limits(options["ulimits"]),
        no_cache=options["no_cache"],
        no_cache_stages=frozenset(
            name.lower() for text in options["no_cache_filter"] for name in text.split(",")
        ),
        cache_from=cache_options.parse_from(options["cache_from"]),
        cache_to=cache_options.parse_to(options["cache_to"]),
        pull=options["pull"],
        allow=frozenset(word for text in options["allow"] for word in text.split(","))
        | ({"network.host"} if options["network"] == "host" else set()),
        runtime=options["runtime"],
        accelerate=options["accelerate"],
        resources=limits.resources(options),
        emulator_timeout=values.duration("--emulator-timeout", options["emulator_timeout"]),
        proof=options["proof"],
        proof_ignore=options["proof_ignore"],
        if_tag_is=options["if_tag_is"],
        builder=builder,
        begun=begun,
        fallback=options["fallback"] or "",
        frontend=options["frontend"] or "",
        part=options["part"],
        part_of=parse_list(options["part_of"]),
        keep_going=options["keep_going"],
        options=options | {"platform": [str(platform) for platform in platforms]},
    )


def _begin(builder: Builder, platforms: Sequence[Platform], stack: ExitStack) -> dict[str, Ssh]:
    """Reach nodes on other machines, where the builder has such."""
    if not any(node.driver == "ssh" for node in builder.nodes):
        return {}
    from polyarch.builder.ssh.early import begin

    return begin(builder, platforms, stack)


def _run(request: BuildRequest, options: dict[str, Any]) -> int:
    with importing():
        from polyarch import pipeline
        from polyarch.cli.keeper import Keeper
        from polyarch.cli.progress import shown

    mode = "quiet" if options["quiet"] else options["progress"]
    _check_files(request, options)
    keeper = Keeper(click.get_current_context().find_root().obj, request, options)
    with _stopping() as cancelled, shown(mode) as events:
        outcome = pipeline.run(
            request, events=keeper.watching(events), cancelled=cancelled, witness=keeper.witness
        )
    written = _texts_of(outcome, options)
    for path, text in written.items():
        _write(path, text)
    lines = summary_lines(outcome)
    if mode == "quiet":
        print(outcome.summary.image_id or outcome.digest)
    elif mode != "rawjson":  # what reads JSON reads nothing else
        print("\n".join(lines), file=sys.stderr)
    keeper.keep(outcome, mode, lines, written)
    return 0


@contextmanager
def _stopping() -> Iterator[Event]:
    """An event that Ctrl-C and SIGTERM set; the second Ctrl-C is an ordinary interrupt."""
    cancelled = Event()

    def stop(number: int, frame: object) -> None:
        if cancelled.is_set():
            raise KeyboardInterrupt
        cancelled.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancelled
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def summary_lines(outcome: BuildOutcome) -> list[str]:
    """Where the image is, its digest, each platform with its size and how it was made, and the time."""
    how = {built.platform: made_by(built.how, built.node, built.reason) for built in outcome.platforms}
    lines = [""]
    if outcome.digest:
        lines.append(f"digest: {outcome.digest}")
    for platform in outcome.summary.platforms:
        made = how.get(platform.platform, "")
        lines.append(
            f"  {platform.platform!s:<16} {_size(platform.size):>9}  {made:<15} {platform.manifest.digest}"
        )
    lines += [f"  {text}" for text in outcome.summary.destinations]
    lines.append(f"done in {outcome.seconds:.1f} s")
    return lines


def made_by(how: str, node: str, reason: str) -> str:
    """How a platform was made; by which node and why, where there was a choice."""
    return f"{how} on {node} ({reason})" if node and reason else how


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def _check_files(request: BuildRequest, options: dict[str, Any]) -> None:
    """Refuse files that could not be written when the build is done."""
    from polyarch.errors import PolyarchError, UsageError

    if options["iidfile"] and request.outputs and not any(out.is_image for out in request.outputs):
        raise UsageError(
            "--iidfile: local and tar outputs have no image ID",
            hint="leave --iidfile out, or add an output that is an image",
            reason="iidfile-without-image",
        )
    for name in ("iidfile", "metadata_file"):
        folder = Path(options[name]).parent if options[name] else None
        if folder is not None and not folder.is_dir():
            raise PolyarchError(
                f"--{name.replace('_', '-')} {options[name]}: the directory {folder} is not there",
                hint=f"mkdir -p {folder}",
                reason="no-such-directory",
            )


def _texts_of(outcome: BuildOutcome, options: dict[str, Any]) -> dict[str, str]:
    """The files that were asked for, by path."""
    found = {}
    if options["iidfile"]:
        found[options["iidfile"]] = outcome.summary.image_id
    if options["metadata_file"]:
        found[options["metadata_file"]] = json.dumps(_metadata(outcome), indent=2) + "\n"
    return found


def _write(path: str, text: str) -> None:
    try:
        write(path, text)
    except OSError as error:
        from polyarch.errors import PolyarchError

        raise PolyarchError(f"cannot write {path}: {error.strerror}", reason="write-failed") from error


def _metadata(outcome: BuildOutcome) -> dict[str, Any]:
    """buildx's keys."""
    import msgspec

    summary = outcome.summary
    found: dict[str, Any] = {"buildx.build.ref": f"embedded/embedded0/{outcome.id}"}
    if summary.descriptor is not None:
        found["containerimage.descriptor"] = msgspec.to_builtins(summary.descriptor)
        found["containerimage.digest"] = summary.digest
        if len(summary.platforms) == 1:
            found["containerimage.config.digest"] = summary.platforms[0].config_digest
    if summary.names:
        found["image.name"] = ",".join(summary.names)
    return found
