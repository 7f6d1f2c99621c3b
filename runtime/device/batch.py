"""One step's input and the seam to a device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import BundleError, DeviceError
from ...artifacts.layout import Layout
from ...artifacts.sampling import SamplingNumbers
from .token_masks import PendingMask

log = logging.getLogger(__name__)

Int32 = npt.NDArray[np.int32]
UInt32 = npt.NDArray[np.uint32]
Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class RowSampling(SamplingNumbers):
    """How one row of logits becomes a token; by default it is the most likely one.

    `seen_tokens` are the distinct tokens of prompt and output, `seen_counts` how often each stands in the
    output alone; both empty where no penalty is asked for. `counter` is the index of the token in its request.
    `bias_tokens` are distinct, `biases` are added to their logits. `mask` has a bit a token, the lowest first: only
    tokens whose bit is set may be drawn; a program waits for a pending one when the forward pass is under way.
    `keep_logits`: leave the row of logits as the model made it.
    """

    temperature: float = 0.0
    seed: int = 0
    counter: int = 0
    seen_tokens: Int32 | None = None
    seen_counts: Int32 | None = None
    bias_tokens: Int32 | None = None
    biases: Float32 | None = None
    mask: UInt32 | PendingMask | None = None
    keep_logits: bool = False

    def wait_for_mask(self) -> UInt32 | None:
        """Return the mask, once it is made, where there is one."""
        return self.mask.wait() if isinstance(self.mask, PendingMask) else self.mask


@dataclass(frozen=True, slots=True)
class Batch:
    """T tokens of S sequences; logits are asked for at R of the tokens.

    Attributes:
        token_ids: int32[T].
        positions: int32[T], each within its sequence; neighbours of one sequence count up.
        rows: int32[T], the sequence's row in `block_table`.
        block_table: int32[S, P], physical blocks of the KV cache.
        logits_rows: int32[R], indices into the tokens.
        sampling: R entries.
        adapter_scales: float32[S, adapters of the layout], what each is multiplied by; None: no sequence has any.
        state_from: int32[S], slot of the state that a sequence goes on from, -1: it begins; None: the model has none.
        state_to: int32[T], slot that takes the state after this token, -1: none does; a sequence's last has one. No
            slot is written twice in a step, and none that is read. None: the model has no state.
        input_rows: float32[N, input_width of the layout], rows given from outside; None: there are none.
        row_of: int32[T], which of these a token takes, -1: none; None: there are none.
        rope_positions: int32[4, T], by which queries and keys rotate where the model's rotation has sections: time,
            height, width and extra, each at least 0 and less than `max_seq_len`; None: by `positions`, all four.
        output_rows: int32[N], ascending, the tokens of which outputs are read: all of `logits_rows`, and those of which
            `Program.hidden` or `tapped` are asked. Of others, as most of a prompt are, a program need not compute what
            follows the last keys and values. None: all tokens.
    """

    token_ids: Int32
    positions: Int32
    rows: Int32
    block_table: Int32
    logits_rows: Int32
    sampling: Sequence[RowSampling]
    adapter_scales: Float32 | None = None
    state_from: Int32 | None = None
    state_to: Int32 | None = None
    input_rows: Float32 | None = None
    row_of: Int32 | None = None
    rope_positions: Int32 | None = None
    output_rows: Int32 | None = None

    def sequence_starts(self) -> Int32:
        """Return int32[S + 1], the first token of each sequence, then T; rows count up then."""
        return np.searchsorted(self.rows, np.arange(len(self.block_table) + 1)).astype(np.int32)


def rows_from_outside(batch: Batch, layout: Layout) -> tuple[Float32, Int32] | None:
    """Return `input_rows` and `row_of` as kernels read them, checked; None where a step is given none.

    Raises:
        DeviceError: they are not what the layout takes: N at most its tokens of a step.
    """
    if batch.input_rows is None or batch.row_of is None:
        return None
    rows, row_of = np.ascontiguousarray(batch.input_rows, np.float32), np.ascontiguousarray(batch.row_of, np.int32)
    fits = rows.ndim == 2 and rows.shape[1] == layout.input_width and len(rows) <= layout.max_batch_tokens
    known = row_of.min(initial=-1) >= -1 and row_of.max(initial=-1) < len(rows)
    if not fits or not known or row_of.shape != batch.token_ids.shape:
        taken = f"at most {layout.max_batch_tokens} input rows of {layout.input_width}, and one of them or none a token"
        raise DeviceError(f"a step takes {taken}, found {rows.shape} and {row_of.shape}")
    return rows, row_of


def token_arrays(
    token_ids: Sequence[Sequence[int]], starts: Sequence[int], blocks: Sequence[Sequence[int]]
) -> tuple[Int32, Int32, Int32, Int32]:
    """The first four fields of a `Batch`: which tokens it has, and where; an entry a sequence each.

    Args:
        token_ids: to compute, at least one of each.
        starts: position of the first of these.
        blocks: of the sequence.
    """
    block_table = np.zeros((len(blocks), max(map(len, blocks))), np.int32)
    for row, own in enumerate(blocks):
        block_table[row, : len(own)] = own
    counts = [len(ids) for ids in token_ids]
    positions = [np.arange(first, first + count, dtype=np.int32) for first, count in zip(starts, counts, strict=True)]
    rows = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    return np.concatenate([np.array(ids, np.int32) for ids in token_ids]), np.concatenate(positions), rows, block_table


@dataclass(frozen=True, slots=True)
class DeviceFacts:
    """What is to be known of a GPU beside its memory, for `/health` and `/metrics`.

    Attributes:
        runtime: as `HIP 6.4`; empty where there is no GPU.
        graphs: `on`, or `off: ` and why; empty where there is no GPU.
        graph_mismatches: steps of which a graph computed another, and that were computed again without.
        host_weight_bytes: of weights that the GPU reads in this machine's memory.
    """

    runtime: str = ""
    graphs: str = ""
    graph_mismatches: int = 0
    host_weight_bytes: int = 0


class Program(Protocol):
    """A bundle loaded on a device, with its KV cache and its slots of state."""

    layout: Layout
    num_blocks: int
    num_state_slots: int

    def step(self, batch: Batch) -> Int32:
        """Run a batch; returns int32[R], the sampled tokens (-1: that row's logits are not finite).

        Raises:
            DeviceError: the device failed.
            BundleError: as `check`.
        """

    def check(self) -> None:
        """Check the files that steps read; it is cheap, and any thread may ask.

        Raises:
            BundleError: a file that steps read is no longer what it was when the program was loaded.
        """

    def logits(self, num_rows: int) -> npt.NDArray[np.float32]:
        """Return the last step's float32[num_rows, vocab_size], a copy; adjusted where `keep_logits` is not set."""

    def hidden(self, first: int, count: int) -> Float32:
        """Return float32[count, hidden_size] after the final norm, of the last step's tokens from `first` on; a copy.

        They were among the step's `output_rows`.

        Raises:
            DeviceError: the device failed, or the bundle gives no hidden states.
        """

    def tapped(self, first: int, count: int) -> Float32:
        """Return float32[count, columns of the layout's tap], of the last step's tokens from `first` on; a copy.

        They were among the step's `output_rows`.

        Raises:
            DeviceError: the device failed, or the bundle has no tap.
        """

    def memory(self) -> tuple[int, int]:
        """Return free and total bytes of the device's memory; any thread may ask.

        Raises:
            DeviceError: they are not known.
        """

    def facts(self) -> DeviceFacts:
        """Return what is known of the GPU; any thread may ask."""

    def close(self) -> None:
        """Free all that the device holds."""


def changed_files(program: Program | None) -> BundleError | None:
    """Return what `Program.check` finds; nothing where there is no program."""
    try:
        if program is not None:
            program.check()
    except BundleError as error:
        return error
    return None


def device_facts(program: Program | None) -> DeviceFacts:
    """Return what `Program.facts` says; nothing where there is no program."""
    return DeviceFacts() if program is None else program.facts()


def close_program(program: Program | None) -> None:
    """Free what it holds, if there is one, as far as the device still lets it."""
    try:
        if program is not None:
            program.close()
    except Exception:
        log.exception("the device's memory could not be freed")
