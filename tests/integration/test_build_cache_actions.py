"""``--cache-to`` and ``--cache-from type=gha``: what one job did, another does not do again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import polyarch
from polyarch.errors import PolyarchError
from polyarch.request import BuildOutcome
from polyarch.solver.events import VertexCompleted, Warning
from polyarch.testing.actions_service import READ, WRITE, ActionsService, Fault, serve_actions

MAIN = ("refs/heads/main", READ | WRITE)
COPIES = "FROM scratch\nCOPY a b /\nCOPY c /c\n"
FILES = {"Dockerfile": COPIES, "a": "alpha", "b": "beta" * 1000, "c": "gamma"}


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[ActionsService]:
    with serve_actions() as running:
        monkeypatch.setenv("ACTIONS_RESULTS_URL", running.url + "/")
        monkeypatch.setenv("ACTIONS_RUNTIME_TOKEN", running.token(MAIN))
        monkeypatch.delenv("ACTIONS_CACHE_URL", raising=False)
        yield running


class Jobs:
    """Fresh machines, each with a state and a context of its own."""

    def __init__(self, folder: Path, base: Path) -> None:
        self._folder = folder
        self._base = base
        self._count = 0
        self.warnings: list[str] = []

    def run(self, files: dict[str, str] = FILES, **options: object) -> tuple[BuildOutcome, list[str]]:
        self._count += 1
        root = self._folder / f"root{self._count}"
        shutil.copytree(self._base, root / "content")
        context = self._folder / f"context{self._count}"
        context.mkdir()
        for name, content in files.items():
            (context / name).write_text(content)
        events: list[object] = []
        chosen = {"cache_from": ["type=gha"], "cache_to": ["type=gha,mode=max"], **options}
        outcome = polyarch.build(context, root=root, progress=events.append, **chosen)  # type: ignore[arg-type]
        self.warnings = [e.message for e in events if isinstance(e, Warning) and e.rule.startswith("Cache")]
        ran = [e.name for e in events if isinstance(e, VertexCompleted) and not e.cached and not e.error]
        return outcome, [name for name in ran if " RUN " in name or " COPY " in name]


@pytest.fixture
def jobs(tmp_path: Path, busybox_layout: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setenv("POLYARCH_ROOT", str(tmp_path / "unused"))
    return Jobs(tmp_path, busybox_layout)


def test_another_job_does_nothing_again(service: ActionsService, jobs: Jobs) -> None:
    first, ran = jobs.run()
    assert len(ran) == 2 and not jobs.warnings
    service.requests.clear()
    again, ran = jobs.run(cache_to=[])
    assert not ran and not jobs.warnings
    assert again.digest == first.digest
    layers = [part for part in service.requests if "storage" in part[1] and part[0] == "GET"]
    assert len(layers) == 1 + 2  # the table, and the layers that the local image needs


def test_what_is_not_hit_is_not_fetched(service: ActionsService, jobs: Jobs, tmp_path: Path) -> None:
    jobs.run()
    service.requests.clear()
    changed = {**FILES, "a": "other"}
    _, ran = jobs.run(changed, cache_to=[])
    assert len(ran) == 1  # the second COPY is the same
    assert service.asked("GET /storage") == 2  # the table, and the layer of that COPY


@pytest.mark.userns
def test_platforms_and_jobs_keep_apart_and_share_the_rest(service: ActionsService, jobs: Jobs) -> None:
    files = {"Dockerfile": "FROM base/busybox\nCOPY a /a\nRUN echo $(cat /a) > /b\n", "a": "alpha"}
    jobs.run(files, platforms=["linux/amd64"])
    keys = [key for key in service.known() if "index" in key]
    jobs.run(files | {"a": "other"}, platforms=["linux/amd64"], cache_to=["type=gha,scope=other"])
    assert [key for key in service.known() if "index" in key and "other" not in key] == keys
    outcome, ran = jobs.run(files, platforms=["linux/amd64"])
    assert not ran and outcome.digest


def test_every_platform_has_a_name(service: ActionsService, jobs: Jobs) -> None:
    jobs.run(platforms=["linux/amd64", "linux/arm64", "linux/arm/v7"])
    names = sorted(key.rpartition("-")[0] for key in service.known() if "index" in key)
    begin = "polyarch-1-index-default-linux-"
    assert names == [f"{begin}amd64", f"{begin}arm-v7", f"{begin}arm64"]
    _, ran = jobs.run(platforms=["linux/arm/v7"])
    assert not ran


def test_a_pull_request_uses_what_main_did(
    service: ActionsService, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.run()
    before = service.known()
    token = service.token(("refs/pull/7/merge", READ | WRITE), ("refs/heads/main", READ))
    monkeypatch.setenv("ACTIONS_RUNTIME_TOKEN", token)
    _, ran = jobs.run()
    assert not ran and not jobs.warnings
    jobs.run(FILES | {"c": "of the request"})
    assert service.known()[: len(before)] == before
    assert [one.ref for one in service.entries[len(before) :]] == ["refs/pull/7/merge"] * (
        len(service.entries) - len(before)
    )


def test_what_was_evicted_is_made_again(service: ActionsService, jobs: Jobs) -> None:
    first, _ = jobs.run()
    assert service.evict("blob") == 2
    again, ran = jobs.run()
    assert len(ran) == 2 and any("not used any more" in text for text in jobs.warnings)
    assert again.platforms and first.platforms
    _, ran = jobs.run()
    assert not ran and not jobs.warnings


def test_truncated_layers_are_made_again(service: ActionsService, jobs: Jobs) -> None:
    jobs.run()
    layers = {one.blob for one in service.entries if "blob" in one.key}
    service.blobs = {name: data[:9] if name in layers else data for name, data in service.blobs.items()}
    _, ran = jobs.run(cache_to=[])
    assert len(ran) == 2 and jobs.warnings


@pytest.mark.parametrize("trouble", ["token", "service", "environment"])
def test_no_cache_is_a_warning_and_an_error_where_asked(
    service: ActionsService, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    match trouble:
        case "token":
            service.tokens.clear()
        case "service":
            service.faults.append(Fault("twirp", status=400, times=999))
        case "environment":
            monkeypatch.delenv("ACTIONS_RUNTIME_TOKEN")
    outcome, ran = jobs.run()
    assert len(ran) == 2 and outcome.digest
    assert len([text for text in jobs.warnings if "not used" in text]) == 1
    assert len([text for text in jobs.warnings if "not written" in text]) == 1
    with pytest.raises(PolyarchError):
        jobs.run(cache_to=["type=gha,ignore-error=false"])


def test_the_token_is_in_no_message_and_no_state(service: ActionsService, jobs: Jobs, tmp_path: Path) -> None:
    token = service.token(MAIN)
    given = f"type=gha,url_v2={service.url},token={token},timeout=1m"
    jobs.run(cache_from=[given], cache_to=[given])
    service.tokens.clear()
    jobs.run(cache_from=[given], cache_to=[given])
    secret = token.rpartition(".")[2]
    assert jobs.warnings and secret not in json.dumps(jobs.warnings)
    with pytest.raises(PolyarchError) as caught:
        jobs.run(cache_to=[f"{given},nonsense=1"])
    assert secret not in f"{caught.value.summary}{caught.value.detail}{caught.value.hint}"
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), path
