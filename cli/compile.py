"""`rfc compile`, and compiling on the way to what else takes a GGUF."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..artifacts.errors import UsageError, printable
from .errors import require_address_space
from .options import CACHE_DIR, MAX_CONTEXT, default_threads, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..artifacts.layout import Layout


@click.command("compile")
@click.argument("model", type=click.Path(path_type=Path), envvar="ROCMFORGE_GGUF")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The bundle. [default: MODEL with .rfb]")
@click.option(
    "--arch",
    "archs",
    multiple=True,
    envvar="ROCm_ARCH",
    help="Target: host, or a gfx name; may be given several times. [default: the GPUs found, else host]",
)
@click.option("--tokenizer", type=click.Path(path_type=Path), envvar="ROCMFORGE_TOKENIZER", help="A tokenizer.json.")
@click.option("--chat-template", type=click.Path(path_type=Path), help="A file of Jinja, instead of the model's own.")
@click.option(
    "--toolchain",
    default="auto",
    show_default=True,
    help="auto, clang (the ziglang wheel's), hipcc, or for the host a C compiler such as cc.",
)
@click.option("--tune", "tune", multiple=True, metavar="KEY=VALUE", help="A GPU kernel's tuning; see docs/gpu.md.")
@click.option("--jobs", type=click.IntRange(1, 256), default=default_threads, help="Compilers run at once.")
@click.option(
    "--kv-type",
    "kv_dtype",
    type=click.Choice(("f16", "q8_0")),
    default="f16",
    show_default=True,
    help="How keys and values are kept; q8_0 takes about half the memory.",
)
@click.option("--json", "as_json", is_flag=True, help="Progress and result as JSON lines.")
@MAX_CONTEXT
@CACHE_DIR
def compile_command(
    model: Path,
    output: Path | None,
    archs: tuple[str, ...],
    tokenizer: Path | None,
    chat_template: Path | None,
    toolchain: str,
    tune: tuple[str, ...],
    jobs: int,
    kv_dtype: str,
    as_json: bool,
    max_context: int | None,
    cache_dir: Path | None,
) -> None:
    """Compile a GGUF MODEL into a bundle."""
    require_address_space()
    from ..compiler.build_cache import BuildCache, default_cache_dir
    from ..compiler.compile import compile_model
    from ..compiler.model import CompileOptions
    from ..compiler.progress import choose_progress
    from ..compiler.tuning import read_tuning
    from ..runtime.text.chat import check_template

    _exit_cleanly_on_signals()
    if not model.name:
        raise UsageError(f"MODEL: expected a GGUF file, found {printable(model)}")
    goal = output or model.with_suffix(".rfb")
    tuning = read_tuning(tune, os.environ)
    chosen = archs or _default_archs()
    options = CompileOptions(
        model, goal, chosen, tokenizer, max_context, toolchain, jobs, tuning, kv_dtype, chat_template
    )
    cache = BuildCache(cache_dir or default_cache_dir())
    with choose_progress(as_json) as progress:
        manifest = compile_model(options, cache, progress, make_golden, check_template)
    if as_json:
        click.echo(json.dumps({"bundle": str(goal), "digest": manifest.bundle_digest}))
    else:
        click.echo(f"{printable(goal)}  {manifest.bundle_digest}")


def make_golden(
    layout: Layout, weights: Path, code: bytes, prompts: Sequence[Sequence[int]]
) -> list[dict[str, object]]:
    """Run prompts on code that is not yet in a bundle."""
    from ..artifacts.bundle import map_weights
    from ..runtime.device.golden import GOLDEN_BLOCKS, record_golden
    from ..runtime.device.host import HostProgram

    descriptor = os.memfd_create("rocmforge-golden")
    os.write(descriptor, code)
    with weights.open("rb") as file:
        mapped = map_weights(weights.parent, file.fileno())
    program = HostProgram(layout, mapped, descriptor, "portable", GOLDEN_BLOCKS, default_threads())
    try:
        return record_golden(program, prompts)
    finally:
        program.close()


def compiled(path: Path, cache_dir: Path | None, max_context: int | None) -> Path:
    """The bundle itself; of a GGUF, its bundle in the cache, compiled now unless a sound one is there."""
    if os.path.isdir(path):
        return path
    from ..compiler.build_cache import default_cache_dir
    from ..compiler.bundle_cache import cached_bundle
    from ..compiler.model import CompileOptions
    from ..runtime.text.chat import check_template

    _exit_cleanly_on_signals()
    tokenizer = os.environ.get("ROCMFORGE_TOKENIZER")
    options = CompileOptions(
        path, path, _default_archs(), Path(tokenizer) if tokenizer else None, max_context, jobs=default_threads()
    )
    return cached_bundle(options, cache_dir or default_cache_dir(), say, make_golden, check_template)


def _exit_cleanly_on_signals() -> None:
    """Have SIGTERM and SIGHUP unwind the stack, so that a compile removes what it has written; nohup still holds."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


def _default_archs() -> tuple[str, ...]:
    """$ROCm_ARCH, else the GPUs found that have code, else the host."""
    asked = os.environ.get("ROCm_ARCH", "").split()  # noqa: SIM112 - the owner's spelling
    if asked:
        return tuple(asked)
    from ..artifacts.hip import installed_arches
    from ..artifacts.targets import generic_arch
    from ..compiler.target import TARGETS

    found = (arch if arch in TARGETS else generic_arch(arch) for arch in installed_arches())
    return tuple(dict.fromkeys(arch for arch in found if arch)) or ("host",)
