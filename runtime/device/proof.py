"""That a program just loaded computes what its bundle says: its shortest golden record, before anybody is served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import BundleError
from .batch import Batch, Float32, Int32, Program, RowSampling, token_arrays
from .golden import checked_prompt, compare_records, prompt_step, top_of
from .solo import Solo


@dataclass(frozen=True, slots=True)
class Proof:
    """A golden record that a program is to replay as far as its first token: `prompt` are its checked token ids, and
    `tolerance` is in logits. The bundle's `path` is for messages."""

    path: Path
    record: Mapping[str, Any]
    prompt: Sequence[int]
    tolerance: float

    def replay(self, program: Program) -> None:
        """Replay it in a step of its own.

        Raises:
            BundleError: the program's answer is another, or the record is malformed.
        """
        self._check(prompt_step(program, Solo(program.layout).batch(self.prompt, 0, all_outputs=False)))

    def step_with(self, program: Program, batch: Batch) -> Int32:
        """Run a program's first step and replay the record in it, as a last sequence of the batch, so that weights are
        read once; where there is no room for it, in a step before. A sequence's numbers do not depend on others.

        Raises:
            BundleError: as `replay`: the batch has no result then.
            DeviceError: see `Program.step`.
        """
        both = with_last_sequence(batch, self.prompt, program)
        if both is None:
            self.replay(program)
            return program.step(batch)
        sampled = program.step(both)
        self._check(program.logits(len(sampled))[-1])
        return sampled[:-1]

    def _check(self, logits: Float32) -> None:
        problems = compare_records(self.path, [self.record], [{"top": top_of(logits)}], self.tolerance)
        if not np.isfinite(logits).all():
            problems = ["expected finite logits, found NaN or infinity"]
        if problems:
            said = f"{problems[0]}: weights, code or device are spoiled; rfc verify says more"
            raise BundleError(self.path, "golden", said)


def check_shortest(program: Program, path: Path, records: Sequence[Mapping[str, Any]], tolerance: float) -> None:
    """Replay the shortest golden record in one step: whether weights, code and device are at all what they should be.

    Args: see `shortest_proof`.

    Raises:
        BundleError: the program's answer is another, or a record is malformed.
    """
    proof = shortest_proof(program, path, records, tolerance)
    if proof is not None:
        proof.replay(program)


def shortest_proof(
    program: Program, path: Path, records: Sequence[Mapping[str, Any]], tolerance: float
) -> Proof | None:
    """Return the shortest golden record; None where there are none, or none that fits the KV cache.

    Args:
        program: newly loaded.
        path: the bundle, for messages.
        records: of the bundle.
        tolerance: in logits.

    Raises:
        BundleError: a record is malformed.
    """
    prompts = [checked_prompt(path, record, program.layout) for record in records]
    shortest = min(range(len(prompts)), key=lambda index: len(prompts[index]), default=None)
    if shortest is None or len(prompts[shortest]) > program.num_blocks * program.layout.kv.block_size:
        return None
    return Proof(path, records[shortest], prompts[shortest], tolerance)


def with_last_sequence(batch: Batch, token_ids: Sequence[int], program: Program) -> Batch | None:
    """Return the batch with one sequence more, of which the last token's logits are asked for; None where the program
    has no room for it, or the batch has what such a sequence would need its own of: states, rows given from outside.

    Args:
        batch: the program's first, so that no block but its own holds anything.
        token_ids: of the sequence, from its first on.
        program: to run it.
    """
    layout, count, end = program.layout, len(token_ids), len(batch.token_ids) + len(token_ids)
    used = set(batch.block_table.ravel().tolist())
    needed = -(-count // layout.kv.block_size)
    blocks = [block for block in range(min(program.num_blocks, len(used) + needed)) if block not in used][:needed]
    rows = max(len(batch.block_table), len(batch.logits_rows))  # `max_sequences` bounds both
    room = end <= layout.max_batch_tokens and rows < layout.max_sequences and len(blocks) == needed
    own = batch.state_to is not None or batch.input_rows is not None or batch.rope_positions is not None
    if own or not room:
        return None
    own_ids, positions, _, _ = token_arrays([token_ids], [0], [blocks])
    num_sequences, width = batch.block_table.shape
    block_table = np.zeros((num_sequences + 1, max(width, needed)), np.int32)
    block_table[:-1, :width], block_table[-1, :needed] = batch.block_table, blocks
    scales, outputs = batch.adapter_scales, batch.output_rows
    return replace(
        batch,
        token_ids=np.append(batch.token_ids, own_ids),
        positions=np.append(batch.positions, positions),
        rows=np.append(batch.rows, np.full(count, num_sequences, np.int32)),
        block_table=block_table,
        logits_rows=np.append(batch.logits_rows, np.int32(end - 1)),
        sampling=[*batch.sampling, RowSampling()],
        adapter_scales=None if scales is None else np.vstack([scales, np.zeros_like(scales[:1])]),
        output_rows=None if outputs is None else np.append(outputs, np.int32(end - 1)),
    )
