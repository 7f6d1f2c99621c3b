"""The whole flow on one screen: GGUF -> graph -> plan -> sources -> bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .. import __version__
from ..artifacts.errors import UsageError
from ..artifacts.layout import Layout, TensorEntry, encode_layout
from ..artifacts.manifest import LAYOUT_NAME, WEIGHTS_NAME, Manifest
from ..artifacts.writer import BundleWriter
from .build import CodeObject, build_variants, find_toolchain, render_sources
from .build_cache import BuildCache
from .chat_template import TemplateCheck, choose_template
from .describe import gpu_resources, identity, kernel_row, memory_contract, readme, target_entry
from .gguf_file import GgufFile, read_gguf
from .golden import GoldenMaker, check_golden, golden_prompts, golden_records
from .graph import Graph, Weight, build_graph
from .guarded_folder import guarded_folder
from .lower import make_plan
from .lower_hip import DEFAULT_TUNING
from .model_config import ModelConfig, read_config, weight_tensors
from .passes import run_passes
from .plan import PackedTensor, Plan
from .progress import Progress
from .render import Source, kernel_headers
from .target import Target, find_targets
from .tokenizer import TokenizerArtifact, build_tokenizer, load_tokenizer_json
from .toolchain import Toolchain
from .tuning import Tuning
from .weights import FileSink, write_weights

DEFAULT_MAX_CONTEXT = 32768
MOST_CONTEXT = 1 << 20  # that may be asked for, whatever the model was trained on


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """What the user asked for.

    Attributes:
        archs: names of targets.
        tokenizer: a tokenizer.json to take instead of the GGUF's.
        max_context: most positions of a sequence, which may be more than the model was trained on; None: as many, up to
            `DEFAULT_MAX_CONTEXT`.
        toolchain: "auto", or the name of one.
        jobs: compilers run at once.
        tuning: of GPU kernels.
        kv_dtype: of the KV cache, one of `KV_DTYPES`.
        chat_template: a file of Jinja source to take instead of the GGUF's.
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


@dataclass(frozen=True, slots=True)
class Model:
    """What is known of the model before any target is looked at.

    Attributes:
        weights: every weight by its role; `rope_table` is the one that the compiler makes itself.
        max_seq_len: positions of a sequence, as chosen.
    """

    gguf: GgufFile
    config: ModelConfig
    tokenizer: TokenizerArtifact
    weights: Mapping[str, Weight]
    graph: Graph
    max_seq_len: int


@dataclass(frozen=True, slots=True)
class Build:
    """One target on its way into the bundle."""

    target: Target
    toolchain: Toolchain
    plan: Plan
    sources: tuple[Source, ...]


def compile_model(
    options: CompileOptions,
    cache: BuildCache,
    progress: Progress,
    make_golden: GoldenMaker,
    check_template: TemplateCheck | None = None,
) -> Manifest:
    """Compile a GGUF file into a bundle.

    Args:
        options: what the user asked for.
        cache: of objects and golden records.
        progress: told of each stage.
        make_golden: runs the new code.
        check_template: raises where the runtime cannot use a chat template; None: it is not checked.

    Raises:
        RocmforgeError: anything that can go wrong, in one line; nothing is left behind.
    """
    progress.stage("read model")
    targets = find_targets(options.archs)
    toolchains = [find_toolchain(options.toolchain, target) for target in targets]
    model = read_model(options, progress, check_template)
    pairs = zip(targets, toolchains, strict=True)
    builds = [_build(model, target, toolchain, options.kv_dtype, options.tuning) for target, toolchain in pairs]
    with BundleWriter(options.goal) as writer:
        progress.note(f"target: {', '.join(target.arch for target in targets)}")
        code = compile_builds(builds, cache, progress, options.jobs)
        layouts = _write_weights(writer, builds, model, progress)
        progress.stage("write bundle")
        names = _write_layouts(writer, builds, layouts)
        _write_texts(writer, builds, model)
        for item in (item for items in code for item in items):
            writer.add_bytes(item.variant.file, item.data)
        progress.stage("golden records")
        golden = _golden(writer, model, builds, code, layouts, options, cache, make_golden)
        check_golden(golden, model.gguf.path)
        return writer.finish(
            Manifest(
                model=identity(model.gguf, model.config, model.weights),
                targets=tuple(
                    target_entry(build.target, item, build.toolchain, name)
                    for build, items, name in zip(builds, code, names, strict=True)
                    for item in items
                ),
                tokenizer=model.tokenizer.config.to_json(),
                memory={b.target.arch: memory_contract(layout) for b, layout in zip(builds, layouts, strict=True)},
                kernels=_kernel_table(builds, code, layouts),
                golden=tuple(golden),
                generator=__version__,
                options={
                    "archs": list(options.archs),
                    "max_context": model.max_seq_len,
                    "toolchain": options.toolchain,
                    "tuning": options.tuning.to_json(),
                    "kv_type": options.kv_dtype,
                },
            )
        )


def read_model(options: CompileOptions, progress: Progress, check_template: TemplateCheck | None = None) -> Model:
    """Read and check all that the GGUF says.

    Raises:
        InputError: it cannot be trusted, or not be compiled. UsageError: an option does not fit the model.
    """
    gguf = read_gguf(options.model)
    config = read_config(gguf)
    tokenizer = _tokenizer(options, gguf)
    tokenizer = choose_template(tokenizer, gguf.path, options.chat_template, check_template)
    weights = weights_by_role(gguf, config)
    graph = run_passes(build_graph(config, weights))
    return Model(gguf, config, tokenizer, weights, graph, _max_seq_len(options, config, progress))


def weights_by_role(gguf: GgufFile, config: ModelConfig) -> Mapping[str, Weight]:
    """Every weight of the model by its role, with the table of rotary positions."""
    weights = {"rope_table": Weight("rope_table", (config.max_seq_len, config.rope_dim), "F32")}
    for role, tensor in weight_tensors(gguf, config).items():
        weights[role] = Weight(role, tensor.shape, tensor.ggml_type.name)
    return weights


def _tokenizer(options: CompileOptions, gguf: GgufFile) -> TokenizerArtifact:
    if options.tokenizer is not None:
        return load_tokenizer_json(options.tokenizer, gguf.metadata)
    return build_tokenizer(gguf.metadata, gguf.path)


def _max_seq_len(options: CompileOptions, config: ModelConfig, progress: Progress) -> int:
    trained = config.max_seq_len
    if options.max_context is None:
        if trained > DEFAULT_MAX_CONTEXT:
            progress.note(f"context limited to {DEFAULT_MAX_CONTEXT} of {trained}; see --max-context")
        return min(trained, DEFAULT_MAX_CONTEXT)
    most = max(trained, MOST_CONTEXT)
    if not 1 <= options.max_context <= most:
        raise UsageError(f"--max-context: expected 1 to {most}, found {options.max_context}")
    if options.max_context > trained:
        progress.note(f"trained on {trained} tokens: past those it may answer without sense")
    return options.max_context


def _build(model: Model, target: Target, toolchain: Toolchain, kv_dtype: str, tuning: Tuning = DEFAULT_TUNING) -> Build:
    plan = make_plan(model.graph, model.config, target, model.max_seq_len, tuning, kv_dtype)
    return Build(target, toolchain, plan, render_sources(plan, target))


def compile_builds(
    builds: Sequence[Build], cache: BuildCache, progress: Progress, jobs: int
) -> list[tuple[CodeObject, ...]]:
    """The code objects of each build."""
    sizes = [len(build.sources) * len(build.target.variants) for build in builds]
    progress.stage("build kernels", sum(sizes), "objects")
    code: list[tuple[CodeObject, ...]] = []
    for index, build in enumerate(builds):
        before = sum(sizes[:index])

        def advance(done: int, _total: int, before: int = before) -> None:
            progress.advance(before + done)

        code.append(build_variants(build.sources, build.target, build.toolchain, cache, advance, jobs))
    return code


def _write_weights(writer: BundleWriter, builds: Sequence[Build], model: Model, progress: Progress) -> list[Layout]:
    """Pack each distinct tensor once; the layout of each build."""
    tensors = {tensor.name: tensor for build in builds for tensor in build.plan.tensors}
    total = sum(tensor.n_bytes for tensor in model.gguf.tensors.values())
    progress.stage("pack weights", total >> 20, "MiB")
    with writer.open_stream(WEIGHTS_NAME) as sink:
        entries = write_weights(
            tuple(tensors.values()),
            model.gguf,
            model.config,
            model.max_seq_len,
            sink,
            lambda done: progress.advance(done >> 20),
        )
    return [make_layout(build, model, entries) for build in builds]


def make_layout(build: Build, model: Model, entries: Sequence[TensorEntry]) -> Layout:
    """What the runtime needs of a build; of the tensors, those that it uses."""
    used = {tensor.name for tensor in build.plan.tensors}
    return Layout(
        tensors=tuple(entry for entry in entries if entry.name in used),
        buffers=build.plan.buffers,
        launches=build.plan.launches,
        kv=build.plan.kv,
        max_batch_tokens=build.target.max_batch_tokens,
        max_sequences=build.target.max_sequences,
        vocab_size=model.config.vocab_size,
        hidden_size=model.config.hidden_size,
        max_seq_len=model.max_seq_len,
        final_norm=build.plan.final_norm,
    )


def _write_layouts(writer: BundleWriter, builds: Sequence[Build], layouts: Sequence[Layout]) -> list[str]:
    """Write each distinct layout once; the name of each build's."""
    names: dict[bytes, str] = {}
    for build, layout in zip(builds, layouts, strict=True):
        data = encode_layout(layout)
        if data not in names:
            names[data] = f"layout-{build.target.arch}.msgpack" if names else LAYOUT_NAME
            writer.add_bytes(names[data], data)
    return [names[encode_layout(layout)] for layout in layouts]


def _write_texts(writer: BundleWriter, builds: Sequence[Build], model: Model) -> None:
    writer.add_bytes("tokenizer.json", model.tokenizer.json.encode())
    if model.tokenizer.chat_template is not None:
        writer.add_bytes("chat_template.jinja", model.tokenizer.chat_template.encode())
    writer.add_bytes("graph.txt", model.graph.text().encode())
    texts: dict[str, str] = {}
    for build in builds:
        backend = build.target.backend
        texts.update({f"src/{backend}/{name}": text for name, text in kernel_headers(backend).items()})
        texts.update({f"src/{backend}/{source.name}": source.text for source in build.sources})
    for name, text in texts.items():
        writer.add_bytes(name, text.encode())
    writer.add_bytes("README.md", readme(model.config, [build.target for build in builds]).encode())


def _kernel_table(
    builds: Sequence[Build], code: Sequence[Sequence[CodeObject]], layouts: Sequence[Layout]
) -> tuple[dict[str, object], ...]:
    rows: dict[str, dict[str, object]] = {}
    resources: dict[str, list[dict[str, object]]] = {}
    for build, items, layout in zip(builds, code, layouts, strict=True):
        for spec in build.plan.kernels:
            rows[spec.symbol] = kernel_row(spec, build.plan, layout)
        if build.target.backend == "hip":
            for symbol, found in gpu_resources(build.target.arch, items[0].data).items():
                resources.setdefault(symbol, []).append(found)
    return tuple({**rows[symbol], "resources": resources.get(symbol, [])} for symbol in sorted(rows))


def _golden(
    writer: BundleWriter,
    model: Model,
    builds: Sequence[Build],
    code: Sequence[Sequence[CodeObject]],
    layouts: Sequence[Layout],
    options: CompileOptions,
    cache: BuildCache,
    make_golden: GoldenMaker,
) -> list[dict[str, object]]:
    """Records from the host's portable code, whose bits are the same on every machine.

    A bundle without the host gets them from a host build that is thrown away.
    """
    prompts = golden_prompts(model.tokenizer, model.max_seq_len)
    for build, items, layout in zip(builds, code, layouts, strict=True):
        if build.target.backend == "host":
            portable = next(item.data for item in items if item.variant.level == "portable")
            weights = writer.staging / WEIGHTS_NAME
            return golden_records(
                layout, weights, writer.files[WEIGHTS_NAME].sha256, portable, prompts, cache, make_golden
            )
    return _golden_without_host(model, prompts, options, cache, make_golden)


def _golden_without_host(
    model: Model, prompts: list[list[int]], options: CompileOptions, cache: BuildCache, make_golden: GoldenMaker
) -> list[dict[str, object]]:
    target = find_targets(("host",))[0]
    portable = replace(target, variants=target.variants[-1:])
    build = _build(model, portable, find_toolchain("auto", target), options.kv_dtype)
    code = build_variants(build.sources, portable, build.toolchain, cache, lambda _done, _total: None, options.jobs)
    with guarded_folder("rocmforge-golden-") as folder:
        path = folder / WEIGHTS_NAME
        with FileSink(path) as sink:
            tensors: tuple[PackedTensor, ...] = build.plan.tensors
            entries = write_weights(tensors, model.gguf, model.config, model.max_seq_len, sink, lambda _done: None)
        layout = make_layout(build, model, entries)
        return golden_records(layout, path, sink.sha256, code[0].data, prompts, cache, make_golden)
