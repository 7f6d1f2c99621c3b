"""The command `rfc`. Each command imports what it needs when it runs: `rfc serve` must start at once."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import __version__
from .artifacts.errors import RocmforgeError, UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .artifacts.layout import Layout


class _Group(click.Group):
    """Turns our errors into one line and their exit code; nothing else is caught."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except RocmforgeError as error:
            click.echo(f"rfc: {error}", err=True)
            raise SystemExit(error.exit_code) from None
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            raise SystemExit(1) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rfc")
def main() -> None:
    """ROCmForge: compile a GGUF model into a bundle, serve the bundle."""


def _default_threads() -> int:
    return len(os.sched_getaffinity(0))


_THREADS = click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    envvar="ROCMFORGE_THREADS",
    default=_default_threads,
    show_default="CPUs",
    help="Threads of the host target.",
)
_CACHE_DIR = click.option(
    "--cache-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Build cache. [default: $XDG_CACHE_HOME/rocmforge]",
)
_MAX_CONTEXT = click.option(
    "--max-context",
    type=click.IntRange(1),
    envvar="ROCMFORGE_MAX_CONTEXT",
    help="Most tokens of a sequence. [default: the model's, up to 32768]",
)


def make_golden(
    layout: Layout, weights: Path, code: bytes, prompts: Sequence[Sequence[int]]
) -> list[dict[str, object]]:
    """Run prompts on code that is not yet in a bundle."""
    import mmap

    from .runtime.golden import record_golden
    from .runtime.host_device import HostProgram

    descriptor = os.memfd_create("rocmforge-golden")
    os.write(descriptor, code)
    with weights.open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ)
    program = HostProgram(layout, mapped, descriptor, "portable", 4, _default_threads())
    try:
        return record_golden(program, prompts)
    finally:
        program.close()


@main.command("compile")
@click.argument("model", type=click.Path(path_type=Path), envvar="ROCMFORGE_GGUF")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The bundle. [default: MODEL with .rfb]")
@click.option("--arch", "archs", multiple=True, envvar="ROCm_ARCH", help="Target: host. [default: host]")
@click.option("--tokenizer", type=click.Path(path_type=Path), envvar="ROCMFORGE_TOKENIZER", help="A tokenizer.json.")
@click.option("--toolchain", default="auto", show_default=True, help="auto, zig, or a C compiler such as cc.")
@click.option("--jobs", type=click.IntRange(1, 256), default=_default_threads, help="Compilers run at once.")
@click.option("--json", "as_json", is_flag=True, help="Progress and result as JSON lines.")
@_MAX_CONTEXT
@_CACHE_DIR
def compile_command(
    model: Path,
    output: Path | None,
    archs: tuple[str, ...],
    tokenizer: Path | None,
    toolchain: str,
    jobs: int,
    as_json: bool,
    max_context: int | None,
    cache_dir: Path | None,
) -> None:
    """Compile a GGUF MODEL into a bundle."""
    from .compiler.build_cache import BuildCache, default_cache_dir
    from .compiler.compile import CompileOptions, compile_model
    from .compiler.progress import choose_progress

    goal = output or model.with_suffix(".rfb")
    options = CompileOptions(model, goal, archs or ("host",), tokenizer, max_context, toolchain, jobs)
    with choose_progress(as_json) as progress:
        manifest = compile_model(options, BuildCache(cache_dir or default_cache_dir()), progress, make_golden)
    if as_json:
        click.echo(json.dumps({"bundle": str(goal), "digest": manifest.bundle_digest}))
    else:
        click.echo(f"{printable(goal)}  {manifest.bundle_digest}")


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--addr", envvar="ROCMFORGE_ADDR", default="127.0.0.1:8080", show_default=True, help="HOST:PORT.")
@click.option(
    "--kv-tokens",
    type=click.IntRange(16),
    help="Tokens that the KV cache holds. [default: 4 contexts, at most 1 GiB]",
)
@_MAX_CONTEXT
@_THREADS
@_CACHE_DIR
def serve(
    bundle: Path,
    addr: str,
    kv_tokens: int | None,
    max_context: int | None,
    threads: int,
    cache_dir: Path | None,
) -> None:
    """Serve a BUNDLE (or a GGUF, compiled first) over HTTP."""
    from .runtime.serve import ServeOptions, serve_bundle

    host, _, port = addr.rpartition(":")
    if not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--addr: expected HOST:PORT, found {printable(addr)}")
    path = _compiled(bundle, cache_dir)
    serve_bundle(ServeOptions(path, host.strip("[]") or "127.0.0.1", int(port), threads, max_context, kv_tokens))


def _compiled(path: Path, cache_dir: Path | None) -> Path:
    """The bundle itself; of a GGUF, its bundle in the cache, compiled now unless it is there."""
    if path.is_dir() or not path.exists():
        return path
    from .compiler.build_cache import BuildCache, cache_key, default_cache_dir
    from .compiler.compile import CompileOptions, compile_model
    from .compiler.progress import choose_progress

    root = cache_dir or default_cache_dir()
    status = path.stat()
    identity = (str(path.resolve()), status.st_size, status.st_mtime_ns, __version__)
    goal = root / "bundles" / f"{cache_key(*map(str, identity))[:32]}.rfb"
    if not goal.exists():
        click.echo(f"{printable(path)} is not a bundle: compiling it to {printable(goal)}", err=True)
        goal.parent.mkdir(parents=True, exist_ok=True)
        with choose_progress(False) as progress:
            compile_model(CompileOptions(path, goal), BuildCache(root), progress, make_golden)
    else:
        click.echo(f"{printable(path)}: using its bundle {printable(goal)}", err=True)
    return goal


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("prompt", required=False)
@click.option("-n", "--max-tokens", type=click.IntRange(1), default=256, show_default=True)
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.7, show_default=True, help="0: most likely.")
@click.option("--top-k", type=click.IntRange(0), default=50, show_default=True, help="0: off.")
@click.option("--top-p", type=click.FloatRange(0, 1), default=0.9, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="For the same text again.")
@_MAX_CONTEXT
@_THREADS
@_CACHE_DIR
def run(
    bundle: Path,
    prompt: str | None,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int | None,
    max_context: int | None,
    threads: int,
    cache_dir: Path | None,
) -> None:
    """Continue PROMPT with a BUNDLE; without one, chat."""
    from .runtime.generation import SamplingParams
    from .runtime.terminal import RunOptions, run_bundle

    sampling = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    path = _compiled(bundle, cache_dir)
    run_bundle(RunOptions(path, prompt, max_tokens, sampling, threads, max_context))


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--kernels", is_flag=True, help="Of a bundle: its kernel table.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def inspect(path: Path, kernels: bool, as_json: bool) -> None:
    """What is in a GGUF or a bundle, and the memory it will need."""
    from .compiler.inspect import format_facts, inspect_gguf

    if not path.is_dir():
        facts = inspect_gguf(path)
    else:
        from .runtime.inspect import inspect_bundle

        facts = inspect_bundle(path, kernels)
    if as_json:
        click.echo(json.dumps(facts))
        return
    table = facts.pop("kernels", None)
    for line in format_facts(facts):
        click.echo(line)
    for row in table if isinstance(table, list) else ():
        click.echo(f"{row['launches_per_step']:>5} x {row['symbol']}")


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@_THREADS
def verify(bundle: Path, threads: int) -> None:
    """Check every digest of a BUNDLE and replay its golden records here."""
    from .runtime.verify import verify as verify_bundle

    verify_bundle(bundle, threads, click.echo)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), envvar="ROCMFORGE_MODELS", default=".", required=False)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def models(folder: Path, as_json: bool) -> None:
    """GGUF files and bundles below FOLDER (default: $ROCMFORGE_MODELS, else here)."""
    from .runtime.inspect import find_models

    rows = find_models(folder)
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        click.echo(f"{row['kind']:<7} {int(str(row['size_bytes'])) / 2**20:>9.1f} MiB  {row['path']}  {row['about']}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def doctor(as_json: bool) -> None:
    """Toolchains and devices found here, what is missing, and how to get it."""
    from .compiler.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([{"what": f.what, "ok": f.ok, "text": f.text} for f in findings]))
    else:
        for finding in findings:
            click.echo(f"{'ok' if finding.ok else '--':<3} {finding.what:<22} {finding.text}")
    if not all(finding.ok for finding in findings if finding.needed):
        raise SystemExit(4)


if __name__ == "__main__":
    main(prog_name=Path(sys.argv[0]).name)
