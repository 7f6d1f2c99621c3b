"""A model compiled into a bundle."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.dataclass import dataclass
from ..artifacts.errors import UsageError, printable
from ..artifacts.processors import usable_cpus
from .checks import check_count, check_option, check_texts, checked_path

if TYPE_CHECKING:
    from ..artifacts.layout import Layout
    from ..artifacts.manifest_entries import PartFacts
    from ..compiler.progress import Progress

# What compiles is imported where it is needed: a program that only loads bundles needs none of it.
# ruff: noqa: PLC0415


@dataclass(frozen=True, slots=True)
class CompiledBundle:
    """A bundle that was written: its path, and the digest of all that is in it. It stands for its path."""

    path: Path
    digest: str

    def __fspath__(self) -> str:
        return str(self.path)


def compile_bundle(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    archs: Sequence[str] = (),
    max_context: int | None = None,
    kv_dtype: str = "f16",
    tokenizer: str | os.PathLike[str] | None = None,
    chat_template: str | os.PathLike[str] | None = None,
    loras: Sequence[str] = (),
    adapters: Sequence[str] = (),
    quantize: str | None = None,
    imatrix: str | os.PathLike[str] | None = None,
    toolchain: str = "auto",
    tuning: Sequence[str] = (),
    mtp: bool = True,
    mmproj: str | os.PathLike[str] | None = None,
    draft_head: str | os.PathLike[str] | None = None,
    jobs: int | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> CompiledBundle:
    """Compile a model into a bundle, which replaces the one of before.

    Args:
        model: a GGUF file, the first of several, or a folder of Hugging Face's.
        output: where to; None: beside the model, with the ending .rfb.
        archs: targets, `host` and names of GPUs such as `gfx1100`; none: the GPUs found, else the host.
        max_context: most tokens of a sequence; None: what the model was trained on, up to 32768.
        kv_dtype: how keys and values are kept: `f16`, or `q8_0` in about half the memory.
        tokenizer: a tokenizer.json to take instead of the model's.
        chat_template: a file of Jinja to take instead of the model's.
        loras: adapters to merge, `FILE` or `FILE:SCALE` each; see docs/sources.md.
        adapters: that requests may choose, `NAME=FILE` or `NAME=FILE:SCALE` each; see docs/adapters.md.
        quantize: a type such as `Q4_K` that the matrices get; see docs/sources.md.
        imatrix: a file of llama.cpp's that says which columns matter when they are quantized.
        toolchain: `auto`, `clang`, `hipcc`, or for the host a C compiler.
        tuning: of GPU kernels, `KEY=VALUE` each; see docs/gpu.md.
        mtp: a model's block that drafts tokens is compiled too, where it has some; see docs/speculation.md.
        mmproj: the model's projector file, by which it sees images; see docs/pictures.md.
        draft_head: a file of its EAGLE 3 head, which drafts in the stead of such a block; see docs/speculation.md.
        jobs: compilers run at once; None: one for each CPU.
        cache_dir: of objects; None: the user's.
        progress: told how far it is; None: nobody is.

    Raises:
        InputError: a file is not what it should be, or the model is not supported.
        ToolchainError, UsageError: a compiler is missing, or failed; an option has no such value or type.
    """
    from ..artifacts.cache_dir import default_cache_dir
    from ..artifacts.layout import KV_DTYPES
    from ..compiler.build_cache import BuildCache
    from ..compiler.changes import Changes
    from ..compiler.compile import compile_model
    from ..compiler.kept_adapters import parse_adapter
    from ..compiler.lora import parse_lora
    from ..compiler.model import CompileOptions
    from ..compiler.progress import Progress, Silent
    from ..compiler.tuning import read_tuning
    from ..runtime.text.chat import check_template

    for name, count in (("max_context", max_context), ("jobs", jobs)):
        check_count(name, count)
    for name, texts in (("archs", archs), ("loras", loras), ("adapters", adapters), ("tuning", tuning)):
        check_texts(name, texts)
    check_option("kv_dtype", kv_dtype, kv_dtype in KV_DTYPES, " or ".join(KV_DTYPES))
    check_option("quantize", quantize, isinstance(quantize, str | None), "the name of a type")
    check_option("toolchain", toolchain, isinstance(toolchain, str), "the name of a toolchain")
    check_option("progress", progress, isinstance(progress, Progress | None), "a Progress")
    path = checked_path("model", model)
    options = CompileOptions(
        path,
        bundle_path(path) if output is None else checked_path("output", output),
        tuple(archs) or default_archs(),
        _optional_path("tokenizer", tokenizer),
        max_context,
        toolchain,
        jobs or usable_cpus(),
        read_tuning(tuning, os.environ),
        kv_dtype,
        _optional_path("chat_template", chat_template),
        Changes(
            tuple(map(parse_lora, loras)),
            quantize,
            _optional_path("imatrix", imatrix),
            tuple(map(parse_adapter, adapters)),
        ),
        mtp,
        _optional_path("mmproj", mmproj),
        _optional_path("draft_head", draft_head),
    )
    cache = BuildCache(_optional_path("cache_dir", cache_dir) or default_cache_dir())
    with progress or Silent() as reported:
        manifest = compile_model(options, cache, reported, make_golden, check_template)
    return CompiledBundle(options.goal, manifest.bundle_digest)


def _optional_path(name: str, value: str | os.PathLike[str] | None) -> Path | None:
    return None if value is None else checked_path(name, value)


def bundle_path(model: Path) -> Path:
    """Return where a model's bundle is written unless something else is asked: beside it, with the ending .rfb.

    Raises:
        UsageError: it is the root, which has no name.
    """
    if not os.path.isdir(model):
        return model.with_suffix(".rfb")
    if model.name in ("", ".."):
        model = model.resolve()
    if not model.name:
        raise UsageError(f"model: expected a GGUF file, or a folder that has a name, found {printable(model)}")
    return model.with_name(f"{model.name}.rfb")  # which may have dots, as Qwen3-0.6B


def make_golden(
    layout: Layout, weights: Path, code: bytes, prompts: Sequence[Sequence[int]], part: PartFacts | None = None
) -> list[dict[str, object]]:
    """Run prompts on code that is not yet in a bundle."""
    from .golden_maker import make_golden as run  # brings NumPy and the device

    return run(layout, weights, code, prompts, part)


def default_archs() -> tuple[str, ...]:
    """$ROCm_ARCH, else the GPUs found that have code, else this machine's CPU."""
    asked = os.environ.get("ROCm_ARCH", "").split()  # noqa: SIM112 - the owner's spelling
    if asked:
        return tuple(asked)
    from ..artifacts.hip import installed_arches
    from ..artifacts.host import host_arch
    from ..artifacts.targets import generic_arch
    from ..compiler.target import TARGETS

    found = (arch if arch in TARGETS else generic_arch(arch) for arch in installed_arches())
    return tuple(dict.fromkeys(arch for arch in found if arch)) or (host_arch(),)
