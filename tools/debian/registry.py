"""Debian's `docker-registry` as a process, on a free port of this machine."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Of "reader" and "secret", as htpasswd -B writes it.
PASSWORDS = "reader:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"
_PATIENCE_SECONDS = 60


@dataclass
class RunningRegistry:
    """A registry.

    Attributes:
        requests: its access log: method and path of each request.
        continued: how many requests were answered with a range.
    """

    host: str
    storage: Path
    pid: int = 0
    requests: list[tuple[str, str]] = field(default_factory=list)
    continued: int = 0

    def blob(self, digest: str) -> Path:
        """The file in which it keeps a blob, or a manifest."""
        plain = digest.removeprefix("sha256:")
        return self.storage / "docker/registry/v2/blobs/sha256" / plain[:2] / plain / "data"

    def got(self, repository: str, digest: str) -> int:
        """How often a blob of a repository was asked for."""
        return self.requests.count(("GET", f"/v2/{repository}/blobs/{digest}"))


@contextlib.contextmanager
def running_registry(folder: Path, passwords: bool = False) -> Iterator[RunningRegistry]:
    """A registry for a while, with its storage below `folder`.

    Raises:
        RuntimeError: it is not installed, or does not start.
    """
    program = shutil.which("docker-registry")
    if program is None:
        raise RuntimeError("docker-registry is not installed: apt-get install docker-registry")
    auth = ""
    if passwords:
        (folder / "htpasswd").write_text(PASSWORDS)
        auth = f"auth: {{htpasswd: {{realm: test, path: {folder / 'htpasswd'}}}}}\n"
    (folder / "config.yml").write_text(
        "version: 0.1\nlog: {level: info}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder / 'storage'}}}, delete: {{enabled: true}}}}\n"
        f"http: {{addr: '127.0.0.1:0', secret: test}}\n{auth}"
    )
    command = [program, "serve", str(folder / "config.yml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    running = RunningRegistry("", folder / "storage", process.pid)
    reader = threading.Thread(target=_read, args=(process, running), daemon=True)
    reader.start()
    try:
        until = time.monotonic() + _PATIENCE_SECONDS
        while not running.host:
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"docker-registry did not start: exit code {process.poll()}")
            time.sleep(0.01)
        yield running
    finally:
        process.kill()
        process.wait()
        reader.join()


def _read(process: subprocess.Popen[str], running: RunningRegistry) -> None:
    """Read what it says, which would hold it up were it not read."""
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"listening on (127\.0\.0\.1:\d+)", line):
            running.host = found[1]
        if found := re.search(r'"(GET|HEAD|PUT|POST|PATCH) (/v2/\S*) HTTP/[\d.]*" (\d+)', line):
            running.requests.append((found[1], found[2]))
            running.continued += found[3] == "206"
