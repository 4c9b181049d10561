"""The command line: finds the verb, imports only that verb's module, prints errors, chooses the exit code."""

from __future__ import annotations

import importlib
import os
import sys

import click

from polyarch.cli.quickly import importing
from polyarch.version import VERSION

# verb → (module:attribute, one-line help). A module is imported only when its verb is used.
VERBS: dict[str, tuple[str, str]] = {
    "base": ("polyarch.cli.base:base", "Make a multi-platform base image out of Debian packages."),
    "build": ("polyarch.cli.build:build", "Build a Dockerfile for one or many platforms."),
    "create": ("polyarch.cli.builders:create", "Create a builder, or add a node to one."),
    "debug": ("polyarch.cli.debug:debug", "Show what polyarch makes of a Dockerfile or a build."),
    "doctor": ("polyarch.cli.doctor:doctor", "Say what this machine can do, and what mends the rest."),
    "du": ("polyarch.cli.du:du", "Show how much of the disk everything takes."),
    "fix": ("polyarch.cli.fix:fix", "Mend the mistakes of multi-platform Dockerfiles."),
    "history": ("polyarch.cli.history:history", "Show what builds did."),
    "images": ("polyarch.cli.images:images", "List the images of the local store."),
    "imagetools": ("polyarch.cli.imagetools:imagetools", "Inspect and create image indexes."),
    "inspect": ("polyarch.cli.builder_list:inspect", "Show a builder's nodes and what they can do."),
    "load": ("polyarch.cli.images:load", "Load images from an archive into the local store."),
    "login": ("polyarch.cli.login:login", "Log in to a registry."),
    "logout": ("polyarch.cli.login:logout", "Forget the credentials of a registry."),
    "ls": ("polyarch.cli.builder_list:ls", "List builders, their nodes and platforms."),
    "logs": ("polyarch.cli.history:logs", "Print what the steps of a build wrote."),
    "manifest": ("polyarch.cli.manifest:manifest", "Inspect manifests with docker's output."),
    "merge": ("polyarch.cli.merge:merge", "Join parts built on several machines in one image."),
    "node": ("polyarch.cli.node:node", "Serve builds on standard input and output, as ssh nodes do."),
    "preflight": ("polyarch.cli.preflight:preflight", "Find what would stop a build, before it runs."),
    "prune": ("polyarch.cli.prune:prune", "Remove what no image needs, or everything."),
    "pull": ("polyarch.cli.images:pull", "Pull an image, every platform of it, into the local store."),
    "push": ("polyarch.cli.images:push", "Push an image of the local store to its registry."),
    "rm": ("polyarch.cli.builders:rm", "Remove builders."),
    "rmi": ("polyarch.cli.images:rmi", "Remove names of images from the local store."),
    "run": ("polyarch.cli.run:run", "Run one variant of an image, native or emulated."),
    "save": ("polyarch.cli.images:save", "Save images to an OCI or docker archive."),
    "serve": ("polyarch.cli.serve:serve", "Serve a registry."),
    "stop": ("polyarch.cli.builders:stop", "Stop what was started for a builder."),
    "system": ("polyarch.cli.system:system", "Show where polyarch keeps its state."),
    "tag": ("polyarch.cli.images:tag", "Give an image of the local store another name."),
    "use": ("polyarch.cli.builders:use", "Make a builder the current one."),
    "verify": ("polyarch.cli.verify:verify", "Prove that every variant of an image is what it says."),
}


class LazyGroup(click.Group):
    """A group whose verbs are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        with importing():
            command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, VERBS[verb][1]) for verb in sorted(VERBS)])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[:1] == ["buildx"] and len(args) > 1:
            args = args[1:]  # what the fingers of docker's users type
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            close = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(VERSION, message="polyarch %(version)s")
@click.option("--debug", "-D", is_flag=True, help="Show tracebacks and more of what happens.")
@click.option("--builder", default="", metavar="NAME", help="The builder to use, instead of the current one.")
def polyarch(*, debug: bool, builder: str) -> None:
    """One tag, every architecture: build, prove, join and push multi-platform images."""
    if debug:
        os.environ["POLYARCH_DEBUG"] = "1"
    if builder:
        os.environ["POLYARCH_BUILDER"] = builder


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for errors, 2 for usage, 130 when interrupted."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        result = polyarch.main(args=words, prog_name="polyarch", obj=tuple(words), standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (click.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except Exception as error:
        from polyarch.cli.failure import report

        return report(error)
