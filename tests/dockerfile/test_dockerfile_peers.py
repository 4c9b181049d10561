"""The same words and the same checks by BuildKit itself (``POLYARCH_PEERS`` names the script to reach it)."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from polyarch.dockerfile import parse
from polyarch.dockerfile.lint import lint
from polyarch.dockerfile.program import instructions

pytestmark = [pytest.mark.peers, pytest.mark.slow]

HERE = Path(__file__).parent
_LINES = (HERE / "words.jsonl").read_text().splitlines()
ENVIRONMENT: dict[str, str] = json.loads(_LINES[1])
WORDS = [tuple(json.loads(line)) for line in _LINES[2:]]


def buildx(folder: Path, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "context").mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(text)
    command = [os.environ["POLYARCH_PEERS"], "run", "docker", "buildx", "build", *options]
    return subprocess.run(
        [*command, "-f", str(folder / "Dockerfile"), str(folder / "context")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def header() -> str:
    quoted = {name: re.sub(r'(["\\$])', r"\\\1", value) for name, value in ENVIRONMENT.items()}
    return "FROM scratch\n" + "".join(f'ENV {name}="{value}"\n' for name, value in quoted.items())


def test_words(tmp_path: Path) -> None:
    # A backslash at the end of a line would continue it.
    words = [
        (word, result) for word, result in WORDS if result is not None and not word.endswith(("\\", " "))
    ]
    text = header() + "".join(f"LABEL k{number} {word}\n" for number, (word, _) in enumerate(words))
    folder = tmp_path / "out"
    done = buildx(tmp_path, text, "-q", "--output", f"type=oci,dest={folder},tar=false")
    assert done.returncode == 0, done.stderr
    index = json.loads((folder / "index.json").read_text())
    manifest = json.loads(_blob(folder, index["manifests"][0]["digest"]))
    if "manifests" in manifest:
        manifest = json.loads(_blob(folder, manifest["manifests"][0]["digest"]))
    labels = json.loads(_blob(folder, manifest["config"]["digest"]))["config"]["Labels"]
    assert {word: labels[f"k{number}"] for number, (word, _) in enumerate(words)} == dict(words)


def _blob(folder: Path, digest: str) -> bytes:
    return (folder / "blobs" / digest.replace(":", "/")).read_bytes()


@pytest.mark.parametrize("word", [word for word, result in WORDS if result is None][::4])
def test_words_that_are_refused(word: str, tmp_path: Path) -> None:
    assert buildx(tmp_path, f"{header()}LABEL k {word}\n", "-q").returncode != 0


CHECKED = [
    "FROM scratch as Foo\nmaintainer x\nCmd y\n",
    "FROM scratch\nENV a \\\n\n b\nLABEL x y z\nHEALTHCHECK CMD x\nHEALTHCHECK NONE\n",
    "FROM scratch\nEXPOSE 80/TCP 1.2.3.4:80:80 80:80/Udp 90\n",
    "ARG v\nFROM scratch AS a\nARG x\nONBUILD ENV q=$z\nWORKDIR foo\nFROM a\nENV y=$x z=$v\nCMD x\n",
    "FROM --platform=linux/amd64 scratch AS b\nFROM --platform=$TARGETPLATFORM scratch AS B\n",
    "FROM scratch$NO\nENV MY_TOKEN=1 PUBLIC_KEY=2\n",
    "# check=experimental=all;skip=JSONArgsRecommended\nFROM scratch\n# hello\nARG x\nCMD y\nCMD z\n",
]


@pytest.mark.parametrize("text", CHECKED)
def test_checks(text: str, tmp_path: Path) -> None:
    done = buildx(tmp_path, text, "--call", "check,format=json")
    theirs = sorted(
        (warning["ruleName"], warning["location"]["ranges"][0]["start"]["line"])
        for warning in json.loads(done.stdout)["warnings"] or ()
    )
    dockerfile = parse(text)
    ours = sorted(
        (finding.rule, finding.location.start) for finding in lint(dockerfile, instructions(dockerfile))
    )
    assert ours == theirs
