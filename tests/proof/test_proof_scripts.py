"""Scripts and pipelines that build with other tools."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from polyarch.cli.main import main
from polyarch.proof.scripts import RULES, check_script, check_scripts

ROOT = Path(__file__).parents[2]

SCRIPTS = {
    "docker buildx build -t x .": ["OutputNowhere"],
    "docker buildx build \\\n  --platform linux/amd64 \\\n  -t x .": ["OutputNowhere"],
    "docker build --platform linux/amd64,linux/arm64 -t x .": ["OutputNowhere"],
    "cd a && docker buildx build . && echo done": ["OutputNowhere"],
    "docker buildx build --push -t x .": [],
    "docker buildx build --load .": [],
    "docker buildx build -o type=cacheonly .": [],
    "docker buildx build --output=out .": [],
    'docker buildx build "$@"': [],
    'docker buildx build "${BUILD_ARGS[@]}" .': [],
    "docker build -t x .": [],
    "# docker buildx build .": [],
    "echo docker buildx build .": [],
    "docker buildx build --check .": [],
    "polyarch build -t x .": [],
}


@pytest.mark.parametrize("text", SCRIPTS)
def test_scripts(text: str) -> None:
    found = list(check_script(f"#!/bin/sh\n\n{text}\n", "build.sh"))
    assert [one.rule for one in found] == SCRIPTS[text]
    assert all(one.line == 3 for one in found)


MATRIX = "strategy:\n  matrix:\n    platform: [linux/amd64, linux/arm64]\nsteps:\n  - "


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        (MATRIX + "cache-to: type=gha,mode=max\n", ["CacheSharedByPlatforms"]),
        (MATRIX + "run: docker buildx build --push --cache-to type=registry,ref=r/x:c .\n",
         ["CacheSharedByPlatforms"]),
        (MATRIX + "cache-to: type=gha,mode=max,scope=${{ matrix.platform }}\n", []),
        ("steps:\n  - cache-to: type=gha\n", []),
    ],
)  # fmt: skip
def test_caches(text: str, rules: list[str]) -> None:
    assert [one.rule for one in check_script(text, "a.yml")] == rules


def test_a_repository(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".github/workflows").mkdir(parents=True)
    (tmp_path / "node_modules/x").mkdir(parents=True)
    (tmp_path / "node_modules/x/build.sh").write_text("docker buildx build .\n")
    (tmp_path / "notes.txt").write_text("docker buildx build .\n")
    (tmp_path / ".github/workflows/ci.yml").write_text("with:\n  platforms: linux/amd64,linux/arm64\n")
    (tmp_path / "Makefile").write_text("image:\n\tdocker buildx build -t x .\n")
    assert [(one.rule, one.file, one.line) for one in check_scripts(tmp_path)] == [
        ("OutputNowhere", "Makefile", 2),
        ("VariantsNeverRun", ".github/workflows/ci.yml", 0),
    ]
    assert main(["preflight", "--scripts", str(tmp_path)]) == 1
    assert "Makefile:2: OutputNowhere" in capsys.readouterr().out
    assert main(["preflight", "--scripts", "--json", str(tmp_path)]) == 1
    assert len(json.loads(capsys.readouterr().out)) == 2
    (tmp_path / "Makefile").write_text("test:\n\tpolyarch verify --run x -- x --version\n")
    assert main(["preflight", "--scripts", str(tmp_path)]) == 0
    assert main(["preflight", "--scripts", str(tmp_path / "Makefile")]) == 2


def test_the_pages(tmp_path: Path) -> None:
    for rule in RULES:
        page = (ROOT / "docs" / "mistakes" / f"{rule}.md").read_text()
        for expected, text in zip(
            (True, False), re.findall(r"```(?:sh|yaml)\n(.*?)```", page, flags=re.S), strict=True
        ):
            file = "ci.sh" if "docker" in text else "Taskfile.yml"
            (tmp_path / file).write_text(text)
            rules = [one.rule for one in check_scripts(tmp_path)]
            assert (rule in rules) == expected, (rule, rules)
            (tmp_path / file).unlink()
        assert f"({rule}.md)" in (ROOT / "docs" / "mistakes" / "README.md").read_text()


def test_this_repository() -> None:
    assert [one for one in check_scripts(ROOT) if one.rule != "VariantsNeverRun"] == []
