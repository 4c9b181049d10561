# ruff: noqa: E501  a step is a line
"""With one user id a build makes the bytes that root's makes: owners, devices, users, setuid programs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import polyarch
from polyarch.content.layout import Layout
from polyarch.content.state import State
from polyarch.executor import syscalls
from polyarch.oci import platform as platforms
from polyarch.oci.platform import Platform

FOREIGN = Platform.parse("linux/arm64" if platforms.host().architecture != "arm64" else "linux/amd64")

pytestmark = [
    pytest.mark.userns,
    pytest.mark.skipif(os.geteuid() != 0 or not syscalls.may_mount(), reason="compares with root's build"),
]

DOCKERFILE = r"""
FROM base/busybox
COPY --chown=1000:1001 Dockerfile /copied/file
RUN mkdir -p /a/b/c && touch /a/b/c/f && chown -R 12:34 /a && ln -s f /a/b/c/l && chown -h 7:8 /a/b/c/l && cp $(readlink -f /bin/sh) /t && chown 5:6 /t && chmod 4755 /t
RUN mkdir /t2 && tar -C / -cf - a t | tar -C /t2 -xf - && rm /a/b/c/f && cp -a /a /acopy && ls -n /a /acopy/b/c /t2 | sed 's/ [A-Z][a-z][a-z] .* / /' > /listing
RUN echo 'app:x:1234:1235::/home/app:/bin/sh' >> /etc/passwd && echo 'app:x:1235:' >> /etc/group && mkdir -p /home/app /tmp && chmod 1777 /tmp && chown app:app /home/app
RUN mknod /zero c 1 5 && mknod -m 640 /disk b 8 1 && chown 3:4 /disk && mkfifo /fifo && chown 3:4 /fifo
USER app
WORKDIR /home/app
RUN id > id; touch x; mkdir d; ln -s x y; mkfifo f; (umask 077; echo > z); touch /etc/no 2> /dev/null || echo denied > denied; test -w /etc || echo readonly >> denied; rm /t 2> /dev/null || echo kept >> denied; cp -a /copied . 2> /dev/null; chown 0 x 2> /dev/null || echo mine >> denied; cat /disk 2> /dev/null || echo unread >> denied
USER root
RUN cd /home/app && chmod g+s d && touch d/new && mkdir d/deep && mv /a/b/c/l /moved && stat -c '%n %u %g %F %t %T %a' /moved /disk /fifo y z d/new d/deep /t > /stats
RUN chown -R app /copied && find / -xdev -user app | sort > /found && chown app /dev/stdout && cp -p /t /t3 && rm -r /t2
"""


def build(state: State, folder: Path, platform: Platform) -> list[str]:
    """The digests of the layers of one build."""
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(DOCKERFILE)
    polyarch.build(
        folder,
        platforms=[str(platform)],
        tags=["single/out:1"],
        outputs=["type=image,rewrite-timestamp=true"],
        accelerate="off",
    )
    store = Layout(state.content)
    found = _read(state, store.resolve("single/out:1").digest)
    while "manifests" in found:
        entry = next(
            one for one in found["manifests"] if one["platform"]["architecture"] == platform.architecture
        )
        found = _read(state, entry["digest"])
    return [layer["digest"] for layer in found["layers"]]


def _read(state: State, digest: str) -> Any:
    return json.loads((state.content / "blobs" / digest.replace(":", "/")).read_bytes())


@pytest.mark.parametrize(
    "platform", [platforms.host(), pytest.param(FOREIGN, marks=pytest.mark.qemu)], ids=str
)
def test_same_layers_as_root(state, busybox, busybox_layout, tmp_path, monkeypatch, platform):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    roots = build(state, tmp_path / "context", platform)
    monkeypatch.setenv("POLYARCH_SINGLE_ID", "1")
    monkeypatch.setenv("POLYARCH_ROOT", str(tmp_path / "single"))
    single = State(tmp_path / "single")
    shutil.copytree(busybox_layout, single.content)
    assert build(single, tmp_path / "context", platform) == roots
    assert len(roots) > 8
