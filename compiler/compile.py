"""The whole flow on one screen: GGUF -> model -> lowered -> built -> placed -> bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .. import __version__
from ..artifacts.layout_file import encode_layout
from ..artifacts.manifest import LAYOUT_NAME, WEIGHTS_NAME, Manifest
from ..artifacts.writer import BundleWriter
from .build import find_toolchain
from .build_cache import BuildCache
from .build_inputs import package_versions, toolchain_records
from .chat_template import TemplateCheck
from .describe import digest_of, gpu_resources, identity, kernel_row, memory_contract, readme, target_entry
from .golden import GoldenMaker, check_golden, golden_prompts, golden_records, take_tolerance
from .guarded_folder import guarded_folder
from .model import CompileOptions, Model, read_model
from .progress import Progress, Silent
from .render import kernel_headers
from .stages import Built, Lowered, Placed, build_targets, lower_target, place_targets
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
    lowered = [lower_target(model, *pair, options.kv_dtype, options.tuning) for pair in chosen]
    with BundleWriter(options.goal) as writer:
        progress.note(f"target: {', '.join(one.target.arch for one in lowered)}")
        built = build_targets(lowered, cache, progress, options.jobs)
        with writer.open_stream(WEIGHTS_NAME) as sink:
            placed = place_targets(built, model, sink, progress)
        progress.stage("write bundle")
        names = _write_layouts(writer, placed)
        _write_texts(writer, placed, model)
        for item in (item for one in built for item in one.code):
            writer.add_bytes(item.variant.file, item.data)
        progress.stage("golden records")
        golden = _golden(writer, model, placed, options, cache, make_golden)
        check_golden(golden, model.gguf.path)
        tolerance = take_tolerance(golden, model.gguf.path)
        record = {**_given(options, model), **_taken(lowered, cache)}
        return writer.finish(_manifest(model, placed, names, golden, tolerance, record))


def _given(options: CompileOptions, model: Model) -> dict[str, object]:
    """Return what a rebuild has to be given again; of files their digests, not their paths."""
    files = {"tokenizer": options.tokenizer, "chat_template": options.chat_template}
    return {
        "archs": list(options.archs),
        "max_context": model.max_seq_len,
        "toolchain": options.toolchain,
        "tuning": options.tuning.to_json(),
        "kv_type": options.kv_dtype,
        **{name: digest_of((path,)) for name, path in files.items() if path is not None},
        **model.changes,
    }


def _taken(lowered: Sequence[Lowered], cache: BuildCache) -> dict[str, object]:
    """Return the compilers, that of the golden records too, and the packages of which a bundle was made."""
    compilers = [one.toolchain for one in lowered]
    if not any(one.target.backend == "host" for one in lowered):
        compilers.append(find_toolchain("auto", find_targets(("host",))[0]))
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


def _write_layouts(writer: BundleWriter, placed: Sequence[Placed]) -> Mapping[str, str]:
    """Write each distinct layout once; return the names of their files, by arch."""
    files: dict[bytes, str] = {}
    names = {}
    for one in placed:
        data = encode_layout(one.layout)
        if data not in files:
            files[data] = f"layout-{one.target.arch}.msgpack" if files else LAYOUT_NAME
            writer.add_bytes(files[data], data)
        names[one.target.arch] = files[data]
    return names


def _write_texts(writer: BundleWriter, placed: Sequence[Placed], model: Model) -> None:
    writer.add_bytes("tokenizer.json", model.tokenizer.json.encode())
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


def _golden(
    writer: BundleWriter,
    model: Model,
    placed: Sequence[Placed],
    options: CompileOptions,
    cache: BuildCache,
    make_golden: GoldenMaker,
) -> list[dict[str, object]]:
    """Return records from the host's portable code, whose bits are the same on every machine.

    A bundle without the host gets them from a host build that is thrown away.
    """
    prompts = golden_prompts(model.tokenizer, model.max_seq_len)
    host = next((one for one in placed if one.target.backend == "host"), None)
    if host is not None:
        weights, sha256 = writer.staging / WEIGHTS_NAME, writer.files[WEIGHTS_NAME].sha256
        return golden_records(host.layout, weights, sha256, _portable(host.built), prompts, cache, make_golden)
    target = find_targets(("host",))[0]
    portable = replace(target, variants=target.variants[-1:])
    lowered = lower_target(model, portable, find_toolchain("auto", target), options.kv_dtype)
    built = build_targets([lowered], cache, Silent(), options.jobs)
    with guarded_folder("rocmforge-golden-") as folder:
        path = folder / WEIGHTS_NAME
        with FileSink(path) as sink:
            (one,) = place_targets(built, model, sink, Silent())
        return golden_records(one.layout, path, sink.sha256, _portable(one.built), prompts, cache, make_golden)


def _portable(built: Built) -> bytes:
    return next(item.data for item in built.code if item.variant.level == "portable")
