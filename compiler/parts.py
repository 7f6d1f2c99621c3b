"""Parts of a bundle, as the compiler sees them: programs beside the main one, before any target is looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import InputError
from ..artifacts.vision import POSITIONS_TENSOR, VISION_PART
from .architectures import ARCHITECTURES, build_graph
from .draft_head import draft_source
from .graph import Graph
from .model_config import ModelConfig
from .model_source import ModelSource
from .model_tensors import WeightTensor, weight_tensors, weights_by_role
from .passes import run_passes
from .plan import PackedTensor
from .position_tables import PositionTable
from .read_config import read_config
from .vision.model import VisionModel
from .weights import Made

DRAFTS = "mtp"
"""Name of the part that drafts tokens."""


@dataclass(frozen=True, slots=True)
class PartModel:
    """What a part is made of.

    Attributes:
        name: of the part, and of its folder.
        source: of its weights.
        tensors: of these, by role.
        tables: by position, by role.
        graph: that has been through all passes.
        max_seq_len: positions of a sequence.
        vocab_size: columns of its logits.
        hidden_size: width of its residual stream.
        whole_tokens: that a step has to hold at least; 0: as many as that of the model.
        facts: for the manifest, what the runtime has to know to use it.
        of_model: its source is the model's, so that tensors of no layer may be the model's too.
        made: numbers of weights that the source has in another form, by role.
        read: tensors that the CPU alone reads.
        max_tokens: of a step; 0: as many as the target takes.
        max_rows: of logits of a step; 0: likewise.
        kv_dtype: of its KV cache; "": that of the model's.
    """

    name: str
    source: ModelSource
    tensors: Mapping[str, WeightTensor]
    tables: Mapping[str, PositionTable]
    graph: Graph
    max_seq_len: int
    vocab_size: int
    hidden_size: int
    whole_tokens: int = 0
    facts: Mapping[str, object] = field(default_factory=dict)
    of_model: bool = False
    made: Made = field(default_factory=dict)
    read: tuple[PackedTensor, ...] = ()
    max_tokens: int = 0
    max_rows: int = 0
    kv_dtype: str = ""

    def shares(
        self, tensor: PackedTensor, tensors: Mapping[str, WeightTensor], tables: Mapping[str, PositionTable]
    ) -> bool:
        """Return whether a packed tensor is made of what the model has by the same roles too.

        Args:
            tensor: of the part, with a name that one of the model has.
            tensors: of the model, by role.
            tables: of the model, by role.
        """
        if not self.of_model or any(role.startswith("layers.") for role in tensor.sources):
            return False
        own = [(self.tensors.get(role), self.tables.get(role)) for role in tensor.sources]
        return own == [(tensors.get(role), tables.get(role)) for role in tensor.sources]


def part_models(
    source: ModelSource,
    config: ModelConfig,
    max_seq_len: int,
    drafts: bool,
    vision: VisionModel | None,
    note: Callable[[str], object],
) -> Iterator[PartModel]:
    """Yield the parts of a model's bundle.

    Args:
        source: of the model, as its weights are compiled.
        config: its own.
        max_seq_len: positions of a sequence.
        drafts: its block that drafts tokens is one, where it has some.
        vision: its eyes, where it has some.
        note: told why a block is left out that is none as its model's layers are: nobody needs it to be served.
    """
    block = draft_source(source, config) if drafts else None
    if block is not None:
        try:
            yield _draft_part(block, max_seq_len)
        except InputError as error:
            note(f"its block that guesses tokens is left out: {error}")
    if vision is not None:
        yield vision_part(vision)


def _draft_part(block: ModelSource, max_seq_len: int) -> PartModel:
    """Return the part that drafts tokens. Raises `InputError` where the block is none that can be compiled."""
    own = read_config(block, drafting=True)
    graph = run_passes(build_graph(own, weights_by_role(block, own)))
    sizes = max_seq_len, own.vocab_size, own.hidden_size
    facts = {"reads": ARCHITECTURES[own.architecture].drafts}
    return PartModel(DRAFTS, block, weight_tensors(block, own), own.tables(), graph, *sizes, facts=facts, of_model=True)


def vision_part(model: VisionModel) -> PartModel:
    """Return the part that encodes images."""
    table = model.tensors.get("positions")
    return PartModel(
        VISION_PART,
        model.source,
        model.tensors,
        model.tables,
        model.graph,
        max_seq_len=model.max_tokens,
        vocab_size=model.vision.row_width,
        hidden_size=model.hidden_size,
        facts=model.vision.to_json(),
        made=model.made,
        read=() if table is None else (PackedTensor(POSITIONS_TENSOR, "f32", ("positions",), table.shape),),
        max_tokens=model.max_tokens,
        max_rows=model.max_rows,
        kv_dtype="f16",
    )
