"""The page of a build: complete in itself, nothing in it runs that should not, legible in light and dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from history_samples import DOCKERFILE, HOSTILE, recorded

from polyarch.history.page import render

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
_VOID = {"meta", "link", "input", "img", "br"}


class Page(HTMLParser):
    """What a browser makes of a page, as far as it matters here."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("style", "script"):
            self.text += data


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(render(recorded(tmp_path)))


def test_everything_is_said(page: Page) -> None:
    for text in (
        *("docker.io/library/app:1", "completed", "linux/amd64", "linux/arm64", "emulated", "cached"),
        *("found in the cache", "not used: changed: src/<b>.c", "not used: never built", "a source"),
        *("1.2 MB compressed", "10.0 MB", "a <warning>", "half a line, red and the rest", "1.5 MB"),
        *DOCKERFILE.strip().split("\n"),
        f"building {HOSTILE}",
    ):
        assert text in page.text, text


def test_only_what_is_on_the_critical_path_is_marked(page: Page) -> None:
    steps = [values for tag, values in page.elements if tag == "details"]
    marked = {values["data-lines"] for values in steps if "critical" in values["class"].split()}
    assert len(steps) == 6 and marked == {"1-1", "2-2", "3-3", "5-5", "0-0"}
    assert sum("critical" in values["class"].split() for values in steps) == 5


def test_links_lead_somewhere_and_nothing_is_loaded(page: Page) -> None:
    ids = [values["id"] for _, values in page.elements if "id" in values]
    assert len(ids) == len(set(ids))
    for tag, values in page.elements:
        assert not any(name.startswith("on") for name in values), (tag, values)
        assert "src" not in values and tag not in ("img", "iframe", "object", "form", "base")
        for name in ("href", "aria-labelledby"):
            if name in values:
                target = values[name]
                assert target == "data:," or target.removeprefix("#") in ids, target
    assert sum(tag == "script" for tag, _ in page.elements) == 1


def test_the_script_is_the_one_the_policy_names(tmp_path: Path) -> None:
    import base64
    import hashlib

    text = render(recorded(tmp_path))
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and "default-src 'none'" in text


def test_a_build_that_was_killed_or_did_nothing_has_a_page(tmp_path: Path) -> None:
    assert "running" in render(recorded(tmp_path / "a", finish=False))
    whole = recorded(tmp_path / "b").record.path
    whole.write_bytes(whole.read_bytes().split(b"\n")[0] + b"\n")
    from polyarch.history.reader import find, load

    assert "interrupted" in render(load(find(tmp_path / "b")))


# --- contrast -----------------------------------------------------------------------------------------------


def _palettes() -> list[dict[str, str]]:
    style = files("polyarch.history").joinpath("assets", "page.css").read_text()
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[:2]
    return [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in (light, dark)]


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    bright, dim = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_and_bars_are_legible(scheme: int) -> None:
    """WCAG 2.2: 4.5 for text, 3 for what is not text."""
    colours = _palettes()[scheme]
    for text in ("text", "faint", "link", "error", "cached", "emulated"):
        for ground in ("ground", "panel", "stripe"):
            assert _contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert _contrast(colours["text"], colours["mark"]) >= 4.5
    for bar in ("native", "emulated", "cached", "error", "other", "critical"):
        for ground in ("track", "ground"):
            assert _contrast(colours[bar], colours[ground]) >= 3, (bar, ground)


# --- in a browser -------------------------------------------------------------------------------------------


def _browse(page: Path, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    found = [shutil.which(name) for name in BROWSERS]
    browser = next(path for path in found if path)
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    command += [
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--enable-logging=stderr",
        "--virtual-time-budget=2000",
    ]
    command += [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={folder / 'net.json'}", *more]
    command.append(page.as_uri())
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def _requests(folder: Path) -> set[str]:
    """Every URL that was asked for by the page."""
    text = (folder / "net.json").read_text()
    return {
        url
        for url in re.findall(r'"url":"([^"]*)"', text)
        if not url.startswith(("file:", "data:", "chrome"))
    }


def _open(text: str, folder: Path) -> tuple[str, str, set[str]]:
    """A page as it is after its script ran, what was said on the console, and what was asked for."""
    folder.mkdir(exist_ok=True)
    file = folder / "page.html"
    file.write_text(text)
    done = _browse(file, folder, "--dump-dom")
    assert done.returncode == 0, done.stderr
    said = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return done.stdout, said, _requests(folder)


@pytest.mark.browser
def test_a_browser_runs_the_page(tmp_path: Path) -> None:
    dom, said, asked = _open(render(recorded(tmp_path)), tmp_path)
    assert 'data-ready="true"' in dom and "pwned" not in Page(dom).text.split("polyarch build")[0]
    assert said == "" and asked == set()
    assert '<div class="tools">' in dom  # the script showed what only works with it
    title = re.search(r"<title>(.*?)</title>", dom)
    assert title is not None and title[1].startswith("docker.io/library/app:1")


@pytest.mark.browser
def test_the_browser_would_tell_of_a_throw_and_of_a_request(tmp_path: Path) -> None:
    """The test above can fail."""
    text = render(recorded(tmp_path))
    script = files("polyarch.history").joinpath("assets", "page.js").read_text()
    broken = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", text)
    dom, said, _ = _open(broken.replace(script, "null.x;" + script), tmp_path / "a")
    assert "data-ready" not in Page(dom).elements[0][1] and "TypeError" in said
    free = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    _, _, asked = _open(
        free.replace("<main>", '<main><img src="http://polyarch.invalid/x.png">'), tmp_path / "b"
    )
    assert asked


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_follow_the_reader(tmp_path: Path, scheme: str) -> None:
    """And the page fits a narrow window."""
    file = tmp_path / "page.html"
    probe = (
        "document.title = JSON.stringify([getComputedStyle(document.body).backgroundColor,"
        " document.documentElement.scrollWidth <= innerWidth]);"
    )
    text = re.sub(r"script-src '[^']*'", "script-src 'unsafe-inline'", render(recorded(tmp_path)))
    file.write_text(text.replace("</body>", f"<script>{probe}</script></body>"))
    setting = f"--blink-settings=preferredColorScheme={1 if scheme == 'light' else 0}"
    done = _browse(file, tmp_path, "--dump-dom", "--window-size=500,900", setting)
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title is not None
    ground, fits = json.loads(title[1])
    colour = _palettes()[scheme == "dark"]["ground"]
    assert ground == "rgb({}, {}, {})".format(*(int(colour[at : at + 2], 16) for at in (1, 3, 5)))
    assert fits
