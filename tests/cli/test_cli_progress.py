"""What a build shows, mode by mode."""

from __future__ import annotations

import base64
import json

import pytest

from polyarch.cli.progress import shown
from polyarch.errors import UsageError
from polyarch.solver.events import VertexCompleted, VertexLog, VertexStarted, VertexStatus, Warning

EVENTS = [
    VertexStarted("sha256:1", "[1/2] RUN make", 1700000000.5),
    VertexLog("sha256:1", 2, b"o\xff\n", 1700000001.0),
    VertexStatus("sha256:1", "layer", 5, 10, 1700000001.0),
    VertexCompleted("sha256:1", "[1/2] RUN make", 1700000002.0, error="exit code: 2"),
    VertexCompleted("sha256:2", "[2/2] COPY a b", 1700000002.0, cached=True),
    Warning("Rule", "words", "https://example.com/rule", "Dockerfile", 3),
]


def test_rawjson_is_what_readers_of_buildkits_status_expect(capsys: pytest.CaptureFixture[str]) -> None:
    with shown("rawjson") as sink:
        for event in EVENTS:
            sink(event)
    rows = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [next(iter(row)) for row in rows] == [
        "vertexes",
        "logs",
        "statuses",
        "vertexes",
        "vertexes",
        "warnings",
    ]
    (failed,) = rows[3]["vertexes"]
    assert failed["started"] == "2023-11-14T22:13:20.500000Z"
    assert failed["completed"] == "2023-11-14T22:13:22.000000Z"
    assert failed["error"] == "exit code: 2" and failed["cached"] is False
    assert rows[4]["vertexes"][0]["cached"] is True
    (log,) = rows[1]["logs"]
    assert base64.b64decode(log["data"]) == b"o\xff\n" and log["stream"] == 2
    assert rows[2]["statuses"][0]["total"] == 10


def test_a_mode_that_is_none() -> None:
    with pytest.raises(UsageError, match="fancy"), shown("fancy"):
        pass
