"""How quick the commands are: compile with a cold and a warm cache, time until ready, first token, memory.

python -m rocmforge.tools.bench.startup GGUF
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click

RFC = (sys.executable, "-m", "rocmforge.cli")
# With bytecode, as it is where rfc is installed: without it 170 ms of a start are Python's compiler.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def compile_seconds(model: Path, goal: Path, cache: Path) -> float:
    """Seconds of one `rfc compile`, process start included."""
    shutil.rmtree(goal, ignore_errors=True)
    began = time.perf_counter()
    subprocess.run(
        [*RFC, "compile", str(model), "-o", str(goal), "--cache-dir", str(cache)],
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    return time.perf_counter() - began


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _first_token_seconds(port: int) -> float:
    body = {"prompt": "The capital of France is", "max_tokens": 16, "temperature": 0, "stream": True}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    began = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    while not response.readline().startswith(b"data:"):
        pass
    seconds = time.perf_counter() - began
    response.read()
    connection.close()
    return seconds


def _resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) * 1024


def serve_once(bundle: Path, *options: str, **settings: str) -> tuple[float, float, int]:
    """Seconds from process start until /ready says 200, seconds to the first token, resident bytes after it; `settings`
    go to the server's environment."""
    port = _free_port()
    began = time.perf_counter()
    command = [*RFC, "serve", str(bundle), "--addr", f"127.0.0.1:{port}", *options]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, env=ENVIRONMENT | settings)
    try:
        while not _is_ready(port):
            if server.poll() is not None:
                raise RuntimeError("rfc serve ended early")
            time.sleep(0.005)
        ready = time.perf_counter() - began
        return ready, _first_token_seconds(port), _resident_bytes(server.pid)
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(30)


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=7, show_default=True)
def main(model: Path, rounds: int) -> None:
    """Medians over the rounds; compiles three times each way."""
    with tempfile.TemporaryDirectory() as folder:
        goal = Path(folder) / "model.rfb"
        cold = [compile_seconds(model, goal, Path(folder) / f"cache{index}") for index in range(3)]
        warm = [compile_seconds(model, goal, Path(folder) / "cache0") for _ in range(3)]
        click.echo(f"compile: {statistics.median(cold):.1f} s with a cold cache, {statistics.median(warm):.1f} s warm")
        ready, first, resident = zip(*(serve_once(goal) for _ in range(rounds)), strict=True)
        weights = (goal / "weights.bin").stat().st_size
        click.echo(f"ready {statistics.median(ready):.2f} s after process start (slowest {max(ready):.2f})")
        later = [serve_once(goal, "--worker")[0] - serve_once(goal)[0] for _ in range(rounds)]
        click.echo(f"with --worker {statistics.median(later):.2f} s later (in turn; latest {max(later):.2f})")
        click.echo(f"first token {statistics.median(first):.3f} s after the first request (slowest {max(first):.3f})")
        other = statistics.median(resident) - weights
        click.echo(
            f"resident {statistics.median(resident) / 2**20:.0f} MiB: weights {weights / 2**20:.0f}, all else "
            f"(KV cache in use included) {other / 2**20:.0f}"
        )


if __name__ == "__main__":
    main()
