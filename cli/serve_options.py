"""Options of `rfc serve`: names of models, what it takes over HTTP and from whom, and what bounds its engine."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..artifacts.errors import UsageError, printable
from .errors import require_address_space
from .options import NumberRange


def _known(given: dict[str, Any]) -> dict[str, Any]:
    """What was given: all else has its default where it belongs."""
    return {name: value for name, value in given.items() if value is not None}


def model_aliases(command: Callable[..., None]) -> Callable[..., None]:
    """Option of `aliases`: models, by further names for them."""

    @click.option(
        "--alias",
        "given",
        multiple=True,
        metavar="NAME=MODEL",
        help="A further name for a model, for clients that ask for fixed ones. Repeatable.",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, given: tuple[str, ...], **extra: Any) -> None:
        aliases: dict[str, str] = {}
        for text in given:
            alias, _, model = text.partition("=")
            if not alias or not model:
                raise UsageError(f"--alias: expected NAME=MODEL, found {printable(text)}")
            if aliases.setdefault(alias, model) != model:
                raise UsageError(f"--alias: expected one model of the name {printable(alias)}, found two")
        command(*args, aliases=aliases, **extra)

    return wrapped


def http_limits(command: Callable[..., None]) -> Callable[..., None]:
    """Options of `limits`."""

    @click.option(
        "--max-body",
        type=click.IntRange(1 << 10, 1 << 30),
        help="Largest request, bytes. [default: 4 MiB; 48 where a model sees]",
    )
    @click.option("--max-header", type=click.IntRange(1 << 10, 1 << 20), help="Largest header. [default: 32 KiB]")
    @click.option("--max-prompt-tokens", type=click.IntRange(1), help="Longest prompt. [default: the context]")
    @click.option("--max-connections", type=click.IntRange(1, 1 << 16), help="Connections at once. [default: 2000]")
    @click.option("--max-streams", type=click.IntRange(1, 1024), help="Generations served at once. [default: 96]")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        max_body: int | None,
        max_header: int | None,
        max_prompt_tokens: int | None,
        max_connections: int | None,
        max_streams: int | None,
        **extra: Any,
    ) -> None:
        from ..runtime.http.core.limits import HttpLimits

        given = {
            "max_body_bytes": max_body,
            "image_body_bytes": max_body,
            "max_header_bytes": max_header,
            "max_prompt_tokens": max_prompt_tokens,
            "max_connections": max_connections,
            "max_streams": max_streams,
        }
        command(*args, limits=HttpLimits(**_known(given)), **extra)

    return wrapped


def security_options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of `security`."""

    @click.option(
        "--api-keys",
        envvar="ROCMFORGE_API_KEYS",
        type=click.Path(path_type=Path),
        help="File of the keys, one of which is demanded of clients; see docs/operations.md. [default: none]",
    )
    @click.option("--rate-limit", type=click.IntRange(1), help="Requests a minute of one client. [default: no limit]")
    @click.option(
        "--cors-origin", multiple=True, help="Origin whose pages may use this server; repeatable. [default: any]"
    )
    @click.option(
        "--allowed-host",
        multiple=True,
        metavar="NAME",
        help="Name by which clients may ask (Host); repeatable, *: any. [default: at the loopback its own, else any]",
    )
    @click.option("--trusted-proxy", metavar="ADDRESS", help="Proxy whose X-Forwarded-For is believed.")
    @click.option(
        "--shared-prefix-cache",
        is_flag=True,
        help="Have all API keys share what was computed of prompts; each may then see what others send.",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        api_keys: Path | None,
        rate_limit: int | None,
        cors_origin: tuple[str, ...],
        allowed_host: tuple[str, ...],
        trusted_proxy: str | None,
        shared_prefix_cache: bool,
        **extra: Any,
    ) -> None:
        from ..runtime.http.transport.auth import Security, load_keys
        from ..runtime.http.transport.origins import read_hosts

        keys = load_keys(api_keys, os.environ.get("ROCMFORGE_API_KEY"))
        origins = cors_origin or ("*",)
        hosts = read_hosts(allowed_host)
        security = Security(keys, rate_limit, origins, trusted_proxy, shared_prefix_cache, hosts)
        command(*args, security=security, **extra)

    return wrapped


def engine_limits(command: Callable[..., None]) -> Callable[..., None]:
    """Options of `engine_limits`."""

    @click.option("--max-queue", type=click.IntRange(1, 1 << 16), help="Requests that may wait. [default: 256]")
    @click.option(
        "--queue-seconds",
        type=NumberRange(0, min_open=True),
        help="Longest wait of a request; it fails then. [default: 600]",
    )
    @click.option(
        "--step-seconds",
        type=NumberRange(0, min_open=True),
        help="After which a step counts as hung: its requests fail, the model is loaded again. [default: 600]",
    )
    @click.option(
        "--prefill-tokens",
        type=click.IntRange(1),
        help="Tokens of prompts in a step in which others decode; more where several wait for each of these."
        " [default: 64]",
    )
    @click.option(
        "--speculate",
        type=click.IntRange(0, 63),
        help="Next tokens to guess from the text so far and compute at once: faster where text repeats itself, as in"
        " editing; no token changes. [default: 0, none]",
    )
    @click.option("--no-mtp", is_flag=True, help="Do not have the model guess next tokens by a block that it brings.")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        max_queue: int | None,
        queue_seconds: float | None,
        step_seconds: float | None,
        prefill_tokens: int | None,
        speculate: int | None,
        no_mtp: bool,
        **extra: Any,
    ) -> None:
        from ..runtime.engine.engine import EngineLimits

        given = {
            "max_queue": max_queue,
            "queue_seconds": queue_seconds,
            "step_seconds": step_seconds,
            "prefill_tokens": prefill_tokens,
            "draft_tokens": speculate,
            "mtp": False if no_mtp else None,
        }
        command(*args, engine_limits=EngineLimits(**_known(given)), **extra)

    return wrapped


def logs_and_traces(command: Callable[..., None]) -> Callable[..., None]:
    """Options of the log, which is set up before anything else is read, and of `traces`."""

    @click.option(
        "--log-level",
        type=click.Choice(("off", "error", "warn", "info", "debug", "trace")),
        help="What is logged. [default: as RUST_LOG says, else info]",
    )
    @click.option(
        "--log-format",
        envvar="ROCFORGE_LOG_FORMAT",
        type=click.Choice(("text", "json", "human")),
        default="text",
        show_default=True,
        help="Lines of text (also: human), or JSON.",
    )
    @click.option(
        "--log-file",
        envvar="ROCFORGE_LOG_FILE",
        type=click.Path(path_type=Path),
        help="Where to. [default: standard error]",
    )
    @click.option(
        "--trace-sample-rate",
        envvar=("ROCMFORGE_TRACE_SAMPLE_RATE", "ROCMORGE_TRACE_SAMPLE_RATE"),
        type=NumberRange(0, 1),
        default=0.1,
        show_default=True,
        help="Part of the requests that are traced.",
    )
    @click.option(
        "--max-traces",
        envvar="ROCMFORGE_MAX_TRACES",
        type=click.IntRange(0, 1_000_000),
        default=1000,
        show_default=True,
        help="Traces kept for /traces.",
    )
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        log_level: str | None,
        log_format: str,
        log_file: Path | None,
        trace_sample_rate: float,
        max_traces: int,
        **extra: Any,
    ) -> None:
        from ..runtime.telemetry.logs import LogOptions, configure
        from ..runtime.telemetry.tracing import read_options

        configure(LogOptions(log_level, os.environ.get("RUST_LOG", ""), log_format == "json", log_file))
        command(*args, traces=read_options(os.environ, trace_sample_rate, max_traces), **extra)

    return wrapped


def worker_options(command: Callable[..., None]) -> Callable[..., None]:
    """Option of `worker`, and `early`: a worker that will be needed, begun before all else is loaded beside it."""

    @click.option(
        "--worker/--no-worker",
        default=None,
        help="Run each engine in a process of its own, which is started again when it dies. [default: on a GPU]",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, worker: bool | None, device: str, **extra: Any) -> None:
        require_address_space()  # before the options of the engine import it
        from ..artifacts.hip import installed_arches
        from ..runtime.engine.worker.spawn import WorkerProcess, give_way

        on_gpu = device not in {"auto", "host"} or (device == "auto" and bool(installed_arches()))
        early = None
        if worker or (worker is None and on_gpu):
            give_way()
            early = WorkerProcess()
        command(*args, worker=worker, early=early, device=device, **extra)

    return wrapped
