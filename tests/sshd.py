"""A host to reach over ssh: this machine, through a server of the tests' own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

SSHD = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")

_SERVER = """
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
StrictModes no
PermitRootLogin yes
UsePAM no
PasswordAuthentication no
Subsystem sftp internal-sftp
"""
_CLIENT = """
Host *
    IdentityFile {folder}/user
    IdentitiesOnly yes
    UserKnownHostsFile /dev/null
    StrictHostKeyChecking no
    LogLevel ERROR
"""


@dataclass(frozen=True)
class Loopback:
    """A server on this machine.

    Attributes:
        folder: Of its keys; in its `bin` are the `ssh` and `scp` that know them.
        port: It listens at.
    """

    folder: Path
    port: int

    def url(self, python: str | Path = sys.executable, *, port: int | None = None) -> str:
        return f"ssh://{getpass.getuser()}@127.0.0.1:{port or self.port}{python}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(folder: Path) -> Iterator[Loopback]:
    """Start a server, or skip the test and say why not."""
    if SSHD is None or shutil.which("ssh") is None:
        pytest.skip("needs OpenSSH's sshd, ssh and scp")
    host = Loopback(folder, free_port())
    for name in ("host", "user"):
        _keygen(folder / name)
    (folder / "sshd_config").write_text(_SERVER.format(port=host.port, folder=folder))
    (folder / "ssh_config").write_text(_CLIENT.format(folder=folder))
    (folder / "bin").mkdir()
    for name in ("ssh", "scp"):
        script = folder / "bin" / name
        script.write_text(f'#!/bin/sh\nexec {shutil.which(name)} -F {folder}/ssh_config "$@"\n')
        script.chmod(0o700)
    if os.geteuid() == 0:  # where the system's own service never ran, root's sshd misses this
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    log = (folder / "sshd.log").open("w")
    server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        _wait_until_reached(host)
        yield host
    finally:
        server.terminate()
        server.wait()
        log.close()


def _keygen(path: Path) -> None:
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)


def _wait_until_reached(host: Loopback) -> None:
    ssh = str(host.folder / "bin" / "ssh")
    command = [ssh, "-p", str(host.port), f"{getpass.getuser()}@127.0.0.1", "true"]
    said = ""
    for _ in range(50):
        tried = subprocess.run(command, capture_output=True, text=True, check=False)
        if tried.returncode == 0:
            return
        said = tried.stderr.strip()
        time.sleep(0.1)
    log = (host.folder / "sshd.log").read_text().strip()
    pytest.skip(f"sshd takes no connections here: {said}; {log[-300:]}")
