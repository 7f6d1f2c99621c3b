"""Debian's `docker-registry` as a process, on a free port of this machine."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rocmforge.tests.support.process import wait_until

# Of "reader" and "secret", as htpasswd -B writes it.
PASSWORDS = "reader:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"


def program(name: str) -> str:
    """The path of a program of Debian's; without it a test is skipped, and in CI fails."""
    path = shutil.which(name)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed: apt-get install {name}")
    return path


@dataclass
class RunningRegistry:
    """A registry; `requests` has its access log: method and path of each request."""

    host: str
    storage: Path
    requests: list[tuple[str, str]] = field(default_factory=list)

    def blob(self, digest: str) -> Path:
        """The file in which it keeps a blob, or a manifest."""
        plain = digest.removeprefix("sha256:")
        return self.storage / "docker/registry/v2/blobs/sha256" / plain[:2] / plain / "data"

    def got(self, repository: str, digest: str) -> int:
        """How often a blob of a repository was asked for."""
        return self.requests.count(("GET", f"/v2/{repository}/blobs/{digest}"))


@contextlib.contextmanager
def running_registry(folder: Path, passwords: bool = False) -> Iterator[RunningRegistry]:
    """A registry for a while, with its storage below `folder`."""
    auth = ""
    if passwords:
        (folder / "htpasswd").write_text(PASSWORDS)
        auth = f"auth: {{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}\n"
    (folder / "config.yml").write_text(
        "version: 0.1\nlog: {level: info}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'storage'}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:0', secret: test}}\n{auth}"
    )
    command = [program("docker-registry"), "serve", str(folder / "config.yml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    running = RunningRegistry("", folder / "storage")

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"listening on (127\.0\.0\.1:\d+)", line):
                running.host = found[1]
            if found := re.search(r'"(GET|HEAD|PUT|POST|PATCH) (/v2/\S*) HTTP', line):
                running.requests.append((found[1], found[2]))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        wait_until(lambda: bool(running.host) or process.poll() is not None, "a registry")
        assert running.host, process.poll()
        yield running
    finally:
        process.kill()
        process.wait()
        reader.join()
