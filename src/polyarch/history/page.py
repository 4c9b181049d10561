"""One HTML page of a build, complete in itself: no request is ever made from it.

Everything that comes from a Dockerfile or a step is text here, escaped where it is put in; beside that the
page's own policy lets nothing run but the one script whose digest it names, and nothing load at all.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from polyarch.history.path import critical_path
from polyarch.history.reader import BuildRecord, VertexRecord
from polyarch.solver.events import made

_SHARED = "all platforms"
_EXPORT = "export"
_WORDS = {"waiting": "not reached", "done": "ran", "error": "failed"}


def render(build: BuildRecord) -> str:
    """The page."""
    style, script = _asset("page.css"), _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}';"
        " base-uri 'none'; form-action 'none'"
    )
    title = escape(_title(build))
    critical = critical_path(build.vertices)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<link rel="icon" href="data:,">
<title>{title} – polyarch build</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#timeline">To the timeline</a>
{_header(build, title, critical)}
<main>
{_failure(build)}
<section id="timeline" aria-labelledby="timeline-heading">
<h2 id="timeline-heading">Timeline</h2>
{_tools()}
{_timeline(build, critical)}
{_images(build)}
{_warnings(build)}
</section>
{_dockerfile(build)}
</main>
<script>{script}</script>
</body>
</html>
"""


def _asset(name: str) -> str:
    return files("polyarch.history").joinpath("assets", name).read_text(encoding="utf-8")


def _title(build: BuildRecord) -> str:
    began = build.record.began
    where = began.context.rstrip("/").rpartition("/")[2] or began.context
    return (began.tags[0] if began.tags else where) + (f" ({began.target})" if began.target else "")


# --- the head -----------------------------------------------------------------------------------------------


def _header(build: BuildRecord, title: str, critical: Sequence[str]) -> str:
    began, finished = build.record.began, build.record.finished
    states = [each.state for each in build.vertices.values()]
    chain = sum(_seconds(build.vertices[digest]) for digest in critical)
    moved = sum(each.transferred for each in build.vertices.values())
    facts = [
        ("Duration", _time(build.seconds)),
        ("On the critical path", f"{_time(chain)} in {len(critical)} steps"),
        ("Steps", f"{len(states)}: {states.count('cached')} cached, {states.count('done')} ran"),
        ("Platforms", ", ".join(began.platforms)),
    ]
    facts += [("Transferred", _size(moved))] if moved else []
    facts += [("Digest", finished.digest[:19] + "…")] if finished is not None and finished.digest else []
    facts += [("Build", build.record.id)]
    cells = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    status = build.record.status
    return f"""<header>
<h1>{title} <span class="badge {status}">{status}</span></h1>
<p class="sub">{escape(began.context)} · {escape(_date(began.at))} · polyarch {escape(began.version)}</p>
<dl class="facts">{cells}</dl>
</header>"""


def _failure(build: BuildRecord) -> str:
    finished = build.record.finished
    if finished is None or not finished.error:
        return ""
    detail = f"<pre>{escape(finished.detail)}</pre>" if finished.detail else ""
    hint = f"<p>Hint: {escape(finished.hint)}</p>" if finished.hint else ""
    return f"""<section class="failure" aria-labelledby="failure-heading">
<h2 id="failure-heading">What went wrong</h2>
<strong>{escape(finished.error)}</strong>{detail}{hint}
</section>"""


def _tools() -> str:
    return """<div class="tools" hidden>
<label>Find <input type="search" id="search" autocomplete="off"></label>
<label><input type="checkbox" id="only-critical"> only the critical path</label>
<label><input type="checkbox" id="hide-cached"> hide cached</label>
<button type="button" id="open-all" aria-pressed="false">Open all</button>
<span id="count" role="status"></span>
</div>
<ul class="legend">
<li><i class="native"></i>native</li><li><i class="emulated"></i>emulated</li>
<li><i class="cached"></i>cached</li>
<li><i class="other"></i>no code ran</li><li><i class="error"></i>failed</li>
<li><i class="chain"></i>◆ on the critical path</li>
</ul>"""


# --- the timeline -------------------------------------------------------------------------------------------


def _timeline(build: BuildRecord, critical: Sequence[str]) -> str:
    every = tuple(build.record.began.platforms)
    groups: dict[str, list[VertexRecord]] = {}
    for vertex in build.vertices.values():
        groups.setdefault(_group(vertex, every), []).append(vertex)
    order = sorted(groups, key=lambda name: (name == _EXPORT, name != _SHARED))
    chain = frozenset(critical)
    return "\n".join(_platform(name, groups[name], build, chain) for name in order)


def _group(vertex: VertexRecord, every: tuple[str, ...]) -> str:
    targets = vertex.plan.platforms
    if not targets:
        return _EXPORT if not vertex.plan.inputs and not vertex.plan.start else _SHARED
    return _SHARED if len(every) > 1 and len(targets) >= len(every) else ", ".join(targets)


def _platform(
    name: str, vertices: Sequence[VertexRecord], build: BuildRecord, critical: frozenset[str]
) -> str:
    cached = sum(each.state == "cached" for each in vertices)
    steps = "1 step" if len(vertices) == 1 else f"{len(vertices)} steps"
    note = f"{steps}, {cached} cached, {_time(sum(map(_seconds, vertices)))} of work"
    rows = "\n".join(
        _step(each, build, critical=each.plan.digest in critical)
        for each in sorted(vertices, key=lambda each: (each.started or build.last, each.number))
    )
    heading = escape(name)
    return (
        f'<section class="group" aria-label="{heading}"><h3>{heading} <span class="sub">{note}</span></h3>\n'
        f"{rows}\n</section>"
    )


def _step(vertex: VertexRecord, build: BuildRecord, *, critical: bool) -> str:
    state, outcome = vertex.state, vertex.outcome
    how = outcome.how if outcome is not None else ""
    word = how if state == "done" and how else _WORDS.get(state, state)
    kind = "error" if state == "error" else "cached" if state == "cached" else how if how else "other"
    classes = f"step {escape(kind)}" + (" critical" if critical else "")
    first, last = vertex.plan.start, vertex.plan.end
    took = _time(_seconds(vertex)) if vertex.started else ""
    label = f"{word}, {took}" + (", on the critical path" if critical else "")
    return f"""<details class="{classes}" id="s{vertex.number}" data-lines="{first}-{last}">
<summary><span class="number">#{vertex.number}</span><span class="name mono">{escape(_name(vertex))}</span>
<span class="track" role="img" aria-label="{escape(label)}">{_bar(vertex, build)}</span>
<span class="took"><b>{took}</b><span class="word">{escape(word)}</span></span></summary>
<div class="body">{_facts(vertex, build)}{_log(vertex)}</div>
</details>"""


def _name(vertex: VertexRecord) -> str:
    """The name without the platform, under whose heading it stands."""
    return re.sub(r"^\[\S+/\S+ (?=[^\]]*\])", "[", vertex.plan.name)


def _bar(vertex: VertexRecord, build: BuildRecord) -> str:
    if not vertex.started:
        return ""
    whole = build.seconds or 1.0
    left = max(0.0, min(1.0, (vertex.started - build.record.began.at) / whole))
    width = max(0.0, min(1.0 - left, _seconds(vertex, build.last) / whole))
    return f'<span class="bar" style="left:{left * 99.5:.2f}%;width:{width * 100:.2f}%"></span>'


def _facts(vertex: VertexRecord, build: BuildRecord) -> str:
    outcome = vertex.outcome
    rows: list[tuple[str, str]] = []
    if outcome is not None and outcome.error:
        rows.append(("Error", escape(outcome.error)))
    rows.append(("Cache", _cache(vertex)))
    if outcome is not None and outcome.how:
        rows.append(("Made", escape(made(outcome.how, outcome.emulation))))
    if vertex.started:
        rows.append(("Began", f"{_time(max(0.0, vertex.started - build.record.began.at))} after the start"))
    if vertex.size:
        rows.append(("In the image", f"{_size(vertex.size)} compressed"))
    rows += [
        ("Transfer", escape(f"{name}: {_size(each.current)}"))
        for name, each in vertex.transfers.items()
        if each.current
    ]
    if vertex.plan.start:
        rows.append(("Dockerfile", f'<a href="#L{vertex.plan.start}">line {vertex.plan.start}</a>'))
    waits = [build.vertices[name] for name in vertex.plan.inputs if name in build.vertices]
    if waits:
        rows.append(("Waits for", _links(waits)))
    cells = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows)
    return f"<dl>{cells}</dl>"


def _cache(vertex: VertexRecord) -> str:
    if vertex.state == "cached":
        return "found in the cache"
    reason = vertex.outcome.reason if vertex.outcome is not None else ""
    match reason:
        case "source":
            return "a source: looked at in every build"
        case "costs nothing":
            return "not kept: it costs nothing"
        case "":
            return "not used" if vertex.plan.inputs or vertex.plan.start else "not part of the cache"
    return f"not used: {escape(reason)}"


def _log(vertex: VertexRecord) -> str:
    text = _plain(vertex.text)
    if not text:
        return ""
    label = f"output of step {vertex.number}"
    return f'<pre class="log" tabindex="0" role="region" aria-label="{label}">{escape(text)}</pre>'


def _plain(text: str) -> str:
    """Output without the codes of a terminal; of a line that was written over, the last version."""
    text = re.sub(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)?|[@-Z\\^_])", "", text)
    lines = (line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))
    return "".join(
        each if each in "\t\n" or each.isprintable() else "\N{REPLACEMENT CHARACTER}"
        for each in "\n".join(lines)
    )


# --- the rest -----------------------------------------------------------------------------------------------


def _images(build: BuildRecord) -> str:
    finished = build.record.finished
    if finished is None or not finished.variants:
        return ""
    rows = "".join(
        f"<tr><th scope=row>{escape(one.platform)}</th><td>{escape(one.how)}</td>"
        f'<td class="number">{_size(one.size) if one.size else ""}</td>'
        f"<td class=mono>{escape(one.manifest)}</td></tr>"
        for one in finished.variants
    )
    names = "".join(f"<li class=mono>{escape(name)}</li>" for name in finished.names)
    return f"""<h3>Result</h3>
<table><thead><tr><th scope=col>Platform<th scope=col>Made
<th scope=col class="number">Size<th scope=col>Manifest</tr></thead>
<tbody>{rows}</tbody></table>{f"<ul>{names}</ul>" if names else ""}"""


def _warnings(build: BuildRecord) -> str:
    if not build.warnings:
        return ""
    rows = "".join(
        f"<li>{_line_link(each.at_line)}<b>{escape(each.rule)}</b>: {escape(each.message)}</li>"
        for each in build.warnings
    )
    return f'<h3>Warnings</h3><ul class="warnings">{rows}</ul>'


def _line_link(line: int) -> str:
    return f'<a href="#L{line}">line {line}</a>: ' if line else ""


def _dockerfile(build: BuildRecord) -> str:
    if not build.dockerfile:
        return ""
    users: dict[int, list[VertexRecord]] = {}
    for vertex in build.vertices.values():
        if vertex.plan.start:
            users.setdefault(vertex.plan.start, []).append(vertex)
    rows = "\n".join(
        f'<li id="L{number}"><span class="mono">{number}</span><code>{escape(line) or " "}</code>'
        f'<span class="uses">{_links(users.get(number, ()))}</span></li>'
        for number, line in enumerate(build.dockerfile.rstrip("\n").split("\n"), 1)
    )
    return f"""<section class="file" aria-labelledby="file-heading" tabindex="0">
<h2 id="file-heading">{escape(build.file or "Dockerfile")}</h2>
<ol>
{rows}
</ol>
</section>"""


def _links(vertices: Iterable[VertexRecord]) -> str:
    return " ".join(
        f'<a href="#s{each.number}" title="{escape(each.plan.name)}">#{each.number}</a>' for each in vertices
    )


def _seconds(vertex: VertexRecord, now: float = 0.0) -> float:
    if not vertex.started:
        return 0.0
    return max(0.0, (vertex.ended or now or vertex.started) - vertex.started)


def _time(seconds: float) -> str:
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def _date(seconds: float) -> str:
    from datetime import UTC, datetime

    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
