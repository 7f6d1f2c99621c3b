"""One step of the device: what it computes is made of chunks, and what comes of it is read back."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from ...artifacts.dataclass import dataclass
from ..device.batch import Batch, Float32, Int32, Program, RowSampling, token_arrays
from .drafted_program import DraftedProgram
from .embedding_sequence import EmbeddingSequence, hidden_states, tokens_read
from .logprobs import TokenLogprobs, token_logprobs
from .pictures import picture_arrays
from .scheduler import Chunk


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step came to.

    Attributes:
        tokens: drawn, one for each row of logits; -1: the row is not finite.
        logprobs: as `step_logprobs` has them, one for each row.
        hidden: as `hidden_states` has them.
    """

    tokens: list[int]
    logprobs: list[TokenLogprobs | None]
    hidden: list[tuple[Chunk, EmbeddingSequence, Float32]]


def run_step(program: Program, chunks: list[Chunk]) -> StepOutput:
    """Compute the chunks, after a draft model, where there is one, has put its drafts into them.

    Raises:
        DeviceError, BundleError: see `Program.step`.
    """
    if isinstance(program, DraftedProgram):
        program.draft(chunks)
    tokens = program.step(make_batch(chunks, program.layout.adapters)).tolist()
    return StepOutput(tokens, step_logprobs(program, chunks, tokens), hidden_states(program, chunks))


def make_batch(chunks: list[Chunk], adapters: Sequence[str] = ()) -> Batch:
    """The arrays of a step, chunk after chunk, of a model with such adapters."""
    token_ids = [[*c.sequence.token_ids[c.start : c.start + c.count], *c.drafts] for c in chunks]
    firsts = accumulate((chunk.num_tokens for chunk in chunks[:-1]), initial=0)
    logits_rows = [row for chunk, first in zip(chunks, firsts, strict=True) for row in chunk.logits_rows(first)]
    state_from, state_to = _state(chunks)
    return Batch(
        *token_arrays(token_ids, [c.start for c in chunks], [c.sequence.blocks for c in chunks]),
        logits_rows=np.array(logits_rows, np.int32),
        sampling=[row for chunk in chunks for row in _row_samplings(chunk)],
        adapter_scales=_adapter_scales(chunks, adapters),
        state_from=state_from,
        state_to=state_to,
        output_rows=_output_rows(chunks, logits_rows),
        **picture_arrays([(c.sequence.pictures, c.start, c.num_tokens) for c in chunks]),
    )


def _output_rows(chunks: list[Chunk], logits_rows: list[int]) -> Int32 | None:
    """The tokens of which logits or hidden states are read, as `Batch` has them; None: all of the step."""
    rows = set(logits_rows).union(*(tokens for _, _, tokens in tokens_read(chunks)))
    return np.array(sorted(rows), np.int32) if len(rows) < sum(chunk.num_tokens for chunk in chunks) else None


def _state(chunks: list[Chunk]) -> tuple[Int32, Int32] | tuple[None, None]:
    """The slots of state, as `Batch` has them; nothing where the model has none."""
    if not any(chunk.state_to for chunk in chunks):
        return None, None
    written = np.concatenate([np.array(chunk.state_to[: chunk.num_tokens], np.int32) for chunk in chunks])
    return np.array([chunk.state_from for chunk in chunks], np.int32), written


def _adapter_scales(chunks: list[Chunk], adapters: Sequence[str]) -> Float32 | None:
    """The scales of each sequence, as `Batch` has them."""
    if not any(scale for chunk in chunks for _, scale in chunk.sequence.request.adapters):
        return None
    rows = [dict(chunk.sequence.request.adapters) for chunk in chunks]
    return np.array([[row.get(name, 0.0) for name in adapters] for row in rows], np.float32)


def _row_samplings(chunk: Chunk) -> list[RowSampling]:
    """A scored row is left as the model made it; the token drawn from it says whether it is finite, and no more."""
    drawn = chunk.sequence.row_samplings(chunk.drafts) if chunk.samples else []
    return [RowSampling()] * len(chunk.scored) + drawn


def step_logprobs(program: Program, chunks: list[Chunk], tokens: list[int]) -> list[TokenLogprobs | None]:
    """Log-probabilities of what a step's rows of logits are about, where they were asked for.

    Args:
        program: that has done the step.
        chunks: of the step.
        tokens: drawn from its rows; -1: the row is not finite.

    Returns:
        An entry a row: of the prompt's next token where it is scored, else of the token drawn.
    """
    asked: list[tuple[int | None, int | None]] = []  # the token, None: as drawn; and how many of the likeliest
    for chunk in chunks:
        request = chunk.sequence.request
        asked += [(request.prompt_token_ids[at + 1], request.prompt_logprobs) for at in chunk.scored]
        asked += [(None, request.logprobs)] * chunk.num_drawn
    if all(count is None for _, count in asked):
        return [None] * len(tokens)
    rows = program.logits(len(tokens))
    return [
        None if count is None or drawn < 0 else token_logprobs(row, drawn if token is None else token, count)
        for row, drawn, (token, count) in zip(rows, tokens, asked, strict=True)
    ]
