"""The syntax trees of the corpus, and what its programs say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from polyarch.dockerfile import parse
from polyarch.dockerfile.dump import dump
from polyarch.dockerfile.printer import text
from polyarch.dockerfile.program import instructions
from polyarch.errors import DockerfileError

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.Dockerfile"))


def test_the_corpus_is_there() -> None:
    assert len(CORPUS) >= 60


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_syntax_tree(path: Path, update: bool) -> None:
    tree = dump(parse(path.read_bytes(), file=path.name))
    golden = path.with_suffix(".json")
    if update:
        golden.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n")
    assert tree == json.loads(golden.read_text())


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_every_line_of_an_instruction_is_inside_its_range(path: Path) -> None:
    dockerfile = parse(path.read_bytes())
    previous = 0
    for node in dockerfile.nodes:
        assert previous < node.start <= node.end
        previous = node.end
    assert previous <= len(dockerfile.source.split("\n"))


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_printed_and_parsed_again(path: Path) -> None:
    first = parse(path.read_bytes())
    again = parse(text(first))
    without_lines = [dump_without_lines(dockerfile) for dockerfile in (first, again)]
    assert without_lines[0] == without_lines[1]


def dump_without_lines(dockerfile: object) -> object:
    tree = dump(dockerfile)  # type: ignore[arg-type]
    for instruction in tree["instructions"]:
        del instruction["start"], instruction["end"]
    return tree


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_programs(path: Path) -> None:
    dockerfile = parse(path.read_bytes(), file=path.name)
    if path.stem == "unknown-instruction":
        with pytest.raises(DockerfileError) as caught:
            instructions(dockerfile)
        assert caught.value.location is not None
        assert caught.value.location.start == 2
        return
    program = instructions(dockerfile)
    count = sum(len(stage.instructions) + 1 for stage in program.stages) + len(program.arguments)
    assert count == len(dockerfile.nodes)
