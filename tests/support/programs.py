"""Programs of small models: compiled, loaded, and run over chunks of sequences."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.changes import NO_CHANGES, Changes
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import PlainProgress
from rocmforge.compiler.target import TARGETS, CodeVariant
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.device.batch import Batch, Program, RowSampling
from rocmforge.runtime.device.host import load_host_program
from rocmforge.runtime.device.solo import Solo

LEVELS = ("x86_64_v4", "x86_64_v3", "portable")
BLOCK = 16


def run(
    program: Program, chunks: list[tuple[int, int, list[int]]], scales: list[list[float]] | None = None
) -> np.ndarray:
    """One step over chunks (slot, start, token ids), each with its scales of adapters.

    Returns:
        float32[tokens, vocab], logits at every token.
    """
    width = 8
    tokens = [token for _, _, ids in chunks for token in ids]
    program.step(
        Batch(
            token_ids=np.array(tokens, np.int32),
            positions=np.concatenate([np.arange(s, s + len(ids), dtype=np.int32) for _, s, ids in chunks]),
            rows=np.repeat(np.arange(len(chunks), dtype=np.int32), [len(ids) for _, _, ids in chunks]),
            block_table=np.array([[slot * width + i for i in range(width)] for slot, _, _ in chunks], np.int32),
            logits_rows=np.arange(len(tokens), dtype=np.int32),
            sampling=[RowSampling()] * len(tokens),
            adapter_scales=None if scales is None else np.array(scales, np.float32),
        )
    )
    return program.logits(len(tokens))


@contextlib.contextmanager
def building_levels(levels: tuple[str, ...], flags: Mapping[str, str] | None = None) -> Iterator[None]:
    """Build for the host at these levels alone: each takes as long as a GPU.

    Args:
        flags: one more, by level. None: -O1, which takes half the time, and no flag may change a bit of the results.
    """
    flags = dict.fromkeys(levels, "-O1") if flags is None else flags
    host = TARGETS["host"]
    with pytest.MonkeyPatch.context() as patch:
        kept = [variant for variant in host.variants if variant.level in levels]
        with_flags = (_with_flag(one, flags[one.level]) if one.level in flags else one for one in kept)
        patch.setitem(TARGETS, "host", dataclasses.replace(host, variants=tuple(with_flags)))
        yield


def _with_flag(variant: CodeVariant, flag: str) -> CodeVariant:
    """With one more flag, also for what it shares with another level: else that would be built for it alone."""
    plain = variant.plain_flags and (*variant.plain_flags, flag)
    return dataclasses.replace(variant, flags=(*variant.flags, flag), plain_flags=plain)


def compiled(
    path: Path,
    cache: BuildCache,
    goal: Path | None = None,
    changes: Changes = NO_CHANGES,
    archs: tuple[str, ...] = ("host",),
    levels: tuple[str, ...] = ("portable",),
    flags: Mapping[str, str] | None = None,
) -> Bundle:
    """`levels` and `flags` of the host as `building_levels` takes them."""
    goal = goal or path.with_suffix(".rfb")
    with PlainProgress() as progress, building_levels(levels, flags):
        compile_model(CompileOptions(path, goal, archs, changes=changes), cache, progress, make_golden)
    return open_bundle(goal)


FLOAT_TYPES = ("F32", "F16", "BF16")


def relative_tolerance(quantization: str) -> float:
    """Root mean square error of the logits over their standard deviation.

    Float weights: the KV cache is float16, whose rounding (relative 2^-11 at most) enters each layer once for
    keys and once for values: 2 layers x 2 x 2^-11 = 0.2 %. Quantized weights: an int8 activation is off by a
    uniform error of one step, largest/127, so by largest / 127 / sqrt(12) rms. Over 32 Gaussian values the largest is
    2.4 sigma: 0.54 % of sigma, for the inputs of QKV, output, and gate/up. Over 16 it is 1.8 sigma, and in superblocks
    a step is up to twice the largest's, 1.5 times of it rms: 0.6 %. What SwiGLU gives is a product of two such, with
    a largest of 4.8 sigma: 1.2 %. In quadrature over 2 layers and the output matrix:
    sqrt(2 (3 x 0.6^2 + 1.2^2) + 0.6^2) = 2.3 %; times 2 for what norms and softmax amplify.
    """
    return 0.002 if quantization in FLOAT_TYPES else 0.046


def logits(bundle: Bundle, ids: list[int], level: str | None = None) -> np.ndarray:
    """float32[T, vocab_size] of a prompt, its last token in a step of its own."""
    program = load_host_program(bundle, num_blocks=8, threads=1, level=level)
    parts, solo = [], Solo(program.layout)
    for first, last in ((0, len(ids) - 1), (len(ids) - 1, len(ids))):
        count = last - first
        batch = solo.batch(ids[first:last], first, 8, range(count))
        program.step(dataclasses.replace(batch, block_table=batch.block_table[:, ::-1].copy()))
        parts.append(program.logits(count))
    program.close()
    return np.concatenate(parts)


def check_outputs_alone(program: Program, token_ids: list[int], scales: list[list[float]] | None = None) -> None:
    """Hold logits of tokens of which alone outputs are made against those where outputs are made of all: bit by bit.

    Args:
        program: to run.
        token_ids: at least 19.
        scales: of adapters.
    """
    whole, alone = (_some_logits(program, token_ids, scales, all_outputs) for all_outputs in (True, False))
    assert whole.tobytes() == alone.tobytes()


def _some_logits(
    program: Program, token_ids: list[int], scales: list[list[float]] | None, all_outputs: bool
) -> np.ndarray:
    """float32[rows, vocab_size]; a text before leaves other numbers behind, and one step asks for none."""
    adapters = None if scales is None else np.array(scales, np.float32)
    solo, found = Solo(program.layout), []
    steps = [(0, 6, []), (6, 18, [0, 5, 6, 11]), (18, 19, [0])]
    program.step(dataclasses.replace(solo.batch(token_ids[::-1], 0), adapter_scales=adapters))
    for first, last, rows in [(0, 19, [2, 3, 18])] if program.layout.both_ways else steps:
        sampling = RowSampling(keep_logits=True)
        batch = solo.batch(token_ids[first:last], first, None, rows, sampling, all_outputs=all_outputs)
        assert (batch.output_rows is None) is all_outputs
        program.step(dataclasses.replace(batch, adapter_scales=adapters))
        found.append(program.logits(len(rows)))
    return np.concatenate(found)
