"""What kind of context an argument of the command line means."""

from __future__ import annotations

from typing import Literal

from polyarch.context.git_url import is_git_url
from polyarch.context.http import is_http_url

Kind = Literal["directory", "stdin", "git", "http"]


def classify(text: str) -> Kind:
    """``-`` is standard input; git URLs are told from plain http ones as docker does, by ``.git`` at the end
    of the path or a prefix; everything else is a folder."""
    if text == "-":
        return "stdin"
    if is_git_url(text):
        return "git"
    if is_http_url(text):
        return "http"
    return "directory"
