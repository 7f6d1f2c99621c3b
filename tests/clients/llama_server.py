"""What llama.cpp's own tests start in the place of `llama-server`: a way to an `rfc serve` with the same options.

A program of its own, with `ROCMFORGE_RFC` (the `rfc` to run), `ROCMFORGE_GGUF` and `LLAMA_SERVER_WORK` (a folder) in
its environment. Those tests start a server for each case; here a server stays for the next case with the same options,
and this program only hands on what comes to its port. Options that have no counterpart are passed over: a test that
depends on one of them fails, and stands in the table with that reason.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

MAX_SERVERS = 3
# llama.cpp answers whatever model is named, and its tests name these.
NAMES = (
    "codellama70b",
    "davinci-002",
    "gpt-3.5-turbo",
    "gpt-3.5-turbo-instruct",
    "gpt-4.1",
    "test",
    "text-embedding-3-small",
)
START_SECONDS = 120.0


def main(arguments: list[str]) -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--ctx-size", type=int)
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--kv-unified", action="store_true")
    for name in ("--alias", "--api-key", "--chat-template-file", "--cors-origins"):
        parser.add_argument(name)
    given, _ = parser.parse_known_args(arguments)
    name = given.alias or "model"
    options = [word for alias in NAMES for word in ("--alias", f"{alias}={name}")]
    if given.ctx_size:  # there the context is shared out among the slots
        options += ["--max-context", str(given.ctx_size // (1 if given.kv_unified else given.parallel))]
    if given.cors_origins:
        options += ["--cors-origin", given.cors_origins]
    work = Path(os.environ["LLAMA_SERVER_WORK"])
    template = Path(given.chat_template_file) if given.chat_template_file else None
    backend = find_server(work, template, name, given.api_key, options)
    with contextlib.suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(hand_on(given.host, given.port, backend))


def find_server(work: Path, template: Path | None, name: str, key: str | None, options: list[str]) -> int:
    """The port of a server with these options, which runs already or is started."""
    wanted = repr((template and template.read_bytes(), name, key, options))
    folder = work / "servers" / hashlib.sha256(wanted.encode()).hexdigest()[:12]
    if not (folder / "port").exists():
        folder.mkdir(parents=True)
        named = folder / f"{name}.rfb"
        named.symlink_to(make_bundle(work, template))
        if key:
            (folder / "keys").write_text(f"{key}\n")
            (folder / "keys").chmod(0o600)
            options = [*options, "--api-keys", str(folder / "keys")]
        start_server(folder, [os.environ["ROCMFORGE_RFC"], "serve", str(named), "--addr", "127.0.0.1:0", *options])
        stop_servers(work, MAX_SERVERS)
    os.utime(folder / "port")
    return int((folder / "port").read_text())


def start_server(folder: Path, command: list[str]) -> None:
    """Start it, and note its process and its port in the folder."""
    log = folder / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
    deadline = time.monotonic() + START_SECONDS
    while not (found := re.search(r"serving .* on http://\S+:(\d+)", log.read_text())):
        if process.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"rfc serve did not start: {log.read_text()}")
        time.sleep(0.05)
    (folder / "pid").write_text(str(process.pid))
    (folder / "port").write_text(found[1])


def stop_servers(work: Path, keep: int = 0) -> None:
    """Stop all but those used last."""
    ports = sorted((work / "servers").glob("*/port"), key=lambda path: path.stat().st_mtime, reverse=True)
    for port in ports[keep:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int((port.parent / "pid").read_text()), signal.SIGKILL)
        port.unlink()
        port.parent.rename(f"{port.parent}-{time.monotonic_ns()}")


def make_bundle(work: Path, template: Path | None) -> Path:
    """The model with this chat template, compiled once."""
    bundle = work / f"{hashlib.sha256(template.read_bytes()).hexdigest()[:12] if template else 'own'}.rfb"
    if not bundle.exists():
        rfc, model = os.environ["ROCMFORGE_RFC"], os.environ["ROCMFORGE_GGUF"]
        options = ["--chat-template", str(template)] if template else []
        command = [rfc, "compile", model, "-o", str(bundle), "--cache-dir", str(work / "cache"), *options]
        subprocess.run(command, check=True)
    return bundle


async def hand_on(host: str, port: int, backend: int) -> None:
    """Connect whoever comes to `port` with `backend`, until the process is ended."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", backend)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    server = await asyncio.start_server(connected, host, port)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, server.close)
    await server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
