"""A server in a process of its own, and what it holds: memory, descriptors, threads."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from rocmforge.tools.bench.http_load import Address

START_SECONDS: Final = 120.0
STOP_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds: resident MiB (all, and without files that are mapped), open descriptors, threads."""

    resident: float
    anonymous: float
    descriptors: int
    threads: int


def held_by(pid: int) -> Held:
    """Read it from /proc.

    Raises:
        OSError: there is no such process.
    """
    fields = dict(re.findall(r"(\w+):\s+(\d+)", Path(f"/proc/{pid}/status").read_text("ascii")))
    descriptors = len(os.listdir(f"/proc/{pid}/fd"))
    return Held(int(fields["VmRSS"]) / 1024, int(fields["RssAnon"]) / 1024, descriptors, int(fields["Threads"]))


def children_of(pid: int) -> list[int]:
    """Its processes: a worker, chat templates."""
    files = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(number) for file in files for number in file.read_text("ascii").split()]


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def rfc_serve(bundle: Path, port: int, *options: str, device: str = "host") -> list[str]:
    """The command that serves a bundle."""
    start = "from rocmforge.cli import main; main()"
    return [
        sys.executable,
        "-c",
        start,
        "serve",
        str(bundle),
        "--addr",
        f"127.0.0.1:{port}",
        "--device",
        device,
        *options,
    ]


class ServerProcess:
    """A server that was started and answers. A context manager: at the end it is told to stop, and must exit with 0."""

    def __init__(
        self, command: list[str], port: int, ready: str = "/health", environment: Mapping[str, str] | None = None
    ) -> None:
        """Start it, in an environment of its own if need be, and wait until `ready` answers 200.

        Raises:
            RuntimeError: it ended, or did not answer in time; with the end of what it wrote.
        """
        self.address = Address("127.0.0.1", port)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=self._log, env=environment
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers(ready):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._process.kill()
                raise RuntimeError(f"{command[0]} does not serve:\n{self.log()[-2000:]}")
            time.sleep(0.02)

    def _answers(self, path: str) -> bool:
        url = f"http://{self.address.host}:{self.address.port}{path}"
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return bool(response.status == 200)
        except (OSError, urllib.error.HTTPError):
            return False

    @property
    def pid(self) -> int:
        """Its number."""
        return self._process.pid

    def held(self) -> Held:
        """What it holds now."""
        return held_by(self.pid)

    def log(self) -> str:
        """What it wrote up to now."""
        # Not seek and read: the server writes at the same offset.
        return os.pread(self._log.fileno(), 1 << 24, 0).decode("utf-8", "replace")

    def stop(self) -> int:
        """SIGTERM, and its exit status; killed where it does not come to an end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._log.close()
