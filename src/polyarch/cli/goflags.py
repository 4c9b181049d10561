"""Flags as Go's programs take them: ``--push=true`` and ``--prefer-index=false`` besides ``--push``."""

from __future__ import annotations

import click

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class GoCommand(click.Command):
    """A command whose flags may be given a truth value behind an equals sign."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Rewrite such flags, up to ``--``, to what click knows; then parse as usual."""
        flags = {
            name: parameter
            for parameter in self.params
            if isinstance(parameter, click.Option) and parameter.is_bool_flag
            for name in parameter.opts
            if name.startswith("--")
        }
        rewritten: list[str] = []
        for position, word in enumerate(args):
            if word == "--":
                rewritten += args[position:]
                break
            name, equals, value = word.partition("=")
            option = flags.get(name)
            if option is None or not equals:
                rewritten.append(word)
            elif value in _TRUE:
                rewritten.append(name)
            elif value in _FALSE:
                rewritten += option.secondary_opts[:1]
            else:
                raise click.BadParameter(f"{value!r} is neither true nor false", ctx, option)
        return super().parse_args(ctx, rewritten)
