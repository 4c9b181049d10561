"""Running the git program so that a repository cannot run anything itself.

Neither the user's nor the system's configuration is read, hooks are off, no program a repository names is
started, only the transports asked for are allowed, and nothing waits for a password.
"""

from __future__ import annotations

import base64
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from polyarch.context.git_url import redact
from polyarch.errors import PolyarchError, UnsupportedError

_TIMEOUT = 3600  # seconds
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.untrackedCache=false",
    "core.autocrlf=false",
    "core.fileMode=true",
    "core.symlinks=true",
    "core.protectHFS=true",
    "core.protectNTFS=true",
    "credential.helper=",
    "gc.auto=0",
    "maintenance.auto=false",
    "init.defaultBranch=master",
    "advice.detachedHead=false",
    "filter.lfs.smudge=",
    "filter.lfs.process=",
    "filter.lfs.required=false",
    "submodule.recurse=false",
    "fetch.recurseSubmodules=false",
    "protocol.ext.allow=never",
    "safe.bareRepository=all",
    "safe.directory=*",
    "transfer.bundleURI=false",
)


class Git:
    """The git program with a fixed environment. ``ssh_socket`` is the agent for ssh remotes, ``token`` is
    sent to http remotes, as GitHub and GitLab take one."""

    def __init__(
        self, *, ssh_socket: str | None = None, token: str | None = None, protocols: Sequence[str]
    ) -> None:
        passed = ("PATH", "HOME", "LANG", "TMPDIR", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR")
        proxies = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")
        names = (*passed, *proxies, *(name.upper() for name in proxies))
        environment = {name: os.environ[name] for name in names if name in os.environ}
        environment |= {
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_CONFIG_SYSTEM": "/dev/null",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "/bin/false",
            "SSH_ASKPASS": "/bin/false",
            "GIT_LFS_SKIP_SMUDGE": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_PROTOCOL_FROM_USER": "0",
            "GIT_ALLOW_PROTOCOL": ":".join(protocols),
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
            "LC_ALL": "C.UTF-8",
        }
        if ssh_socket is not None:
            environment["SSH_AUTH_SOCK"] = ssh_socket
        settings = [*_SETTINGS]
        if token:
            header = base64.b64encode(f"x-access-token:{token}".encode()).decode()
            settings.append(f"http.extraHeader=Authorization: basic {header}")
        # By the environment, so that no secret shows among the arguments of a process.
        environment["GIT_CONFIG_COUNT"] = str(len(settings))
        for number, setting in enumerate(settings):
            key, _, value = setting.partition("=")
            environment[f"GIT_CONFIG_KEY_{number}"] = key
            environment[f"GIT_CONFIG_VALUE_{number}"] = value
        self._environment = environment

    def run(
        self,
        *arguments: str,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """What git writes; PolyarchError with its complaint, without credentials, when it fails."""
        done = self.attempt(*arguments, directory=directory, environment=environment)
        if done.returncode:
            complaint = redact(done.stderr.decode("utf-8", "replace")).strip()
            raise PolyarchError(
                f"git {arguments[0]} failed",
                detail="\n".join(complaint.splitlines()[-20:]),
                reason="git-failed",
            )
        return done.stdout.decode("utf-8", "surrogateescape")

    def attempt(
        self,
        *arguments: str,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[bytes]:
        """The same, where a failure is an answer."""
        try:
            return subprocess.run(
                ["git", *arguments],
                cwd=directory,
                env={**self._environment, **(environment or {})},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_TIMEOUT,
                umask=0o022,
                check=False,
            )
        except FileNotFoundError:
            raise UnsupportedError(
                "git is not installed, which contexts and sources from git need",
                hint="install git, for instance with: apt-get install git",
                reason="no-git",
            ) from None
        except subprocess.TimeoutExpired:
            raise PolyarchError(
                f"git {arguments[0]} did not end within an hour", reason="git-failed"
            ) from None
