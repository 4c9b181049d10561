"""The command line as its users see it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from polyarch.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def polyarch(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command line in this process; gives its exit code, standard output and standard error."""
    monkeypatch.setenv("POLYARCH_INSECURE_REGISTRIES", "")

    def run(*words: str) -> tuple[int, str, str]:
        capfdbinary.readouterr()
        code = main(list(words))
        captured = capfdbinary.readouterr()
        return code, captured.out.decode(), captured.err.decode()

    return run
