"""`rfc bench`: how fast a bundle is here, and on a CPU which of its kernels take how long and how near to the limit.

A model is stepped as the engine steps it, without the engine: prompts in chunks, then one token of each sequence.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..artifacts.bundle import Bundle, open_bundle
from ..artifacts.dataclass import dataclass
from ..artifacts.errors import UsageError
from ..artifacts.layout import Layout
from .device.batch import Program
from .device.crowd import crowd_batch
from .device.host import HostProgram
from .device.load import DeviceOptions, load_program
from .device.memory import LEAST_SLOTS, KvSize
from .device.solo import Solo
from .kernel_times import KernelTime, kernel_times, kernels_of_outputs, token_ids

PROMPTS: Final = (128, 512)
CONTEXTS: Final = (4, 512)
BATCHES: Final = (1, 2, 4, 8, 16)
SAMPLE_SECONDS: Final = 0.5  # of decoding, for each sample
DECODED_TOKENS: Final = 16  # of a sequence, again and again
PROBE_BYTES: Final = 256 << 20

_Key = tuple[str, int, int]  # what, tokens, sequences
_probe: list[np.ndarray[Any, np.dtype[np.float32]]] = []


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure.

    Attributes:
        path: of the bundle.
        device: to run it on.
        prompts: tokens of the prompts that are computed; none: those of `PROMPTS` that the bundle has room for.
        contexts: tokens before those that one sequence decodes; none: those of `CONTEXTS`, likewise.
        batches: sequences that decode at once, with as many tokens before as the first of the contexts; none: those of
            `BATCHES`, likewise.
        rounds: samples of each figure, in turn.
        kernels: time them too.
    """

    path: Path
    device: DeviceOptions
    prompts: tuple[int, ...] = ()
    contexts: tuple[int, ...] = ()
    batches: tuple[int, ...] = ()
    rounds: int = 5
    kernels: bool = False


@dataclass(frozen=True, slots=True)
class Figure:
    """Tokens a second: of a prompt, or of sequences that decode together.

    Attributes:
        what: `prefill` or `decode`.
        tokens: of the prompt; those before, where sequences decode.
        sequences: at once.
        median: over the rounds.
        lowest: of them.
        highest: of them.
        bandwidth_share: of the bytes a second that were read from memory beside it, what the weights alone take; None:
            not known, or not of use.
    """

    what: str
    tokens: int
    sequences: int
    median: float
    lowest: float
    highest: float
    bandwidth_share: float | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """All of it. `bandwidth`: bytes a second that the threads read, median; 0 on a GPU, whose own is not probed."""

    device: str
    load_seconds: float
    weight_bytes: int
    arena_bytes: int
    bandwidth: float
    figures: tuple[Figure, ...]
    kernels: tuple[KernelTime, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def measure(options: BenchOptions, report: Callable[[str], object]) -> Measurement:
    """Measure a bundle; `report` is told what is loaded.

    Raises:
        RocmforgeError: it cannot be loaded, or has no room for what is asked.
    """
    with open_bundle(options.path) as bundle:
        options = _chosen(options, bundle.layout)
        began = time.perf_counter()
        program = load_program(bundle, options.device, _room(bundle, options), report)
        load_seconds = time.perf_counter() - began
        try:
            return _measured(bundle, program, options, load_seconds)
        finally:
            program.close()


def _chosen(options: BenchOptions, layout: Layout) -> BenchOptions:
    """What was not asked for, as far as the bundle has room for it."""
    longest = layout.max_seq_len
    return replace(
        options,
        prompts=options.prompts or _up_to(PROMPTS, longest),
        contexts=options.contexts or _up_to(CONTEXTS, longest - DECODED_TOKENS),
        batches=options.batches or _up_to(BATCHES, layout.max_sequences),
    )


def _up_to(counts: Sequence[int], most: int) -> tuple[int, ...]:
    return tuple(count for count in counts if count <= most) or (max(1, most),)


def _room(bundle: Bundle, options: BenchOptions) -> KvSize:
    layout = bundle.layout
    longest = max((*options.prompts, *(count + DECODED_TOKENS for count in options.contexts)))
    if longest > layout.max_seq_len:
        raise UsageError(
            f"--prompt, --context: expected at most {layout.max_seq_len} tokens in all, as the bundle has room for, "
            f"found {longest}"
        )
    if max(options.batches) > layout.max_sequences:
        raise UsageError(
            f"--batch: expected at most {layout.max_sequences}, as a step holds, found {max(options.batches)}"
        )
    size = layout.kv.block_size
    blocks = max(-(-longest // size), max(options.batches) * (options.contexts[0] // size + 1))
    return KvSize(blocks, longest, LEAST_SLOTS * max(options.batches) if layout.states else None)


def _measured(bundle: Bundle, program: Program, options: BenchOptions, load_seconds: float) -> Measurement:
    layout, rows = program.layout, {str(row["symbol"]): row for row in bundle.manifest.kernels}
    read, _ = token_work(bundle, layout)
    host = program if isinstance(program, HostProgram) else None
    runs = _runs(program, options)
    samples: dict[_Key, list[float]] = {key: [] for key in runs}
    probes = []
    for index in range(options.rounds + 1):
        if host is not None:
            probes.append(read_bandwidth(host.threads))
        for key, run in runs.items():
            rate = run()
            if index:  # before, pages were touched for the first time
                samples[key].append(rate)
    bandwidth = statistics.median(probes) if probes else 0.0
    kernels: list[KernelTime] = []
    if options.kernels and host is not None:
        kernels = kernel_times(host, rows, max(options.prompts), options.rounds, bandwidth)
    return Measurement(
        options.device.device if host is None else f"{host.threads} threads",
        load_seconds,
        layout.weights_bytes,
        layout.arena_bytes(),
        bandwidth,
        tuple(_figure(key, rates, read, bandwidth) for key, rates in samples.items()),
        tuple(kernels),
    )


def _runs(program: Program, options: BenchOptions) -> Mapping[_Key, Callable[[], float]]:
    """What takes a sample of each figure."""
    runs: dict[_Key, Callable[[], float]] = {}
    for count in options.prompts:
        runs["prefill", count, 1] = partial(prefill, program, count)
    for count in options.contexts:
        runs["decode", count, 1] = partial(_decode, program, count)
    for count in options.batches:
        runs.setdefault(("decode", options.contexts[0], count), partial(_together, program, count, options))
    return runs


def token_work(bundle: Bundle, layout: Layout) -> tuple[int, int]:
    """Return the bytes of weights that a step of one token reads, and the operations with weights for each token of a
    prompt: what is done for its last one alone, such as its logits, is not in them.

    The layout is one of the bundle's: there may be code for several targets.
    """
    launched = {entry.kernel for entry in layout.launches}
    rows = [row for row in bundle.manifest.kernels if row["symbol"] in launched]
    of_outputs = kernels_of_outputs(layout, rows)
    done = sum(int(str(row["operations_per_token"])) for row in rows if row["symbol"] not in of_outputs)
    return sum(int(str(row["weight_bytes_per_step"])) for row in rows), done


def _figure(key: _Key, rates: Sequence[float], read: int, bandwidth: float) -> Figure:
    what, tokens, sequences = key
    median = statistics.median(rates)
    share = median * read / bandwidth if bandwidth and what == "decode" and sequences == 1 else None
    return Figure(what, tokens, sequences, median, min(rates), max(rates), share)


def read_bandwidth(threads: int) -> float:
    """Bytes a second at which threads read 256 MiB: the limit of decode where memory is."""
    if not _probe:
        _probe.append(np.ones(PROBE_BYTES // 4, np.float32))
    parts = [threading.Thread(target=np.dot, args=(part, part)) for part in np.array_split(_probe[0], threads)]
    began = time.perf_counter()
    for part in parts:
        part.start()
    for part in parts:
        part.join()
    return PROBE_BYTES / (time.perf_counter() - began)


def prefill(program: Program, count: int, clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the tokens a second of a prompt of `count` tokens, in steps as the engine makes them."""
    began = clock()
    _prompt(program, count)
    return count / (clock() - began)


def _prompt(program: Program, count: int) -> Solo:
    """Compute a prompt, in chunks; returns the sequence, which goes on behind it."""
    tokens, size = token_ids(count, program.layout.vocab_size), program.layout.max_batch_tokens
    solo = Solo(program.layout)
    for start in range(0, count, size):
        rows: list[int] | None = [] if start + size < count else None  # nothing is drawn before the last
        whole = program.layout.both_ways  # an encoder, whose hidden states are read
        program.step(solo.batch(tokens[start : start + size], start, logits_rows=rows, all_outputs=whole))
    return solo


def _decode(program: Program, context: int) -> float:
    """Tokens a second after so many others, one at a time, for `SAMPLE_SECONDS`."""
    solo = _prompt(program, context)
    return _rate(lambda index: program.step(solo.batch([index % 7 + 1], context + index % DECODED_TOKENS)))


def _together(program: Program, count: int, options: BenchOptions) -> float:
    """Tokens a second of sequences that decode together, for `SAMPLE_SECONDS`."""
    tokens = token_ids(count, program.layout.vocab_size)
    batch = crowd_batch(program.layout, tokens, options.contexts[0])
    return count * _rate(lambda _: program.step(batch))


def _rate(step: Callable[[int], object]) -> float:
    """Steps a second; the first is not counted."""
    step(0)
    done, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < SAMPLE_SECONDS:
        done += 1
        step(done)
    return done / passed
