"""``polyarch serve``, ``login`` and ``logout`` as a user meets them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import urllib3

from polyarch.content.copy import copy
from polyarch.content.memory import MemoryStore
from polyarch.registry.client import Client
from polyarch.registry.server import serve_in_thread
from polyarch.testing.guarded_registry import Guard
from polyarch.testing.random_images import random_index

POLYARCH = [sys.executable, "-c", "import sys; from polyarch.cli.main import main; sys.exit(main())"]


@contextmanager
def serving(*options: str, env: dict[str, str] | None = None) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running ``polyarch serve`` and its address."""
    command = [*POLYARCH, "serve", "--listen", "127.0.0.1:0", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        match = re.search(r"at (127\.0\.0\.1:\d+)$", line)
        assert match, line
        yield process, match[1]
    finally:
        process.kill()
        process.wait()


def run(*words: str, stdin: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*POLYARCH, *words], input=stdin, text=True, capture_output=True, env={**os.environ, **(env or {})}
    )


def test_serve_prints_where_and_keeps_what_it_was_given(tmp_path: Path) -> None:
    made = MemoryStore()
    root = random_index(made)
    env = {"POLYARCH_ROOT": str(tmp_path)}
    with serving(env=env) as (process, host):
        assert urllib3.request("GET", f"http://{host}/v2/").status == 200
        repository = Client().repository(f"{host}/app")
        copy(made, repository, root)
        repository.tag("v1", root)
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / "registry/oci-layout").exists()
    with serving("--root", str(tmp_path / "registry")) as (_, host):
        assert Client().repository(f"{host}/app").resolve("v1").digest == root.digest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serve_stops_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with serving("--root", str(tmp_path)) as (process, host):
        with socket.create_connection(host.split(":")):  # an idle client must not keep it
            time.sleep(0.1)
            process.send_signal(number)
            assert process.wait(10) == 0
        assert process.stderr and process.stderr.read() == ""


def test_serve_where_somebody_else_listens(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        done = run("serve", "--root", str(tmp_path), "--listen", address)
    assert done.returncode == 1
    assert "error: " in done.stderr and address in done.stderr and "--listen" in done.stderr


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999", "127.0.0.1:"])
def test_serve_at_no_address(tmp_path: Path, address: str) -> None:
    assert run("serve", "--root", str(tmp_path), "--listen", address).returncode == 2


def test_serve_with_an_unknown_platform(tmp_path: Path) -> None:
    done = run("serve", "--root", str(tmp_path), "--default-platform", "linux/amd46")
    assert done.returncode == 2 and "did you mean" in done.stderr


def test_login_and_logout(tmp_path: Path) -> None:
    env = {"DOCKER_CONFIG": str(tmp_path / "docker")}
    config = tmp_path / "docker/config.json"
    with serve_in_thread(tmp_path / "registry", wrap=Guard().wrap) as host:
        done = run("login", "-u", "user", "--password-stdin", host, stdin="hunter2\n", env=env)
        assert done.returncode == 1 and "does not accept" in done.stderr and not config.exists()
        assert "hunter2" not in done.stderr
        done = run("login", "-u", "user", "--password-stdin", host, stdin="secret\n", env=env)
        assert done.returncode == 0, done.stderr
        assert f"logged in to {host} as user" in done.stdout
        assert "unencrypted" in done.stderr and "secret" not in done.stdout + done.stderr
        assert host in json.loads(config.read_text())["auths"]
        assert config.stat().st_mode & 0o777 == 0o600
        done = run("logout", host, env=env)
        assert done.returncode == 0 and json.loads(config.read_text())["auths"] == {}
        assert "not logged in" in run("logout", host, env=env).stdout


def test_login_without_a_terminal() -> None:
    done = run("login", "127.0.0.1:1")
    assert done.returncode == 2 and "--password-stdin" in done.stderr


@pytest.mark.parametrize("host", ["", "not a host", "a/../b", "-x.y"])
def test_login_to_no_host(host: str) -> None:
    assert run("login", "-u", "a", "--password-stdin", "--", host, stdin="b").returncode == 2
