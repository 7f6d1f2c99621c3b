"""`rfc serve`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..artifacts.errors import UsageError, printable
from .compile import compiled
from .options import CACHE_DIR, MAX_CONTEXT, NumberRange, on_device
from .serve_options import (
    engine_limits,
    http_limits,
    logs_and_traces,
    model_aliases,
    security_options,
    worker_options,
)
from .signing import trust_options

if TYPE_CHECKING:
    from ..artifacts.bundle import Bundle
    from ..runtime.device.load import DeviceOptions
    from ..runtime.engine.engine import EngineLimits
    from ..runtime.engine.worker.spawn import WorkerProcess
    from ..runtime.http.core.limits import HttpLimits
    from ..runtime.http.transport.auth import Security
    from ..runtime.telemetry.tracing import TraceOptions


@click.command()
@click.argument("bundles", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--addr", envvar="ROCMFORGE_ADDR", default="127.0.0.1:8080", show_default=True, help="HOST:PORT.")
@click.option(
    "--kv-tokens",
    type=click.IntRange(16),
    help="Tokens that the KV cache holds. [default: 4 contexts, at most 1 GiB; on a GPU what is free]",
)
@click.option(
    "--idle-seconds",
    type=NumberRange(0),
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
@click.option(
    "--drain-seconds",
    type=NumberRange(0, 3600),
    default=30.0,
    show_default=True,
    help="How long requests in flight may take once the server is to stop; /ready then says no, /live yes.",
)
@click.option(
    "--draft",
    type=click.Path(path_type=Path),
    help="Bundle or GGUF of a small model of the same tokenizer, which guesses next tokens that BUNDLE then checks,"
    " several in a step: faster, and no token changes. --speculate says how many at most. [default: none]",
)
@worker_options
@logs_and_traces
@model_aliases
@http_limits
@security_options
@trust_options
@engine_limits
@MAX_CONTEXT
@on_device
@CACHE_DIR
def serve(
    bundles: tuple[Path, ...],
    addr: str,
    kv_tokens: int | None,
    idle_seconds: float | None,
    max_loaded: int | None,
    integrations: tuple[str, ...],
    drain_seconds: float,
    draft: Path | None,
    aliases: dict[str, str],
    limits: HttpLimits,
    security: Security,
    check: Callable[[Bundle], None] | None,
    engine_limits: EngineLimits,
    traces: TraceOptions,
    worker: bool | None,
    early: WorkerProcess | None,
    max_context: int | None,
    device: DeviceOptions,
    cache_dir: Path | None,
) -> None:
    """Serve BUNDLES over HTTP: bundles, folders of them, or GGUFs, which are compiled first.

    The first is loaded at once and answers where no model is named; the others are loaded when they are asked for.
    --device takes several, as hip:0,hip:1: each then runs all of them.
    """
    from ..runtime.serve import ServeOptions, serve_bundles

    for number in (signal.SIGUSR1, signal.SIGUSR2):  # by default they kill
        signal.signal(number, signal.SIG_IGN)
    host, port = _host_and_port(addr)
    paths = tuple(compiled(path, cache_dir, max_context) for given in bundles for path in _bundles_in(given))
    if draft is not None and len(paths) > 1:
        raise UsageError(f"--draft: expected one bundle that it drafts for, found {len(paths)}")
    serve_bundles(
        ServeOptions(
            paths,
            host,
            port,
            device,
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
            check,
            drain_seconds,
            None if draft is None else compiled(draft, cache_dir, max_context),
        )
    )


def _bundles_in(path: Path) -> list[Path]:
    """The path itself; of a folder that is no bundle, the bundles in it, by name."""
    from ..artifacts.manifest import MANIFEST_NAME

    if not os.path.isdir(path) or (path / MANIFEST_NAME).exists():  # of a path that is too long: false
        return [path]
    # What a killed compile or pull left is no bundle, however whole it looks; nor is what we may not look into.
    children = (child for child in path.iterdir() if not child.name.endswith(".partial"))
    found = sorted(child for child in children if os.path.isfile(child / MANIFEST_NAME))
    return found or [path]  # what is wrong with it is said where it is opened


def _host_and_port(addr: str) -> tuple[str, int]:
    host, _, port = addr.rpartition(":")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise UsageError(f"--addr: expected HOST:PORT, found {printable(addr)}")
    if set(host) & set("[]:"):
        host = _without_brackets(host, addr)
    return host or "127.0.0.1", int(port)


def _without_brackets(host: str, addr: str) -> str:
    """The IPv6 address of a host that is one."""
    import ipaddress

    inner = host[1:-1] if host.startswith("[") and host.endswith("]") else ""
    try:
        ipaddress.IPv6Address(inner)
    except ValueError:
        expected = "expected HOST:PORT, or an IPv6 address as [ADDRESS]:PORT"
        raise UsageError(f"--addr: {expected}, found {printable(addr)}") from None
    return inner
