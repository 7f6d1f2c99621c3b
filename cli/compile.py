"""`rfc compile`, and compiling on the way to what else takes a GGUF."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Final

import click

from ..artifacts.errors import UsageError, printable
from ..artifacts.processors import usable_cpus
from ..library.compilation import compile_bundle, default_archs, make_golden
from .errors import require_address_space
from .options import CACHE_DIR, MAX_CONTEXT, say
from .registry import fetched

_MOST_JOBS: Final = 256


@click.command("compile")
@click.argument("model", type=click.Path(path_type=Path), envvar="ROCMFORGE_GGUF")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The bundle. [default: MODEL with .rfb]")
@click.option(
    "--arch",
    "archs",
    multiple=True,
    envvar="ROCm_ARCH",
    help="Target: host (x86-64), aarch64, or a gfx name; may be several. [default: the GPUs found, else this CPU's]",
)
@click.option("--tokenizer", type=click.Path(path_type=Path), envvar="ROCMFORGE_TOKENIZER", help="A tokenizer.json.")
@click.option("--chat-template", type=click.Path(path_type=Path), help="A file of Jinja, instead of the model's own.")
@click.option("--lora", "loras", multiple=True, metavar="FILE[:SCALE]", help="An adapter to merge; may be several.")
@click.option(
    "--adapter",
    "adapters",
    multiple=True,
    metavar="NAME=FILE[:SCALE]",
    help="An adapter to keep for requests to choose; may be several.",
)
@click.option("--quantize", metavar="TYPE", help="Give the matrices this type, as Q8_0 or Q4_K.")
@click.option("--imatrix", type=click.Path(path_type=Path), help="With --quantize: llama.cpp's importance matrix.")
@click.option(
    "--toolchain",
    default="auto",
    show_default=True,
    help="auto, clang (the ziglang wheel's), hipcc, or for the host a C compiler such as cc.",
)
@click.option("--tune", "tune", multiple=True, metavar="KEY=VALUE", help="A GPU kernel's tuning; see docs/gpu.md.")
@click.option("--no-mtp", is_flag=True, help="Leave out the model's block that guesses tokens, where it has one.")
@click.option("--mmproj", type=click.Path(path_type=Path), help="The model's projector file: it sees images then.")
@click.option("--draft-head", type=click.Path(path_type=Path), help="A GGUF file of the model's EAGLE 3 head.")
@click.option(
    "--jobs",
    type=click.IntRange(1, _MOST_JOBS),
    default=lambda: min(usable_cpus(), _MOST_JOBS),
    help="Compilers run at once. [default: one for each CPU]",
)
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
    loras: tuple[str, ...],
    adapters: tuple[str, ...],
    quantize: str | None,
    imatrix: Path | None,
    toolchain: str,
    tune: tuple[str, ...],
    no_mtp: bool,
    mmproj: Path | None,
    draft_head: Path | None,
    jobs: int,
    kv_dtype: str,
    as_json: bool,
    max_context: int | None,
    cache_dir: Path | None,
) -> None:
    """Compile a MODEL into a bundle: a GGUF file, or a folder of Hugging Face's."""
    require_address_space()
    from ..compiler.progress import choose_progress

    exit_cleanly_on_signals()
    if not model.name and not (model / "config.json").is_file():
        raise UsageError(f"MODEL: expected a GGUF file, found {printable(model)}")
    done = compile_bundle(
        model,
        output,
        archs=archs,
        max_context=max_context,
        kv_dtype=kv_dtype,
        tokenizer=tokenizer,
        chat_template=chat_template,
        loras=loras,
        adapters=adapters,
        quantize=quantize,
        imatrix=imatrix,
        toolchain=toolchain,
        tuning=tune,
        mtp=not no_mtp,
        mmproj=mmproj,
        draft_head=draft_head,
        jobs=jobs,
        cache_dir=cache_dir,
        progress=choose_progress(as_json),
    )
    if as_json:
        click.echo(json.dumps({"bundle": str(done.path), "digest": done.digest}))
    else:
        click.echo(f"{printable(done.path)}  {done.digest}")


def compiled(path: Path, cache_dir: Path | None, max_context: int | None) -> Path:
    """The bundle itself; of a model, its bundle in the cache, compiled now unless a sound one is there."""
    path = fetched(path)
    if os.path.isdir(path) and not (path / "config.json").is_file():
        return path
    from ..artifacts.cache_dir import default_cache_dir
    from ..compiler.bundle_cache import cached_bundle
    from ..compiler.model import CompileOptions
    from ..runtime.text.chat import check_template

    exit_cleanly_on_signals()
    tokenizer = os.environ.get("ROCMFORGE_TOKENIZER")
    options = CompileOptions(
        path, path, default_archs(), Path(tokenizer) if tokenizer else None, max_context, jobs=usable_cpus()
    )
    return cached_bundle(options, cache_dir or default_cache_dir(), say, make_golden, check_template)


def exit_cleanly_on_signals() -> None:
    """Have SIGTERM and SIGHUP unwind the stack, so that a compile removes what it has written; nohup still holds."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))
