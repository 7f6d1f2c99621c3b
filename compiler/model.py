"""Stage: what the user asked for and the model's files in, the model out: all that no target decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from functools import partial
from pathlib import Path

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import UsageError
from .architectures import build_graph
from .changes import NO_CHANGES, Changes, changed_source, kept_adapters
from .chat_template import TemplateCheck, choose_template
from .eagle import EagleHead, eagle_part, read_eagle
from .graph import TAPPED, Graph, Weight
from .kept_adapters import KeptAdapters
from .model_config import ModelConfig
from .model_source import ModelSource
from .model_tensors import weight_tensors, weights_by_role
from .parts import PartModel, part_models
from .passes import run_passes
from .progress import Progress
from .read_config import read_config
from .sources import open_source, source_tokenizer
from .tokenizer import TokenizerArtifact
from .tuning import DEFAULT_TUNING, Tuning
from .vision.model import read_vision_model

DEFAULT_MAX_CONTEXT = 32768
MOST_CONTEXT = 1 << 20  # that may be asked for, whatever the model was trained on


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """What the user asked for.

    Attributes:
        archs: names of targets.
        tokenizer: a tokenizer.json to take instead of the GGUF's.
        max_context: most positions of a sequence, which may be more than the model was trained on unless it is
            `ModelConfig.bounded`; None: as many, up to `DEFAULT_MAX_CONTEXT`.
        toolchain: "auto", or the name of one.
        jobs: compilers run at once.
        tuning: of GPU kernels.
        kv_dtype: of the KV cache, one of `KV_DTYPES`.
        chat_template: a file of Jinja source to take instead of the GGUF's.
        changes: of the weights.
        drafts: the model's block that drafts tokens is compiled too, as a part, where it has some.
        mmproj: a projector file, by which the model sees images: a part too.
        draft_head: a file of an EAGLE 3 head, which drafts tokens in the stead of such a block: a part too.
    """

    model: Path
    goal: Path
    archs: tuple[str, ...] = ("host",)
    tokenizer: Path | None = None
    max_context: int | None = None
    toolchain: str = "auto"
    jobs: int = 2
    tuning: Tuning = DEFAULT_TUNING
    kv_dtype: str = "f16"
    chat_template: Path | None = None
    changes: Changes = NO_CHANGES
    drafts: bool = True
    mmproj: Path | None = None
    draft_head: Path | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """What is known of the model before any target is looked at.

    Attributes:
        weights: every weight by its role; those of `ModelConfig.tables` the compiler makes itself.
        max_seq_len: positions of a sequence, as chosen.
        changes: what was changed in the weights of its files, or kept beside them, for the manifest.
        adapters: that requests may choose.
        parts: of its bundle.
    """

    gguf: ModelSource
    config: ModelConfig
    tokenizer: TokenizerArtifact
    weights: Mapping[str, Weight]
    graph: Graph
    max_seq_len: int
    changes: Mapping[str, object] = field(default_factory=dict)
    adapters: KeptAdapters = field(default_factory=KeptAdapters)
    parts: tuple[PartModel, ...] = ()


def read_model(options: CompileOptions, progress: Progress, check_template: TemplateCheck | None = None) -> Model:
    """Read and check all that the model says of itself.

    Raises:
        InputError: it cannot be trusted, or not be compiled. UsageError: an option does not fit the model.
    """
    source = open_source(options.model)
    gguf, changes = changed_source(source, options.changes)
    config = read_config(gguf)
    tokenizer = source_tokenizer(source, options.tokenizer)
    tokenizer = choose_template(tokenizer, gguf.path, options.chat_template, check_template)
    vision = None if options.mmproj is None else read_vision_model(options.mmproj, config.hidden_size)
    if vision is not None:
        facts = vision.vision
        config = replace(config, takes_images=True, sees_ahead=facts.both_ways, deepstack=facts.deepstack)
    eagle = None if options.draft_head is None else read_eagle(options.draft_head, config)
    config = config if eagle is None else replace(config, taps=eagle.layers)
    weights = weights_by_role(gguf, config)
    adapters, kept = kept_adapters(gguf, options.changes)
    adapt = partial(adapters.place, tensors=weight_tensors(gguf, config)) if kept else None
    graph = run_passes(build_graph(config, weights), adapt)
    length = _max_seq_len(options, config, progress)
    parts = tuple(part_models(gguf, config, length, options.drafts and eagle is None, vision, progress.note))
    if eagle is not None:
        parts = (*parts, _eagle_part(eagle, gguf, config, graph, length))
    return Model(gguf, config, tokenizer, weights, graph, length, changes | kept, adapters, parts)


def _eagle_part(head: EagleHead, source: ModelSource, config: ModelConfig, graph: Graph, length: int) -> PartModel:
    """Return the part of a head. Raises `UsageError` where the model's graph gives it nothing to read."""
    if TAPPED not in graph.values:
        raise UsageError(f"--draft-head: {config.architecture}: a head cannot read the hidden states of its layers")
    return eagle_part(head, source, config, length)


def _max_seq_len(options: CompileOptions, config: ModelConfig, progress: Progress) -> int:
    trained = config.max_seq_len
    if options.max_context is None:
        if trained > DEFAULT_MAX_CONTEXT:
            progress.note(f"context limited to {DEFAULT_MAX_CONTEXT} of {trained}; see --max-context")
        return min(trained, DEFAULT_MAX_CONTEXT)
    most = trained if config.bounded else max(trained, MOST_CONTEXT)
    if not 1 <= options.max_context <= most:
        raise UsageError(f"--max-context: expected 1 to {most}, found {options.max_context}")
    if options.max_context > trained:
        progress.note(f"trained on {trained} tokens: past those it may answer without sense")
    return options.max_context
