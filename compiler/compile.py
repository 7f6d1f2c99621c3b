"""The whole flow on one screen: GGUF -> model -> lowered -> built -> placed -> bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .. import __version__
from ..artifacts.host import host_arch
from ..artifacts.layout_file import encode_layout
from ..artifacts.manifest import GPU_WEIGHTS_NAME, LAYOUT_NAME, WEIGHTS_NAME, Manifest
from ..artifacts.manifest_entries import PartEntry, PartFacts
from ..artifacts.merge_table import MERGES_NAME
from ..artifacts.writer import BundleWriter
from .build import find_toolchain
from .build_cache import BuildCache
from .build_inputs import package_versions, toolchain_records
from .chat_template import TemplateCheck
from .describe import digest_of, gpu_resources, identity, kernel_row, memory_contract, readme, target_entry
from .golden import (
    GoldenMaker,
    check_golden,
    check_part,
    golden_prompts,
    golden_records,
    take_part_tolerance,
    take_tolerance,
)
from .guarded_folder import guarded_folder
from .merge_table import merge_table
from .model import CompileOptions, Model, read_model
from .parts import PartModel
from .progress import Progress, Silent
from .render import kernel_headers
from .stages import Built, Lowered, Placed, build_targets, lower_target, place_part, place_targets
from .target import find_targets
from .weights import FileSink


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
    chosen = [(target, find_toolchain(options.toolchain, target)) for target in find_targets(options.archs)]
    model = read_model(options, progress, check_template)
    programs: tuple[Model | PartModel, ...] = (model, *model.parts)
    lowered, *of_parts = (
        [lower_target(one, *pair, options.kv_dtype, options.tuning) for pair in chosen] for one in programs
    )
    with BundleWriter(options.goal) as writer:
        progress.note(f"target: {', '.join(one.target.arch for one in lowered)}")
        every = build_targets([*lowered, *(one for part in of_parts for one in part)], cache, progress, options.jobs)
        programs_built = [every[first : first + len(chosen)] for first in range(0, len(every), len(chosen))]
        built = programs_built[0]
        placed, *placed_parts = _write_weights(writer, model, programs_built, progress)
        progress.stage("write bundle")
        names = _write_layouts(writer, placed)
        _write_texts(writer, placed, model)
        for item in (item for one in built for item in one.code):
            writer.add_bytes(item.variant.file, item.data)
        parts = zip(model.parts, placed_parts, strict=True)
        entries = {part.name: _write_part(writer, part, one, placed) for part, one in parts}
        progress.stage("golden records")
        golden, *records = _golden(writer, model, [placed, *placed_parts], options, cache, make_golden)
        check_golden(golden, model.gguf.path)
        tolerance = take_tolerance(golden, model.gguf.path)
        proved = zip(model.parts, records, strict=True)
        entries |= {part.name: _proved(entries[part.name], part, own) for part, own in proved}
        record = {**_given(options, model), **_taken(lowered, cache)}
        return writer.finish(replace(_manifest(model, placed, names, golden, tolerance, record), parts=entries))


def _given(options: CompileOptions, model: Model) -> dict[str, object]:
    """Return what a rebuild has to be given again; of files their digests, not their paths."""
    files = {"tokenizer": options.tokenizer, "chat_template": options.chat_template, "mmproj": options.mmproj}
    files |= {"draft_head": options.draft_head}
    return {
        "archs": list(options.archs),
        "max_context": model.max_seq_len,
        "toolchain": options.toolchain,
        "tuning": options.tuning.to_json(),
        "kv_type": options.kv_dtype,
        **({} if options.drafts else {"mtp": False}),
        **{name: digest_of((path,)) for name, path in files.items() if path is not None},
        **model.changes,
    }


def _taken(lowered: Sequence[Lowered], cache: BuildCache) -> dict[str, object]:
    """Return the compilers, that of the golden records too, and the packages of which a bundle was made."""
    compilers = [one.toolchain for one in lowered]
    if not any(one.target.arch == host_arch() for one in lowered):
        compilers.append(find_toolchain("auto", find_targets((host_arch(),))[0]))
    return {"toolchains": toolchain_records(compilers, cache), "packages": package_versions()}


def _manifest(
    model: Model,
    placed: Sequence[Placed],
    names: Mapping[str, str],
    golden: Sequence[dict[str, object]],
    tolerance: float,
    record: Mapping[str, object],
) -> Manifest:
    return Manifest(
        model=identity(model.gguf, model.config, model.weights),
        targets=tuple(
            target_entry(one.target, item, one.built.lowered.toolchain, names[one.target.arch], tolerance)
            for one in placed
            for item in one.built.code
        ),
        tokenizer=model.tokenizer.config.to_json(),
        memory={one.target.arch: memory_contract(one.layout) for one in placed},
        kernels=_kernel_table(placed),
        golden=tuple(golden),
        generator=__version__,
        options=record,
    )


def _write_weights(
    writer: BundleWriter, model: Model, programs: Sequence[Sequence[Built]], progress: Progress
) -> list[list[Placed]]:
    """Write the weights of the host's target and those of GPUs', which are packed in other ways, each to a file that a
    machine can do without; to one file where all targets are of one kind.

    Args:
        programs: the model's targets, and those of each part.
    """
    backends = sorted({one.lowered.target.backend for one in programs[0]}, reverse=True)
    total = len(backends) * sum(tensor.n_bytes for tensor in model.gguf.tensors.values())
    progress.stage("pack weights", total >> 20, "MiB")
    placed: list[dict[str, Placed]] = [{} for _ in programs]
    before = 0
    for backend in backends:
        of_model, *of_parts = ([one for one in built if one.lowered.target.backend == backend] for built in programs)

        def advance(done: int, before: int = before) -> None:
            progress.advance(before + done >> 20)

        with writer.open_stream(GPU_WEIGHTS_NAME if backend == "hip" and len(backends) > 1 else WEIGHTS_NAME) as sink:
            here = place_targets(of_model, model, sink, advance)
            before += sink.position
            pairs = zip(model.parts, of_parts, strict=True)
            groups = [here, *(place_part(built, part, model, here, sink, progress) for part, built in pairs)]
        for found, group in zip(placed, groups, strict=True):
            found |= {one.target.arch: one for one in group}
    return [[found[one.lowered.target.arch] for one in built] for found, built in zip(placed, programs, strict=True)]


def _write_part(
    writer: BundleWriter, part: PartModel, placed: Sequence[Placed], of_model: Sequence[Placed]
) -> PartEntry:
    """Write the files of a part but its weights; return its row of the manifest. Kernels' sources lie with the others.

    Its memory contract counts what it takes beside the model: not the tensors that both have.
    """
    folder = f"{part.name}/"
    names = _write_layouts(writer, placed, folder)
    for one in placed:
        backend = one.target.backend
        for source in one.built.lowered.sources:
            if (name := f"src/{backend}/{source.name}") not in writer.files:
                writer.add_bytes(name, source.text.encode())
        for item in one.built.code:
            writer.add_bytes(folder + item.variant.file, item.data)
    writer.add_bytes(f"{folder}graph.txt", part.graph.text().encode())
    targets = [
        target_entry(one.target, item, one.built.lowered.toolchain, names[one.target.arch])
        for one in placed
        for item in one.built.code
    ]
    memory = {}
    for one, main in zip(placed, of_model, strict=True):
        shared = {tensor.offset for tensor in main.layout.tensors}
        own = tuple(tensor for tensor in one.layout.tensors if tensor.offset not in shared)
        memory[one.target.arch] = memory_contract(replace(one.layout, tensors=own))
    files = tuple(replace(target, file=folder + target.file) for target in targets)
    return PartEntry(files, memory, _kernel_table(placed), part.facts)


def _write_layouts(writer: BundleWriter, placed: Sequence[Placed], folder: str = "") -> Mapping[str, str]:
    """Write each distinct layout once, into a folder; return the names of their files, by arch."""
    files: dict[bytes, str] = {}
    names = {}
    for one in placed:
        data = encode_layout(one.layout)
        if data not in files:
            files[data] = folder + (f"layout-{one.target.arch}.msgpack" if files else LAYOUT_NAME)
            writer.add_bytes(files[data], data)
        names[one.target.arch] = files[data]
    return names


def _write_texts(writer: BundleWriter, placed: Sequence[Placed], model: Model) -> None:
    writer.add_bytes("tokenizer.json", model.tokenizer.json.encode())
    merges = merge_table(model.tokenizer.json)
    if merges is not None:
        writer.add_bytes(MERGES_NAME, merges.to_bytes())
    if model.tokenizer.chat_template is not None:
        writer.add_bytes("chat_template.jinja", model.tokenizer.chat_template.encode())
    writer.add_bytes("graph.txt", model.graph.text().encode())
    texts: dict[str, str] = {}
    for one in placed:
        backend = one.target.backend
        texts.update({f"src/{backend}/{name}": text for name, text in kernel_headers(backend).items()})
        texts.update({f"src/{backend}/{source.name}": source.text for source in one.built.lowered.sources})
    for name, text in texts.items():
        writer.add_bytes(name, text.encode())
    writer.add_bytes("README.md", readme(model.config, [one.target for one in placed]).encode())


def _kernel_table(placed: Sequence[Placed]) -> tuple[dict[str, object], ...]:
    rows: dict[str, dict[str, object]] = {}
    resources: dict[str, list[dict[str, object]]] = {}
    for one in placed:
        for spec in one.plan.kernels:
            rows[spec.symbol] = kernel_row(spec, one.plan, one.layout)
        if one.target.backend == "hip":
            for symbol, found in gpu_resources(one.target.arch, one.built.code[0].data).items():
                resources.setdefault(symbol, []).append(found)
    return tuple({**rows[symbol], "resources": resources.get(symbol, [])} for symbol in sorted(rows))


def _proved(entry: PartEntry, part: PartModel, records: list[dict[str, object]]) -> PartEntry:
    """Return the row of a part with its golden records, and the tolerance that follows from them."""
    check_part(records, part)
    tolerance = take_part_tolerance(records, part)
    targets = tuple(replace(target, golden_tolerance=tolerance) for target in entry.targets)
    return replace(entry, targets=targets, golden=tuple(records))


def _golden(
    writer: BundleWriter,
    model: Model,
    placed: Sequence[Sequence[Placed]],
    options: CompileOptions,
    cache: BuildCache,
    make_golden: GoldenMaker,
) -> list[list[dict[str, object]]]:
    """Return records, the model's and each part's, from the last level of this machine's CPU, whose bits are the same
    on every machine.

    A bundle without code for it gets them from a build that is thrown away.

    Args:
        placed: the model's targets, and those of each part.
    """
    prompts = golden_prompts(model.tokenizer, model.max_seq_len)

    def records(programs: Sequence[Placed], weights: Path, sha256: str) -> list[list[dict[str, object]]]:
        parts: list[PartFacts | None] = [None, *((part.name, part.facts) for part in model.parts)]
        return [
            golden_records(one.layout, weights, sha256, _portable(one.built), prompts, cache, make_golden, part)
            for one, part in zip(programs, parts, strict=True)
        ]

    host = [one for targets in placed for one in targets if one.target.arch == host_arch()]
    if host:
        return records(host, writer.staging / WEIGHTS_NAME, writer.files[WEIGHTS_NAME].sha256)
    target = find_targets((host_arch(),))[0]
    portable, toolchain = replace(target, variants=target.variants[-1:]), find_toolchain("auto", target)
    programs: tuple[Model | PartModel, ...] = (model, *model.parts)
    lowered = [lower_target(one, portable, toolchain, options.kv_dtype) for one in programs]
    built, *of_parts = build_targets(lowered, cache, Silent(), options.jobs)
    with guarded_folder("rocmforge-golden-") as folder:
        path = folder / WEIGHTS_NAME
        with FileSink(path) as sink:
            here = place_targets([built], model, sink)
            pairs = zip(model.parts, of_parts, strict=True)
            beside = [place_part([one], part, model, here, sink, Silent()) for part, one in pairs]
        return records([one for group in (here, *beside) for one in group], path, sink.sha256)


def _portable(built: Built) -> bytes:
    return built.code[-1].data
