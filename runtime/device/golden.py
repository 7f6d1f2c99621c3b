"""Golden records: a bundle's proof. Made once at compile time, replayed by `rfc verify` on any device."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ...artifacts.errors import BundleError
from ...artifacts.layout import Layout
from .batch import Batch, Program
from .solo import Solo

TOP_LOGITS = 8
GREEDY_TOKENS = 4
GOLDEN_BLOCKS = 4  # of the KV cache, enough for any record


def prompt_step(program: Program, batch: Batch) -> npt.NDArray[np.float32]:
    """Return float32[vocab_size] after the last token of a step of one row of logits."""
    program.step(batch)
    logits: npt.NDArray[np.float32] = program.logits(1)[0]
    return logits


def prompt_logits(program: Program, prompt: Sequence[int]) -> npt.NDArray[np.float32]:
    """Return float32[vocab_size] after a prompt, which a program of its own keeps."""
    return prompt_step(program, Solo(program.layout).batch(prompt, 0)).copy()


def record_golden(program: Program, prompts: Sequence[Sequence[int]]) -> list[dict[str, object]]:
    """Return one record a prompt: its last logits' digest and top, and the first greedy tokens.

    Args:
        program: with room for the prompts in its KV cache.
        prompts: token ids.
    """
    return [record_of(program, prompt, prompt_logits(program, prompt)) for prompt in prompts]


def record_of(program: Program, prompt: Sequence[int], logits: npt.NDArray[np.float32]) -> dict[str, object]:
    """Return the record of a prompt, which the program has just computed, and whose `prompt_logits` these are."""
    record: dict[str, object] = {
        "prompt": list(prompt),
        "logits_sha256": hashlib.sha256(logits.tobytes()).hexdigest(),
        "top": top_of(logits),
    }
    tokens: list[int] = []
    solo = Solo(program.layout)
    count = min(GREEDY_TOKENS, program.layout.max_seq_len + 1 - len(prompt))
    for step in range(count):
        tokens.append(int(np.argmax(logits)))
        if step + 1 < count and program.layout.both_ways:  # a text is computed whole
            logits = prompt_step(program, solo.batch([*prompt, *tokens], 0))
        elif step + 1 < count:
            logits = prompt_step(program, solo.batch(tokens[-1:], len(prompt) + step))
    record["greedy"] = tokens
    return record


def top_of(logits: npt.NDArray[np.float32]) -> list[list[int | float]]:
    """Return the largest of a row with their indices, the lowest index first where they are equal."""
    # NaN first, so that one is seen wherever it is.
    keys = np.where(np.isnan(logits), -np.inf, -logits)
    last = min(TOP_LOGITS, keys.size) - 1
    top = np.flatnonzero(keys <= np.partition(keys, last)[last])  # all that may be among them, lowest token first
    order = top[np.argsort(keys[top], kind="stable")][:TOP_LOGITS]
    return [[int(token), float(logits[token])] for token in order]


def checked_prompt(path: Path, record: object, layout: Layout) -> list[int]:
    """Return the token ids of a golden record, all of them safe to run in a KV cache of `GOLDEN_BLOCKS`.

    Raises:
        BundleError: they are not; names the bundle `path`.
    """
    prompt = record.get("prompt") if isinstance(record, dict) else None
    room = min(layout.max_batch_tokens, layout.max_seq_len, GOLDEN_BLOCKS * layout.kv.block_size)
    longest = max(1, room - GREEDY_TOKENS)
    if not isinstance(prompt, list) or not 1 <= len(prompt) <= longest:
        raise BundleError(path, "golden.prompt", f"expected 1 to {longest} token ids")
    if not all(type(token) is int and 0 <= token < layout.vocab_size for token in prompt):
        raise BundleError(path, "golden.prompt", f"expected token ids from 0 to {layout.vocab_size - 1}")
    return prompt


@contextlib.contextmanager
def records_of(path: Path) -> Iterator[None]:
    """Within it the records of a bundle are read.

    Raises:
        BundleError: they are malformed.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, OverflowError):  # the last: a number that no float holds
        raise BundleError(path, "golden", "expected records as rocmforge writes them") from None


def compare_records(
    path: Path, expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], tolerance: float
) -> list[str]:
    """Compare records with what the bundle `path` says, as `compare_golden` does.

    Raises:
        BundleError: its records are malformed.
    """
    with records_of(path):
        return compare_golden(expected, found, tolerance)


def compare_golden(
    expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], tolerance: float
) -> list[str]:
    """Return differences beyond `tolerance` (in logits), a line each; none where the device computes what it should."""
    return [
        f"golden record {index}: token {problem}"
        for index, (want, have) in enumerate(zip(expected, found, strict=True))
        for problem in compare_tops(want["top"], have["top"], tolerance)
    ]


def compare_tops(expected: Sequence[Any], found: Sequence[Any], tolerance: float) -> list[str]:
    """Return which of the largest of a row are not what they should be, `INDEX: expected X, found Y` each.

    Raises:
        ValueError: none are expected, which would be true of every row; others are raised by what is no row.
    """
    if not expected:
        raise ValueError("no numbers")
    found_top = {int(index): float(number) for index, number in found}
    floor = min(found_top.values())
    problems = []
    for index, number in expected:
        value = found_top.get(int(index))
        # Spelled so that a NaN is no match.
        same = number <= floor + tolerance if value is None else abs(value - number) <= tolerance
        if not same:
            said = "less than the top" if value is None else f"{value:.4f}"
            problems.append(f"{index}: expected {number:.4f}, found {said}")
    return problems
