"""What counts as white space in a Dockerfile, and how names that were mistyped are matched."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Unicode's White_Space property. (str.isspace() also takes the four ASCII separators U+001C to U+001F.)
SPACES = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
SPACES += "\u2028\u2029\u202f\u205f\u3000"

# What separates the words of an instruction that has no quoting: ASCII blanks only.
BLANKS = re.compile(r"[\t\v\f\r ]+")


def closest(word: str, known: Iterable[str]) -> str:
    """The name of ``known`` that ``word`` is most likely a misspelling of, or "". Case is ignored."""
    import difflib

    names = {name.lower(): name for name in known}
    wanted = word.lower()
    if wanted in names:
        return "" if names[wanted] == word else names[wanted]
    # A short word must come nearer to its match than a long one.
    close = difflib.get_close_matches(wanted, sorted(names), n=1, cutoff=0.6 if len(wanted) > 3 else 0.5)
    return names[close[0]] if close else ""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint such as ``did you mean COPY?``, or "" when nothing comes near."""
    near = closest(word, known)
    return f"did you mean {near}?" if near else ""
