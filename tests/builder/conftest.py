from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ssh_hosts import Host, Hosts


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hosts]:
    """Machines to be reached by ssh; none at first."""
    folder = tmp_path / "ssh"
    folder.mkdir()
    found = Hosts(folder)
    monkeypatch.setenv("POLYARCH_SSH_COMMAND", found.command)
    yield found
    found.close()


@pytest.fixture
def far(hosts: Hosts) -> Host:
    """One machine to be reached by ssh."""
    return hosts.add("far")
