"""The command `rfc`. Each command imports what it needs when it runs: `rfc serve` must start at once."""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import __version__
from .artifacts.errors import DeviceError, UsageError, printable
from .artifacts.hip import GRAPH_MODES
from .cli_client import cancel, generate, status
from .cli_emulator import make_emulator
from .cli_errors import Group, require_address_space
from .cli_serve import engine_limits, http_limits, logs_and_traces, model_aliases, security_options, worker_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .artifacts.layout import Layout
    from .runtime.device.load import DeviceOptions
    from .runtime.engine.engine import EngineLimits
    from .runtime.engine.worker.spawn import WorkerProcess
    from .runtime.http.auth import Security
    from .runtime.http.limits import HttpLimits
    from .runtime.telemetry.tracing import TraceOptions


START_THRESHOLD = 50_000
"""Objects between two collections: what a start imports stays, and to look at it again and again is 7 % of its time."""


@click.group(cls=Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="rfc")
@click.pass_context
def main(context: click.Context) -> None:
    """ROCmForge: compile a GGUF model into a bundle, serve the bundle."""
    gc.set_threshold(START_THRESHOLD)
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        context.exit(UsageError.exit_code)


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
_DEVICE = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, host, hip, hip:INDEX, emulated or emulated:ARCH; auto: a GPU that the bundle has code for, else host.",
)
_GRAPHS = click.option(
    "--gpu-graphs",
    type=click.Choice(GRAPH_MODES),
    envvar="ROCMFORGE_GPU_GRAPHS",
    default="auto",
    show_default=True,
    help="Replay decode steps as HIP graphs; auto: unless a trial of them fails; on: that is an error.",
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
    help="Most tokens of a sequence; may be more than the model was trained on. [default: as many, up to 32768]",
)


def make_golden(
    layout: Layout, weights: Path, code: bytes, prompts: Sequence[Sequence[int]]
) -> list[dict[str, object]]:
    """Run prompts on code that is not yet in a bundle."""
    from .artifacts.bundle import map_weights
    from .runtime.device.golden import GOLDEN_BLOCKS, record_golden
    from .runtime.device.host import HostProgram

    descriptor = os.memfd_create("rocmforge-golden")
    os.write(descriptor, code)
    with weights.open("rb") as file:
        mapped = map_weights(weights.parent, file.fileno())
    program = HostProgram(layout, mapped, descriptor, "portable", GOLDEN_BLOCKS, _default_threads())
    try:
        return record_golden(program, prompts)
    finally:
        program.close()


def _device_options(device: str, threads: int, graphs: str) -> DeviceOptions:
    from .runtime.device.load import DeviceOptions

    return DeviceOptions(device, threads, make_emulator, graphs=graphs)


def _exit_cleanly_on_signals() -> None:
    """Have SIGTERM and SIGHUP unwind the stack, so that a compile removes what it has written; nohup still holds."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _: sys.exit(128 + number))


@main.command("compile")
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
@click.option("--jobs", type=click.IntRange(1, 256), default=_default_threads, help="Compilers run at once.")
@click.option(
    "--kv-type",
    "kv_dtype",
    type=click.Choice(("f16", "q8_0")),
    default="f16",
    show_default=True,
    help="How keys and values are kept; q8_0 takes about half the memory.",
)
@click.option("--json", "as_json", is_flag=True, help="Progress and result as JSON lines.")
@_MAX_CONTEXT
@_CACHE_DIR
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
    from .compiler.build_cache import BuildCache, default_cache_dir
    from .compiler.compile import CompileOptions, compile_model
    from .compiler.progress import choose_progress
    from .compiler.tuning import read_tuning
    from .runtime.text.chat import check_template

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


@main.command()
@click.argument("bundles", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--addr", envvar="ROCMFORGE_ADDR", default="127.0.0.1:8080", show_default=True, help="HOST:PORT.")
@click.option(
    "--kv-tokens",
    type=click.IntRange(16),
    help="Tokens that the KV cache holds. [default: 4 contexts, at most 1 GiB; on a GPU what is free]",
)
@click.option(
    "--idle-seconds",
    type=click.FloatRange(0),
    help="Unload a model that nobody has used for so long; 0: never. [default: 300 where there are several]",
)
@click.option("--max-loaded", type=click.IntRange(1), help="Models loaded at once. [default: all]")
@click.option(
    "--integration",
    "integrations",
    multiple=True,
    metavar="NAME=URL",
    help="Offer the models of another server too: ollama, NAME=URL of an Ollama, or NAME=URL/v1. Repeatable.",
)
@worker_options
@logs_and_traces
@model_aliases
@http_limits
@security_options
@engine_limits
@_MAX_CONTEXT
@_DEVICE
@_GRAPHS
@_THREADS
@_CACHE_DIR
def serve(
    bundles: tuple[Path, ...],
    addr: str,
    kv_tokens: int | None,
    idle_seconds: float | None,
    max_loaded: int | None,
    integrations: tuple[str, ...],
    aliases: dict[str, str],
    limits: HttpLimits,
    security: Security,
    engine_limits: EngineLimits,
    traces: TraceOptions,
    worker: bool | None,
    early: WorkerProcess | None,
    max_context: int | None,
    device: str,
    gpu_graphs: str,
    threads: int,
    cache_dir: Path | None,
) -> None:
    """Serve BUNDLES over HTTP: bundles, folders of them, or GGUFs, which are compiled first.

    The first is loaded at once and answers where no model is named; the others are loaded when they are asked for.
    --device takes several, as hip:0,hip:1: each then runs all of them.
    """
    require_address_space()
    from .runtime.serve import ServeOptions, serve_bundles

    for number in (signal.SIGUSR1, signal.SIGUSR2):  # by default they kill
        signal.signal(number, signal.SIG_IGN)
    host, port = _host_and_port(addr)
    paths = tuple(_compiled(path, cache_dir, max_context) for given in bundles for path in _bundles_in(given))
    on = _device_options(device, threads, gpu_graphs)
    serve_bundles(
        ServeOptions(
            paths,
            host,
            port,
            on,
            max_context,
            kv_tokens,
            limits,
            security,
            engine_limits,
            traces,
            idle_seconds,
            max_loaded,
            integrations,
            aliases,
            worker,
            early,
        )
    )


def _bundles_in(path: Path) -> list[Path]:
    """The path itself; of a folder that is no bundle, the bundles in it, by name."""
    from .artifacts.manifest import MANIFEST_NAME

    if not os.path.isdir(path) or (path / MANIFEST_NAME).exists():  # of a path that is too long: false
        return [path]
    found = sorted(child for child in path.iterdir() if (child / MANIFEST_NAME).is_file())
    return found or [path]  # what is wrong with it is said where it is opened


def _host_and_port(addr: str) -> tuple[str, int]:
    host, _, port = addr.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise UsageError(f"--addr: expected HOST:PORT, found {printable(addr)}")
    return host.strip("[]") or "127.0.0.1", int(port)


def _compiled(path: Path, cache_dir: Path | None, max_context: int | None) -> Path:
    """The bundle itself; of a GGUF, its bundle in the cache, compiled now unless a sound one is there."""
    if os.path.isdir(path):
        return path
    from .compiler.build_cache import default_cache_dir
    from .compiler.bundle_cache import cached_bundle
    from .compiler.compile import CompileOptions
    from .runtime.text.chat import check_template

    _exit_cleanly_on_signals()
    tokenizer = os.environ.get("ROCMFORGE_TOKENIZER")
    options = CompileOptions(
        path, path, _default_archs(), Path(tokenizer) if tokenizer else None, max_context, jobs=_default_threads()
    )
    return cached_bundle(options, cache_dir or default_cache_dir(), _say, make_golden, check_template)


def _say(line: str) -> None:
    click.echo(line, err=True)


def _default_archs() -> tuple[str, ...]:
    """$ROCm_ARCH, else the GPUs found that have code, else the host."""
    asked = os.environ.get("ROCm_ARCH", "").split()  # noqa: SIM112 - the owner's spelling
    if asked:
        return tuple(asked)
    from .artifacts.hip import installed_arches
    from .artifacts.targets import generic_arch
    from .compiler.target import TARGETS

    found = (arch if arch in TARGETS else generic_arch(arch) for arch in installed_arches())
    return tuple(dict.fromkeys(arch for arch in found if arch)) or ("host",)


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("prompt", required=False)
@click.option("-n", "--max-tokens", type=click.IntRange(1), default=256, show_default=True)
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.7, show_default=True, help="0: most likely.")
@click.option("--top-k", type=click.IntRange(0), default=50, show_default=True, help="0: off.")
@click.option("--top-p", type=click.FloatRange(0, 1), default=0.9, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="For the same text again.")
@_MAX_CONTEXT
@_DEVICE
@_GRAPHS
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
    device: str,
    gpu_graphs: str,
    threads: int,
    cache_dir: Path | None,
) -> None:
    """Continue PROMPT with a BUNDLE; without one, chat."""
    require_address_space()
    from .runtime.engine.generation import SamplingParams
    from .runtime.terminal import RunOptions, run_bundle

    sampling = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    path = _compiled(bundle, cache_dir, max_context)
    run_bundle(
        RunOptions(path, prompt, max_tokens, sampling, _device_options(device, threads, gpu_graphs), max_context)
    )


@main.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--kernels", is_flag=True, help="Of a bundle: its kernel table.")
@click.option("--arch", help="Of a bundle: the kernels of this arch, with registers, LDS, spills and occupancy.")
@click.option("--emulate", is_flag=True, help="With --arch: run a prefill and a token on the emulator; a roofline.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def inspect(path: Path, kernels: bool, arch: str | None, emulate: bool, as_json: bool) -> None:
    """What is in a GGUF or a bundle, and the memory it will need."""
    from .compiler.inspect import format_facts, inspect_gguf

    if emulate and (arch is None or as_json or not os.path.isdir(path)):
        raise UsageError("--emulate: expected a bundle and --arch, and not --json")
    if not os.path.isdir(path):
        facts = inspect_gguf(path)
    else:
        from .runtime.inspect import inspect_bundle

        facts = inspect_bundle(path, kernels, arch)
    if as_json:
        click.echo(json.dumps(facts))
        return
    from .runtime.inspect import format_resources

    table = facts.pop("kernels", None)
    for line in format_facts(facts):
        click.echo(line)
    for row in table if isinstance(table, list) else ():
        click.echo(f"{row['launches_per_step']:>5} x {row['symbol']}")
        for found in row["resources"]:
            if arch in {None, found["arch"]}:
                click.echo(f"        {format_resources(found)}")
    if emulate and arch is not None:
        _print_roofline(path, arch)


def _print_roofline(path: Path, arch: str) -> None:
    from .artifacts.bundle import open_bundle

    try:
        from .tools.roofline import count_steps, report
    except ImportError as error:
        raise DeviceError(f"--emulate: the emulator needs {error.name}: pip install 'rocmforge[emulator]'") from None
    with open_bundle(path) as bundle:
        for line in report(arch, *count_steps(bundle, arch)):
            click.echo(line)


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@_DEVICE
@_GRAPHS
@_THREADS
def verify(bundle: Path, device: str, gpu_graphs: str, threads: int) -> None:
    """Check every digest of a BUNDLE and replay its golden records here."""
    require_address_space()
    from .runtime.verify import verify as verify_bundle

    verify_bundle(bundle, _device_options(device, threads, gpu_graphs), click.echo)


@main.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("prompt")
@click.option("-n", "--max-tokens", type=click.IntRange(1), default=32, show_default=True)
@click.option("--device", default="hip", show_default=True, help="hip or hip:INDEX.")
def profile(bundle: Path, prompt: str, max_tokens: int, device: str) -> None:
    """Continue PROMPT with a BUNDLE under AMD's profiler: time and bytes by kernel.

    It needs rocprofv3 or rocprof. The step that checks the model when it is loaded is in the figures.
    """
    from .runtime.gpu_profile import ProfileOptions, format_profile
    from .runtime.gpu_profile import profile as profile_bundle

    for line in format_profile(profile_bundle(ProfileOptions(bundle, prompt, max_tokens, device), _say)):
        click.echo(line)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), envvar="ROCMFORGE_MODELS", default=".", required=False)
@click.option("--url", help="Ask this server instead of looking into a folder.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def models(folder: Path, url: str | None, as_json: bool) -> None:
    """GGUF files and bundles below FOLDER (default: $ROCMFORGE_MODELS, else here), or those of a server."""
    from .runtime.client import Client
    from .runtime.inspect import find_models

    if url is not None:
        served = Client(url).models()
        for model in served:
            click.echo(json.dumps(model) if as_json else printable(model.get("path")))
        return
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


main.add_command(generate)
main.add_command(status)
main.add_command(cancel)

if __name__ == "__main__":
    main(prog_name="rfc")
