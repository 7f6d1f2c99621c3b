"""Golden records: a bundle's proof. Made once at compile time, replayed by `rfc verify` on any device."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .batch import Batch, Program, RowSampling

TOP_LOGITS = 8
GREEDY_TOKENS = 4


def _prompt_step(program: Program, token_ids: Sequence[int], start: int) -> npt.NDArray[np.float32]:
    """float32[vocab_size] after `token_ids`, which begin at position `start`; the sequence lies in blocks 0, 1, ..."""
    count = len(token_ids)
    blocks = np.arange(program.num_blocks, dtype=np.int32)[None, :]
    program.step(
        Batch(
            token_ids=np.array(token_ids, np.int32),
            positions=np.arange(start, start + count, dtype=np.int32),
            rows=np.zeros(count, np.int32),
            block_table=np.ascontiguousarray(blocks),
            logits_rows=np.array([count - 1], np.int32),
            sampling=[RowSampling()],
        )
    )
    logits: npt.NDArray[np.float32] = program.logits(1)[0]
    return logits


def record_golden(program: Program, prompts: Sequence[Sequence[int]]) -> list[dict[str, object]]:
    """One record a prompt: its last logits' digest and top, and the first greedy tokens.

    Args:
        program: with room for the prompts in its KV cache.
        prompts: token ids.
    """
    records: list[dict[str, object]] = []
    for prompt in prompts:
        logits = _prompt_step(program, prompt, 0)
        # NaN first, so that one is seen wherever it is.
        order = np.argsort(np.where(np.isnan(logits), -np.inf, -logits), kind="stable")[:TOP_LOGITS]
        record: dict[str, object] = {
            "prompt": list(prompt),
            "logits_sha256": hashlib.sha256(logits.tobytes()).hexdigest(),
            "top": [[int(token), float(logits[token])] for token in order],
        }
        tokens: list[int] = []
        count = min(GREEDY_TOKENS, program.layout.max_seq_len + 1 - len(prompt))
        for step in range(count):
            tokens.append(int(np.argmax(logits)))
            if step + 1 < count:
                logits = _prompt_step(program, tokens[-1:], len(prompt) + step)
        record["greedy"] = tokens
        records.append(record)
    return records


def compare_golden(
    expected: Sequence[Mapping[str, Any]], found: Sequence[Mapping[str, Any]], tolerance: float
) -> list[str]:
    """Differences beyond `tolerance` (in logits), a line each; empty where the device computes what it should."""
    problems = []
    for index, (want, have) in enumerate(zip(expected, found, strict=True)):
        found_top = {int(token): float(logit) for token, logit in have["top"]}
        floor = min(found_top.values())
        for token, logit in want["top"]:
            value = found_top.get(int(token))
            # Spelled so that a NaN is no match.
            same = logit <= floor + tolerance if value is None else abs(value - logit) <= tolerance
            if not same:
                problems.append(
                    f"golden record {index}: token {token}: expected {logit:.4f}, found "
                    f"{'less than the top' if value is None else f'{value:.4f}'}"
                )
    return problems
