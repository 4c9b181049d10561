"""Values spelt as Go's fmt spells them: docker's image history is made of these."""

from __future__ import annotations

from collections.abc import Sequence

from polyarch.oci.config import Healthcheck

_ESCAPES = {"\a": r"\a", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"}


def quote(text: str) -> str:
    """``text`` as ``%q`` has it (strconv.Quote)."""
    out = []
    for char in text:
        if char in '"\\':
            out.append("\\" + char)
        elif char in _ESCAPES:
            out.append(_ESCAPES[char])
        elif 0xDC80 <= ord(char) <= 0xDCFF:  # a byte that was not UTF-8
            out.append(f"\\x{ord(char) - 0xDC00:02x}")
        elif char.isprintable():
            out.append(char)
        elif ord(char) < 0x80:
            out.append(f"\\x{ord(char):02x}")
        elif ord(char) < 0x10000:
            out.append(f"\\u{ord(char):04x}")
        else:
            out.append(f"\\U{ord(char):08x}")
    return '"' + "".join(out) + '"'


def quote_list(words: Sequence[str]) -> str:
    """``words`` as ``%q`` has a slice: ``["a" "b"]``."""
    return "[" + " ".join(quote(word) for word in words) + "]"


def plain_list(words: Sequence[str]) -> str:
    """``words`` as ``%v`` has a slice: ``[a b]``."""
    return "[" + " ".join(words) + "]"


def duration(nanoseconds: int) -> str:
    """A time span as time.Duration prints it: ``1m30s``, ``1.5s``, ``250ms``, ``0s``."""
    if nanoseconds == 0:
        return "0s"
    sign, rest = ("-", -nanoseconds) if nanoseconds < 0 else ("", nanoseconds)
    for unit, size in (("ns", 1), ("µs", 10**3), ("ms", 10**6)):
        if rest < size * 1000 and rest < 10**9:
            return sign + _decimal(rest, size) + unit
    seconds, fraction = divmod(rest, 10**9)
    hours, seconds = divmod(seconds, 3600)
    minutes, seconds = divmod(seconds, 60)
    text = _decimal(seconds * 10**9 + fraction, 10**9) + "s"
    if hours:
        return f"{sign}{hours}h{minutes}m{text}"
    return f"{sign}{minutes}m{text}" if minutes else sign + text


def _decimal(value: int, unit: int) -> str:
    whole, fraction = divmod(value, unit)
    digits = str(fraction).rjust(len(str(unit)) - 1, "0").rstrip("0") if fraction else ""
    return f"{whole}.{digits}" if digits else str(whole)


def healthcheck(check: Healthcheck) -> str:
    """A health check as ``%q`` has a pointer to docker's struct: the number of retries is a character."""
    spans = (check.interval, check.timeout, check.start_period, check.start_interval)
    times = " ".join(quote(duration(span)) for span in spans)
    return f"&{{{quote_list(check.test)} {times} {_quote_rune(check.retries)}}}"


def _quote_rune(number: int) -> str:
    """A number as ``%q`` has it: the character in single quotes (strconv.QuoteRune)."""
    if number > 0x10FFFF or 0xD800 <= number <= 0xDFFF or number < 0:
        number = 0xFFFD
    char = chr(number)
    if char in "'\\":
        return f"'\\{char}'"
    inner = quote(char)[1:-1]
    return f"'{char}'" if char == '"' else f"'{inner}'"
