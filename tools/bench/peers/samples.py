"""Samples: what a bundle and a peer do of the same work, each as its own programs count it.

A sample of a part is a figure by name: tokens a second, but for `START`, which is seconds.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from rocmforge.runtime.benchmark import BenchOptions, Figure, measure
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.tools.bench.startup import ENVIRONMENT, RFC

from .builds import Peer

PROMPT: Final = 512
CONTEXTS: Final = (4, 512)
BATCHES: Final = (2, 4, 8, 16)
PREFILL: Final = f"prefill {PROMPT}"
START: Final = "start to first token, s"
BUSY: Final = "decode beside busy processes"
_GENERATED: Final = 32
_FEW: Final = 8  # beside busy processes, where a peer takes a second for each
_ROOM: Final = 1024  # tokens of a peer's KV cache
_TEXT: Final = "The capital of France is"
_TEXT_TOKENS: Final = 5
_TIMEOUT_SECONDS: Final = 300
_SPIN: Final = (sys.executable, "-I", "-S", "-c", "while True: pass")
_ROW: Final = re.compile(r"^\|((?: *[0-9.]+ *\|){10}) *$", re.MULTILINE)

Figures = dict[str, float]


def after(context: int) -> str:
    """Return the name of one sequence's decode after so many tokens."""
    return f"decode after {context}"


def together(count: int) -> str:
    """Return the name of so many sequences' decode."""
    return f"{count} sequences decode"


def parse_batched(text: str) -> dict[tuple[int, int], tuple[float, float]]:
    """Read llama-batched-bench's table: by tokens of the prompt and sequences, tokens a second of both halves."""
    rows = ([float(cell) for cell in row.split("|")[:-1]] for row in _ROW.findall(text))
    return {(int(row[0]), int(row[2])): (row[5], row[7]) for row in rows}


def _run(command: Sequence[str], folder: Path) -> str:
    """Run a peer's program, which may leave logs in the folder; what it printed until it ended, crashed or hung."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False)
        return (done.stdout + done.stderr).decode("utf-8", "replace")
    except subprocess.TimeoutExpired as hung:
        return ((hung.stdout or b"") + (hung.stderr or b"")).decode("utf-8", "replace")


def _batched(
    peer: Peer, model: Path, threads: int, prompts: Sequence[int], sequences: Sequence[int], generated: int
) -> dict[tuple[int, int], tuple[float, float]]:
    sizes = ("-npp", ",".join(map(str, prompts)), "-ntg", generated, "-npl", ",".join(map(str, sequences)))
    # The prompt shared by all sequences: ik_llama.cpp 0.1.5 crashes on several of them. It is of four tokens.
    command = peer.command("llama-batched-bench", "-m", model, "-t", threads, "-c", _ROOM, "-pps", *sizes)
    return parse_batched(_run(command, peer.folder.parent))


def _plain_decode(peer: Peer, model: Path, threads: int) -> Figures:
    """Return decode by llama-bench, without any prompt: for a build that crashes in prompts."""
    command = peer.command("llama-bench", "-m", model, "-t", threads, "-p", 0, "-n", _GENERATED, "-r", 1, "-o", "json")
    found = re.search(r'"avg_ts": *([0-9.]+)', _run(command, peer.folder.parent))
    return {after(CONTEXTS[0]): float(found[1])} if found else {}


def peer_speed(peer: Peer, model: Path, threads: int) -> Figures:
    """Return prefill, and decode of one sequence."""
    found = _batched(peer, model, threads, (*CONTEXTS[:1], PROMPT), (1,), _GENERATED)
    figures = {after(context): found[context, 1][1] for context in CONTEXTS if (context, 1) in found}
    if (PROMPT, 1) in found:
        figures[PREFILL] = found[PROMPT, 1][0]
    return figures or _plain_decode(peer, model, threads)


def peer_batches(peer: Peer, model: Path, threads: int) -> Figures:
    """Return decode of several sequences, all together."""
    found = _batched(peer, model, threads, CONTEXTS[:1], BATCHES, _GENERATED)
    return {together(count): found[CONTEXTS[0], count][1] for count in BATCHES if (CONTEXTS[0], count) in found}


def peer_busy(peer: Peer, model: Path, threads: int) -> Figures:
    """Return decode of one sequence, as `BUSY`."""
    found = _batched(peer, model, threads, CONTEXTS[:1], (1,), _FEW)
    return {} if not found else {BUSY: found[CONTEXTS[0], 1][1]}


def peer_start(peer: Peer, model: Path, threads: int) -> Figures:
    """Return seconds until llama-bench has computed a prompt, without a tokenizer's and a sampler's work."""
    command = peer.command(
        *("llama-bench", "-m", model, "-t", threads, "-p", _TEXT_TOKENS, "-n", 0, "-r", 1, "-o", "json"),
        *peer.recipe.cold,
    )
    return _seconds_until(command, b"avg_ts", peer.folder.parent)


def _seconds_until(
    command: Sequence[str], mark: bytes, folder: Path, environment: Mapping[str, str] | None = None
) -> Figures:
    """Return seconds from a process's start until it has printed `mark`; where that is empty, anything, or it ended."""
    began, seen, seconds = time.perf_counter(), b"", 0.0
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        output = process.stdout.fileno() if process.stdout else -1
        while not seconds:
            data = os.read(output, 4096)
            seen += data
            if mark in seen:
                seconds = time.perf_counter() - began
            elif not data:
                break
        while os.read(output, 4096):
            pass
    return {START: seconds} if seconds and not process.returncode else {}


def _measured(
    bundle: Path, threads: int, prompt: int, contexts: Sequence[int], batches: Sequence[int]
) -> tuple[Figure, ...]:
    device = DeviceOptions("host", threads)
    options = BenchOptions(bundle, device, (prompt,), tuple(contexts), tuple(batches), rounds=1)
    return measure(options, lambda _: None).figures


def our_speed(bundle: Path, threads: int) -> Figures:
    """Return the same of a bundle."""
    found = _measured(bundle, threads, PROMPT, CONTEXTS, (1,))
    return {PREFILL if one.what == "prefill" else after(one.tokens): one.median for one in found}


def our_batches(bundle: Path, threads: int) -> Figures:
    """Return the same of a bundle."""
    found = _measured(bundle, threads, 1, CONTEXTS[:1], BATCHES)
    return {together(one.sequences): one.median for one in found if one.sequences > 1}


def our_busy(bundle: Path, threads: int) -> Figures:
    """Return the same of a bundle."""
    found = _measured(bundle, threads, 1, CONTEXTS[:1], (1,))
    return {BUSY: next(one.median for one in found if one.what == "decode")}


def our_start(bundle: Path, threads: int) -> Figures:
    """Return seconds until `rfc run` has printed a token of its answer."""
    words = ("run", str(bundle), _TEXT, "--max-tokens", "1", "--temperature", "0", "--device", "host")
    return _seconds_until([*RFC, *words, "--threads", str(threads)], b"", bundle.parent, ENVIRONMENT)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[list[int]]:
    """Have so many processes compute all the while; yields their ids."""
    processes = [subprocess.Popen(_SPIN) for _ in range(count)]
    try:
        yield [process.pid for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


PARTS: Final[dict[str, tuple[Callable[[Path, int], Figures], Callable[[Peer, Path, int], Figures]]]] = {
    "speed": (our_speed, peer_speed),
    "batches": (our_batches, peer_batches),
    "start": (our_start, peer_start),
    "busy": (our_busy, peer_busy),
}
"""Of a bundle and a number of threads; of a peer, a GGUF file and a number of threads."""
