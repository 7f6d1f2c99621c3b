"""`rfc` in processes of its own, as a user starts it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import requests

COMMAND = (sys.executable, "-m", "rocmforge.cli")
# Long enough for a busy machine: nothing here measures time, these only end what hangs.
PATIENCE_SECONDS = 120.0


def environment(**changes: str) -> dict[str, str]:
    """This process's environment without the settings of a user or of CI, and with `changes`.

    Without another word, models run on one thread: on a busy machine two wait for each other, and twice as long in all.
    That any number of threads computes the same bits is in tests/component/runtime/device/test_host_program.py.
    """
    own = ("ROCM", "ROCF", "PYTHONUNBUFFERED")
    kept = {name: value for name, value in os.environ.items() if not name.upper().startswith(own)}
    return kept | {"ROCMFORGE_THREADS": "1"} | changes


def rfc(
    *arguments: object, cwd: Path | None = None, text: str = "", **changes: str
) -> subprocess.CompletedProcess[str]:
    """Run `rfc` to its end; `text` goes to its standard input, `changes` to its environment."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        input=text,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        cwd=cwd,
        env=environment(**changes),
        check=False,
    )


def refused(done: subprocess.CompletedProcess[str], exit_code: int, *parts: str) -> str:
    """Check that a command was refused as promised, its line naming all `parts`; return that line."""
    lines = done.stderr.splitlines()
    assert done.returncode == exit_code, done.stderr
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("rfc: ")
    assert lines[0].isprintable()
    for part in parts:
        assert part in lines[0]
    assert done.stdout == ""
    return lines[0]


def digest_of(done: subprocess.CompletedProcess[str]) -> str:
    """The bundle digest that `rfc compile` printed."""
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-1]


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative name."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that must come."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


class Server:
    """A running `rfc serve`."""

    def __init__(self, *arguments: object, **changes: str) -> None:
        """Start it on a free port and wait until it says that it serves."""
        command = [*COMMAND, "serve", *map(str, arguments), "--addr", "127.0.0.1:0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(**changes))
        self.log: list[str] = []
        self.url = ""
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self._ready.wait(PATIENCE_SECONDS)
        assert self.url, "".join(self.log)

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            found = re.search(r"serving .* on (http://\S+)", line)
            if found:
                self.url = found[1]
                self._ready.set()
        self._ready.set()

    def post(self, path: str, document: Any = None, **options: Any) -> requests.Response:
        """POST JSON."""
        return requests.post(self.url + path, json=document, timeout=PATIENCE_SECONDS, **options)

    def get(self, path: str) -> requests.Response:
        """GET."""
        return requests.get(self.url + path, timeout=PATIENCE_SECONDS)

    def events(self, response: requests.Response) -> Iterator[dict[str, Any]]:
        """Events of a native stream, read as the API's documentation reads them."""
        for line in response.iter_lines():
            if line.startswith(b"data: "):
                yield json.loads(line[6:])

    def checks(self) -> Mapping[str, Any]:
        """`checks` of /health."""
        found: Mapping[str, Any] = self.get("/health").json()["checks"]
        return found

    def wait_until_idle(self) -> None:
        """Wait until no request holds a page of the KV cache."""

        def idle() -> bool:
            checks = self.checks()
            return bool(checks["cache"]["pages_used"] == 0 and checks["requests"] == {"active": 0, "queued": 0})

        wait_until(idle, "all pages back")

    def counter(self, name: str) -> float:
        """A counter of /metrics."""
        found = re.search(rf"^rocmforge_{name}_total (\S+)$", self.get("/metrics").text, re.MULTILINE)
        assert found
        return float(found[1])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal, wait, and return the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE_SECONDS)
        self._reader.join(PATIENCE_SECONDS)
        return code


@contextlib.contextmanager
def serving(*arguments: object, **changes: str) -> Iterator[Server]:
    """A server for a while."""
    server = Server(*arguments, **changes)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
