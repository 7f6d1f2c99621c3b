"""The hyperparameters of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from .position_tables import PositionTable, RopeScaling, RopeTable

RopeStyle = Literal["interleaved", "half"]
HEAD_DIM_MULTIPLE = 16  # attention works on vectors of 16 elements of a head


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Hyperparameters of a decoder-only transformer with RMS norms, rotary positions and a gated feed-forward.

    Attributes:
        architecture: name of a row of `ARCHITECTURES`.
        name: the model's own name, untrusted text.
        hidden_size: width of the residual stream.
        intermediate_size: width of the feed-forward's inside.
        num_layers: transformer blocks.
        num_heads: query heads; a multiple of `num_kv_heads`.
        num_kv_heads: key and value heads.
        head_dim: elements of one head; a multiple of `HEAD_DIM_MULTIPLE`.
        vocab_size: rows of the token embedding.
        max_seq_len: tokens of context that the model was trained for.
        rope_theta: base of the rotary frequencies.
        rms_norm_eps: added to the mean square in every RMS norm.
        rope_style: which elements rotate together, see `Architecture`.
        rope_dim: elements at a head's front that rotate; even, at most `head_dim`.
        rope_scaling: see `RopeScaling`.
        qkv_bias: the query, key and value projections have biases.
        qk_norm: queries and keys pass an RMS norm over each head.
        tie_word_embeddings: the token embedding serves as the output projection too.
        activation: of the feed-forward's gate, see `Architecture`.
        further_tables: by position, beside `rope_table`, by role: of other bases, or of temperatures.
    """

    architecture: str
    name: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_seq_len: int
    rope_theta: float
    rms_norm_eps: float
    rope_style: RopeStyle
    rope_dim: int
    rope_scaling: RopeScaling
    qkv_bias: bool
    qk_norm: bool
    tie_word_embeddings: bool
    activation: str = "silu"
    further_tables: Mapping[str, PositionTable] = field(default_factory=dict)

    def inverse_frequencies(self, factors: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
        """See `RopeTable`; of the model's own table."""
        return RopeTable(self.rope_theta, self.rope_dim, self.rope_scaling).inverse_frequencies(factors)

    def tables(self) -> Mapping[str, PositionTable]:
        """Return the tables by position that the compiler makes, by role."""
        own = {"rope_table": RopeTable(self.rope_theta, self.rope_dim, self.rope_scaling)} if self.rope_dim else {}
        return {**own, **self.further_tables}
