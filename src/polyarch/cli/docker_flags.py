"""docker's ways with options: ``--push=true``, and options of older builders that scripts still give."""

from __future__ import annotations

from typing import Any

import click

# What buildx takes and does nothing for, without a word and with one. What buildah's --layers and --jobs ask
# for is done in any case.
_SILENT = ("--rm", "--force-rm", "--compress", "--layers", "--jobs")
_FLAGS = ("--squash",)
_VALUES = (
    ("--isolation",),
    ("--security-opt",),
    ("--jobs",),
)
_TRUE, _FALSE = ("1", "t", "true"), ("0", "f", "false")


class DockerCommand(click.Command):
    """A command whose flags may have a value, as Go's do, and that takes what older builders needed."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        for name in (*_SILENT, *_FLAGS):
            if (name,) not in _VALUES:
                self.params.append(_ignored((name,), is_flag=True))
        for names in _VALUES:
            self.params.append(_ignored(names, multiple=True))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """See click; flags with values are rewritten first."""
        return super().parse_args(ctx, self._plain(args))

    def _plain(self, words: list[str]) -> list[str]:
        options = [param for param in self.params if isinstance(param, click.Option)]
        flags = {name for option in options if option.is_flag for name in option.opts}
        valued = {name for option in options if not option.is_flag for name in option.opts}
        plain: list[str] = []
        taken = False  # whether the word is the value of the option before it
        for number, word in enumerate(words):
            name, equals, value = word.partition("=")
            if word == "--" and not taken:
                return plain + words[number:]
            if taken or not equals or name not in flags:
                plain.append(word)
            elif value.lower() in _TRUE:
                plain.append(name)
            elif value.lower() not in _FALSE:
                raise click.UsageError(f"{word}: {value!r} is neither true nor false")
            taken = not taken and word in valued
        return plain


def _ignored(names: tuple[str, ...], **more: Any) -> click.Option:
    return click.Option(names, hidden=True, expose_value=False, callback=_say, **more)


def _say(ctx: click.Context, option: click.Parameter, value: object) -> None:
    if value and option.opts[-1] not in _SILENT:
        click.echo(f"warning: {option.opts[-1]} has no effect", err=True)
