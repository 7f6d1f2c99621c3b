"""The hyperparameters of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, fields
from typing import TYPE_CHECKING, Any, Final, Literal

from ..artifacts.dataclass import dataclass
from ..artifacts.head import Head
from .arrays import np
from .position_tables import PositionTable, RopeScaling, RopeTable

if TYPE_CHECKING:
    import numpy.typing as npt

RopeStyle = Literal["interleaved", "half", "none"]

MAX_EXPERTS: Final = 1024
MOST_USED: Final = 32  # and of groups: lanes and bits of a wave of the GPU's kernel of `ops/route.py`


@dataclass(frozen=True, slots=True)
class LayerConfig:
    """What may differ between the layers of a model; see `ModelConfig`, whose fields have the same names."""

    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_dim: int
    rope_dim: int
    rope_table: str
    window: int
    num_experts: int
    recurrent: bool


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of the feed-forwards of a model, and how they are chosen, see `ops/route.py`.

    Attributes:
        used: of all, by a token.
        intermediate_size: of each.
        shared_size: width of the inside of what all tokens go to beside them; 0: there is none.
        latent_size: elements of what they read and make; 0: those of the residual stream.
        sharers: neighbours that share one more expert, which reads what the token's experts made; 0: there is none.
        sharers_size: width of the inside of these.
        sharers_scale: by which what these make is multiplied.
    """

    used: int
    intermediate_size: int
    shared_size: int
    scoring: str
    normalise: bool
    scale: float
    groups: int
    groups_used: int
    latent_size: int = 0
    sharers: int = 0
    sharers_size: int = 0
    sharers_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Recurrence:
    """What layers with recurrent state have.

    Attributes:
        kind: one of `models/mixers.KINDS`, as their scan, see `ops/scan.py`.
        taps: of the convolution: tokens that it sees, the last of them its own.
        size: columns that come out of the scan: those of all heads.
        heads: of the scan; Mamba's are of one column.
        state: elements of a state for each of these columns.
        groups: of heads that share keys and queries: B and C of Mamba 2.
        rank: elements that time steps are made of; 0: they are columns of the first product.
        normed: these, B and C are normed, without weights if the file has none.
        mapping: of heads to groups.
    """

    kind: str
    taps: int
    size: int
    heads: int = 0
    state: int = 0
    groups: int = 1
    rank: int = 0
    normed: bool = False
    mapping: str = "block"


@dataclass(frozen=True, slots=True)
class Xielu:
    """The numbers of a layer's activation, see `ops/xielu.py`."""

    positive: float
    negative: float
    beta: float
    epsilon: float


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Hyperparameters of a decoder-only transformer. Which norms, biases and matrices it has its weights tell.

    Attributes:
        architecture: name of a row of `ARCHITECTURES`.
        name: the model's own name, untrusted text.
        hidden_size: width of the residual stream.
        intermediate_size: width of the feed-forward's inside; 0 where there is none.
        num_layers: transformer blocks.
        draft_layers: blocks behind them in the file, which draft tokens; see `draft_head.py`.
        drafting: it is the first of these blocks, as a model of one layer.
        num_heads: query heads; a multiple of `num_kv_heads`.
        num_kv_heads: key and value heads.
        head_dim: elements of one head of queries and keys.
        value_dim: elements of one head of values; 0: `head_dim`.
        vocab_size: rows of the token embedding.
        max_seq_len: tokens of context that the model was trained for.
        bounded: no longer context can be computed: positions are learned, or an indexer would have to choose some.
        rope_theta: base of the rotary frequencies.
        norm_epsilon: added to the mean square, or the variance, in every norm.
        norm: kind of norms, where a file says another than its architecture usually has; "": the usual.
        activation: of feed-forwards, likewise.
        rope_style: which elements rotate together, see `Architecture`.
        rope_dim: elements at a head's front that rotate, at its end in latent attention; even, at most `head_dim`; 0:
            none.
        rope_scaling: see `RopeScaling`.
        tie_word_embeddings: the token embedding serves as the output projection too.
        rope_table: role of the table by which they rotate.
        window: positions that one sees, itself the last; 0: all before it.
        embedding_scale: by which the token embedding is multiplied.
        residual_scale: by which what attention and feed-forward add to the residual stream is.
        attention_scale: by which scores are; 0: one over the root of `head_dim`.
        attention_softcap: a score s becomes softcap * tanh(s / softcap); 0: it does not.
        value_scale: by which what attention makes of values is multiplied.
        max_alibi_bias: of ALiBi; 0: there is none.
        qkv_clamp: distance from 0 within which queries, keys and values are held; 0: they are not.
        logit_scale: by which logits are multiplied.
        logit_softcap: as `attention_softcap`, of logits.
        kv_rank: elements of the latent that keys and values of all heads are made of; 0: there is none.
        key_tail: elements at a key's end that do not come from it, and that may rotate.
        query_rank: elements of what queries are made of in latent attention; 0: of the residual stream.
        per_layer_size: of the embedding that each layer has of its own; 0: there are none.
        cycles: how often the upper layers are run, and the lower ones before each of these times; of `models/hrm.py`.
        laurel_rank: of the low-rank branch beside attention; 0: there is none.
        sparsity: of each layer, by how many standard deviations an element of the gate has to be above the mean; minus
            infinity: all take part.
        parallel: attention and feed-forward read the residual stream as it is before both.
        num_experts: of a feed-forward that has some in its stead.
        experts: what they are, where there are some.
        recurrent: layers have recurrent state.
        recurrence: what these have.
        gate_limits: of each layer's experts, where they have some, see `ops/gate.py`; 0: none.
        xielu: of each layer, where that is the activation.
        by_layer: field of `LayerConfig` to its value in each layer, where layers differ; the field of that name here
            then is the largest.
        head: what makes vectors or scores of hidden states, where the model was made for these; names of tensors are
            those that they have packed.
        rope_sections: pairs of a head that rotate by a token's position in time, height, width and a further one, see
            `ops/rope_kv.py`; all 0: the model knows one position alone. Text has the same four times.
        sections_interleaved: see there.
        takes_images: rows that are given from outside may stand for tokens, as pictures do.
        sees_ahead: tokens of a picture see those after them in the same one.
        deepstack: of the first layers, after each of which further columns of these rows are added.
        taps: layers before which a head that drafts tokens reads the residual stream; as many as there are: behind all.
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
    norm_epsilon: float
    rope_style: RopeStyle
    rope_dim: int
    rope_scaling: RopeScaling
    tie_word_embeddings: bool
    draft_layers: int = 0
    drafting: bool = False
    bounded: bool = False
    norm: str = ""
    activation: str = ""
    value_dim: int = 0
    rope_table: str = "rope_table"
    window: int = 0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    attention_scale: float = 0.0
    attention_softcap: float = 0.0
    value_scale: float = 1.0
    max_alibi_bias: float = 0.0
    qkv_clamp: float = 0.0
    logit_scale: float = 1.0
    logit_softcap: float = 0.0
    kv_rank: int = 0
    key_tail: int = 0
    query_rank: int = 0
    per_layer_size: int = 0
    cycles: tuple[int, int] = (0, 0)
    laurel_rank: int = 0
    sparsity: tuple[float, ...] = ()
    parallel: bool = False
    num_experts: int = 0
    experts: Experts | None = None
    recurrent: bool = False
    recurrence: Recurrence | None = None
    gate_limits: tuple[float, ...] = ()
    xielu: tuple[Xielu, ...] = ()
    by_layer: Mapping[str, tuple[int | str, ...]] = field(default_factory=dict)
    further_tables: Mapping[str, PositionTable] = field(default_factory=dict)
    head: Head | None = None
    rope_sections: tuple[int, int, int, int] = (0, 0, 0, 0)
    sections_interleaved: bool = False
    takes_images: bool = False
    sees_ahead: bool = False
    deepstack: int = 0
    taps: tuple[int, ...] = ()

    def layer(self, number: int) -> LayerConfig:
        """Return what a layer has."""
        found: dict[str, Any] = {
            one.name: self.by_layer[one.name][number] if one.name in self.by_layer else getattr(self, one.name)
            for one in fields(LayerConfig)
        }
        return LayerConfig(**found)

    def inverse_frequencies(self, factors: npt.NDArray[np.float32] | None) -> npt.NDArray[np.float32]:
        """See `RopeTable`; of the model's own table."""
        return RopeTable(self.rope_theta, self.rope_dim, self.rope_scaling).inverse_frequencies(factors)

    def tables(self) -> Mapping[str, PositionTable]:
        """Return the tables by position that the compiler makes, by role."""
        own = {"rope_table": RopeTable(self.rope_theta, self.rope_dim, self.rope_scaling)} if self.rope_dim else {}
        return {**own, **self.further_tables}
