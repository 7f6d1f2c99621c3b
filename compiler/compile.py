"""The whole flow on one screen: GGUF -> graph -> plan -> sources -> bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..artifacts.errors import GgufError, UsageError, printable
from ..artifacts.host import HOST_ABI_VERSION
from ..artifacts.layout import Layout, encode_layout
from ..artifacts.manifest import LAYOUT_NAME, Manifest, ModelIdentity, TargetEntry
from ..artifacts.writer import BundleWriter
from .build import CodeObject, build_variants, render_sources
from .build_cache import BuildCache, cache_key
from .gguf_file import GgufFile, read_gguf
from .graph import Weight, build_graph
from .model_config import ModelConfig, read_config, weight_tensors
from .passes import run_passes
from .plan import KernelSpec, Plan, make_plan
from .progress import Progress
from .render import kernel_headers
from .target import Target, find_target
from .tokenizer import TokenizerArtifact, build_tokenizer, load_tokenizer_json
from .toolchain import Toolchain, find_toolchain
from .weights import write_weights

DEFAULT_MAX_CONTEXT = 32768
MIN_CONTEXT = 32  # golden records need 16 tokens of prompt and some of output
GOLDEN_TEXTS = ("The capital of France is", "def fibonacci(n):\n    ")

GoldenMaker = Callable[[Layout, Path, bytes, Sequence[Sequence[int]]], list[dict[str, object]]]
"""Runs prompts: (layout, path of weights.bin, the portable code object, prompts) -> golden records."""


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """What the user asked for.

    Attributes:
        archs: names of targets.
        tokenizer: a tokenizer.json to take instead of the GGUF's.
        max_context: most positions of a sequence; None: the model's, up to `DEFAULT_MAX_CONTEXT`.
        toolchain: "auto", "zig" or a C compiler.
        jobs: compilers run at once.
    """

    model: Path
    goal: Path
    archs: tuple[str, ...] = ("host",)
    tokenizer: Path | None = None
    max_context: int | None = None
    toolchain: str = "auto"
    jobs: int = 2


def compile_model(options: CompileOptions, cache: BuildCache, progress: Progress, make_golden: GoldenMaker) -> Manifest:
    """Compile a GGUF file into a bundle.

    Raises:
        RocmforgeError: anything that can go wrong, in one line; nothing is left behind.
    """
    progress.stage("read model")
    target = find_target(*options.archs)
    toolchain = find_toolchain(options.toolchain)
    gguf = read_gguf(options.model)
    config = read_config(gguf)
    tokenizer = _tokenizer(options, gguf)
    max_seq_len = _max_seq_len(options, config, progress)
    graph = run_passes(build_graph(config, weights_by_role(gguf, config)))
    plan = make_plan(graph, config, target)
    with BundleWriter(options.goal) as writer:
        sources = render_sources(plan, target)
        progress.stage("build kernels", len(sources) * len(target.variants), "objects")
        code = build_variants(sources, target, toolchain, cache, lambda done, _: progress.advance(done), options.jobs)
        layout, weights_key = _write_weights(writer, plan, gguf, config, target, max_seq_len, progress)
        progress.stage("write bundle")
        writer.add_bytes(LAYOUT_NAME, encode_layout(layout))
        writer.add_bytes("tokenizer.json", tokenizer.json.encode())
        if tokenizer.chat_template is not None:
            writer.add_bytes("chat_template.jinja", tokenizer.chat_template.encode())
        writer.add_bytes("graph.txt", graph.text().encode())
        headers = [(f"src/{name}", text) for name, text in kernel_headers(target.backend).items()]
        for name, text in (*headers, *((f"src/{s.name}", s.text) for s in sources)):
            writer.add_bytes(name, text.encode())
        for item in code:
            writer.add_bytes(item.file, item.data)
        progress.stage("golden records")
        golden = _golden(writer, layout, code, tokenizer, weights_key, cache, make_golden)
        writer.add_bytes("README.md", _readme(config, target).encode())
        return writer.finish(
            Manifest(
                model=_identity(gguf, config, options.model, progress),
                targets=tuple(_target_entry(target, item, toolchain) for item in code),
                tokenizer=tokenizer.config.to_json(),
                memory=memory_contract(layout),
                kernels=tuple(_kernel_row(spec, plan) for spec in plan.kernels),
                golden=tuple(golden),
                generator=__version__,
                options={
                    "archs": list(options.archs),
                    "max_context": max_seq_len,
                    "toolchain": options.toolchain,
                },
            )
        )


def weights_by_role(gguf: GgufFile, config: ModelConfig) -> Mapping[str, Weight]:
    """Every weight of the model by its role; `rope_table` is the one that the compiler makes itself."""
    weights = {"rope_table": Weight("rope_table", (config.max_seq_len, config.rope_dim), "F32")}
    for role, tensor in weight_tensors(gguf, config).items():
        weights[role] = Weight(role, tensor.shape, tensor.ggml_type.name)
    return weights


def _tokenizer(options: CompileOptions, gguf: GgufFile) -> TokenizerArtifact:
    if options.tokenizer is not None:
        return load_tokenizer_json(options.tokenizer, gguf.metadata)
    return build_tokenizer(gguf.metadata, gguf.path)


def _max_seq_len(options: CompileOptions, config: ModelConfig, progress: Progress) -> int:
    if config.max_seq_len < MIN_CONTEXT:
        problem = f"expected a context of {MIN_CONTEXT} tokens or more, found {config.max_seq_len}"
        raise GgufError(options.model, "context_length", problem)
    if options.max_context is not None:
        if not MIN_CONTEXT <= options.max_context <= config.max_seq_len:
            limits = f"{MIN_CONTEXT} to {config.max_seq_len} (the model's)"
            raise UsageError(f"--max-context: expected {limits}, found {options.max_context}")
        return options.max_context
    if config.max_seq_len > DEFAULT_MAX_CONTEXT:
        progress.note(f"context limited to {DEFAULT_MAX_CONTEXT} of {config.max_seq_len}; see --max-context")
    return min(config.max_seq_len, DEFAULT_MAX_CONTEXT)


def _write_weights(
    writer: BundleWriter,
    plan: Plan,
    gguf: GgufFile,
    config: ModelConfig,
    target: Target,
    max_seq_len: int,
    progress: Progress,
) -> tuple[Layout, str]:
    total = sum(tensor.n_bytes for tensor in gguf.tensors.values())
    progress.stage("pack weights", total >> 20, "MiB")
    with writer.open_stream("weights.bin") as sink:
        entries = write_weights(plan, gguf, config, max_seq_len, sink, lambda done: progress.advance(done >> 20))
    layout = Layout(
        tensors=entries,
        buffers=plan.buffers,
        launches=plan.launches,
        kv=plan.kv,
        max_batch_tokens=target.max_batch_tokens,
        max_sequences=target.max_sequences,
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        max_seq_len=max_seq_len,
    )
    return layout, writer.files["weights.bin"].sha256


def _golden(
    writer: BundleWriter,
    layout: Layout,
    code: Sequence[CodeObject],
    tokenizer: TokenizerArtifact,
    weights_key: str,
    cache: BuildCache,
    make_golden: GoldenMaker,
) -> list[dict[str, object]]:
    """Golden records from the portable code object: its bits are the same on every machine."""
    import json  # noqa: PLC0415

    from tokenizers import Tokenizer  # noqa: PLC0415 - slow to import, and not needed by `rfc --help`

    encoder = Tokenizer.from_str(tokenizer.json)
    portable = next(item for item in code if item.variant.level == "portable")
    prompts = [encoder.encode(text).ids[:16] or [0] for text in GOLDEN_TEXTS]
    key = cache_key(weights_key, encode_layout(layout), portable.data, json.dumps(prompts))
    found = cache.get("golden", key)
    if found is not None:
        records: list[dict[str, object]] = json.loads(found)
        return records
    records = make_golden(layout, writer.staging / "weights.bin", portable.data, prompts)
    cache.put("golden", key, json.dumps(records).encode())
    return records


def _identity(gguf: GgufFile, config: ModelConfig, path: Path, progress: Progress) -> ModelIdentity:
    metadata = {
        key: value
        for key, value in gguf.metadata.items()
        if isinstance(value, (str, int, float, bool)) and not key.startswith("tokenizer.")
    }
    weights = weights_by_role(gguf, config)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    bytes_by_type: dict[str, int] = {}
    for tensor in gguf.tensors.values():
        kind = tensor.ggml_type.name
        bytes_by_type[kind] = bytes_by_type.get(kind, 0) + tensor.n_bytes
    parameters = 0
    for role, weight in weights.items():
        if role != "rope_table":
            size = 1
            for extent in weight.shape:
                size *= extent
            parameters += size
    return ModelIdentity(
        name=config.name or printable(path.stem),
        architecture=config.architecture,
        source_sha256=digest,
        parameters=parameters,
        quantization=max(bytes_by_type, key=lambda kind: bytes_by_type[kind]),
        context_length=config.max_seq_len,
        metadata=metadata,
    )


def _target_entry(target: Target, item: CodeObject, toolchain: Toolchain) -> TargetEntry:
    return TargetEntry(
        arch=target.arch,
        backend=target.backend,
        level=item.variant.level,
        file=item.file,
        layout=LAYOUT_NAME,
        entry="rfc_program_step",
        toolchain=toolchain.name,
        toolchain_version=toolchain.version,
        flags=toolchain.flags(item.variant),
        abi=HOST_ABI_VERSION,
        determinism="batch-invariant",
        golden_tolerance=target.golden_tolerance,
    )


def memory_contract(layout: Layout) -> dict[str, int]:
    """Bytes that serving will need, before anything is allocated."""
    per_block = layout.kv.bytes_per_block
    return {
        "weights_bytes": layout.weights_bytes,
        "arena_bytes": layout.arena_bytes(),
        "kv_bytes_per_block": per_block,
        "kv_block_tokens": layout.kv.block_size,
        "kv_bytes_per_full_context": per_block * -(-layout.max_seq_len // layout.kv.block_size),
    }


def _kernel_row(spec: KernelSpec, plan: Plan) -> dict[str, object]:
    launches = sum(entry.kernel == spec.symbol for entry in plan.launches)
    return {
        "symbol": spec.symbol,
        "template": spec.template,
        "parameters": dict(spec.parameters),
        "launches_per_step": launches,
    }


def _readme(config: ModelConfig, target: Target) -> str:
    return (
        f"# {config.name}\n\nA ROCmForge bundle for the `{target.arch}` target. Serve it with\n\n"
        "    rfc serve .\n\n"
        "`manifest.json` names every file with its digest; `src/` holds the sources of `code/`; `rfc verify .` checks\n"
        "all of it and replays the golden records.\n"
    )
