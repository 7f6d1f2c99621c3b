"""Stages of a target on its way into the bundle: lowered to a plan, built to code objects, placed on weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..artifacts.dataclass import dataclass
from ..artifacts.layout import Layout, TensorEntry
from .build import CodeObject, build_variants, render_sources
from .build_cache import BuildCache
from .graph import Graph
from .lower import make_plan
from .model import Model
from .model_config import ModelConfig
from .model_tensors import weight_tensors
from .parts import PartModel
from .plan import PackedTensor, Plan
from .progress import Progress
from .read_head import head_shapes, head_tensors
from .render import Source
from .target import Target
from .toolchain import Toolchain
from .tuning import DEFAULT_TUNING, Tuning
from .weights import Sink, WeightSource, write_tensors, write_weights

MOST_WHOLE_TOKENS = 8192  # of a sequence that is seen both ways: the arena has room for so many at once


@dataclass(frozen=True, slots=True)
class Lowered:
    """A target with its plan, and the plan's sources."""

    target: Target
    toolchain: Toolchain
    plan: Plan
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Built:
    """A lowered target with its code objects, one a variant."""

    lowered: Lowered
    code: tuple[CodeObject, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """A built target with its layout: the plan, and where its tensors lie in its file of weights."""

    built: Built
    layout: Layout

    @property
    def target(self) -> Target:
        """The target."""
        return self.built.lowered.target

    @property
    def plan(self) -> Plan:
        """Its plan."""
        return self.built.lowered.plan


def lower_target(
    model: Model | PartModel, target: Target, toolchain: Toolchain, kv_dtype: str, tuning: Tuning = DEFAULT_TUNING
) -> Lowered:
    """Return the plan of a model, or of a part, for a target, and its sources.

    Raises:
        UsageError: see `make_plan`.
    """
    if isinstance(model, PartModel):
        kv_dtype = model.kv_dtype or kv_dtype
        tokens, rows = model.max_tokens or target.max_batch_tokens, model.max_rows or target.max_sequences
        target = replace(target, max_batch_tokens=tokens, max_sequences=rows)
    plan = make_plan(model.graph, target, model.max_seq_len, tuning, kv_dtype)
    return Lowered(target, toolchain, plan, render_sources(plan, target))


def build_targets(lowered: Sequence[Lowered], cache: BuildCache, progress: Progress, jobs: int) -> list[Built]:
    """Compile the sources of all targets, `jobs` at once.

    Raises:
        ToolchainError: one does not compile.
    """
    progress.stage("build kernels", sum(len(one.sources) * len(one.target.variants) for one in lowered), "objects")
    built: list[Built] = []
    before = 0
    for one in lowered:

        def advance(done: int, _total: int, before: int = before) -> None:
            progress.advance(before + done)

        code = build_variants(one.sources, one.target, one.toolchain, cache, advance, jobs)
        built.append(Built(one, code))
        before += len(one.sources) * len(one.target.variants)
    return built


def place_targets(
    built: Sequence[Built], model: Model, sink: Sink, advance: Callable[[int], None] = lambda _: None
) -> list[Placed]:
    """Pack each distinct tensor of all targets into `sink`, once; `advance` is told the bytes written so far."""
    tensors: dict[str, PackedTensor] = {tensor.name: tensor for one in built for tensor in one.lowered.plan.tensors}
    tensors |= {tensor.name: tensor for tensor in _of_head(model)}
    entries = write_weights(
        tuple(tensors.values()),
        model.gguf,
        model.config,
        model.max_seq_len,
        sink,
        advance,
        model.adapters.made,
    )
    return [Placed(one, make_layout(one.lowered, model, entries)) for one in built]


def place_part(
    built: Sequence[Built], part: PartModel, model: Model, placed: Sequence[Placed], sink: Sink, progress: Progress
) -> list[Placed]:
    """Pack each distinct tensor of a part behind those of its model, but for those that are the model's.

    Args:
        built: of the part, for all targets.
        placed: of the model, for these.
    """
    own, tables = weight_tensors(model.gguf, model.config), model.config.tables()
    packed = {tensor.name: tensor for one in built for tensor in one.lowered.plan.tensors}
    packed |= {tensor.name: tensor for tensor in part.read}
    entries = {entry.name: entry for one in placed for entry in one.layout.tensors}
    shared = [entries[name] for name, one in packed.items() if name in entries and part.shares(one, own, tables)]
    left = [one for name, one in packed.items() if name not in {entry.name for entry in shared}]
    progress.stage(f"pack weights of {part.name}")
    source = WeightSource(part.source, part.tensors, part.tables, part.max_seq_len, part.made)
    found = [*shared, *write_tensors(left, source, sink, lambda _done: None)]
    return [Placed(one, _part_layout(one.lowered, part, found)) for one in built]


def make_layout(lowered: Lowered, model: Model, entries: Sequence[TensorEntry]) -> Layout:
    """Return what the runtime needs of a target; of the tensors, those that it uses."""
    whole = min(model.max_seq_len, MOST_WHOLE_TOKENS) if _both_ways(model.graph) else 0
    layout = _layout(lowered, model.graph, model.config, model.max_seq_len, whole, _of_head(model), entries)
    return replace(layout, head=model.config.head, adapters=model.adapters.names)


def _part_layout(lowered: Lowered, part: PartModel, entries: Sequence[TensorEntry]) -> Layout:
    return _layout(lowered, part.graph, part, part.max_seq_len, part.whole_tokens, part.read, entries)


def _layout(
    lowered: Lowered,
    graph: Graph,
    sizes: ModelConfig | PartModel,
    max_seq_len: int,
    whole_tokens: int,
    read: Sequence[PackedTensor],
    entries: Sequence[TensorEntry],
) -> Layout:
    """Return the layout of a program; `whole_tokens`: that a step has to hold, `read`: what the CPU reads."""
    target, plan = lowered.target, lowered.plan
    used = {tensor.name for tensor in (*plan.tensors, *read)}
    return Layout(
        tensors=tuple(entry for entry in entries if entry.name in used),
        buffers=plan.buffers,
        launches=plan.launches,
        kv=plan.kv,
        max_batch_tokens=max(target.max_batch_tokens, whole_tokens),
        max_sequences=target.max_sequences,
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        max_seq_len=max_seq_len,
        final_norm=plan.final_norm,
        sampler=plan.sampler,
        both_ways=_both_ways(graph),
        states=plan.states,
        input_width=graph.input_width,
        tap=plan.tap,
    )


def _both_ways(graph: Graph) -> bool:
    return any(node.attributes.get("both_ways") for node in graph.nodes)


def _of_head(model: Model) -> tuple[PackedTensor, ...]:
    """Return the weights that the CPU reads, whatever the target."""
    return head_tensors(head_shapes(model.config.head, model.config.hidden_size, model.gguf))
