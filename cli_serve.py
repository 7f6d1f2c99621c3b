"""Options of `rfc serve` about HTTP: what it takes, and from whom."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def http_limits(command: Callable[..., None]) -> Callable[..., None]:
    """Options of `limits`."""

    @click.option("--max-body", type=click.IntRange(1 << 10, 1 << 30), help="Largest request, bytes. [default: 4 MiB]")
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
        from .runtime.http.limits import HttpLimits

        given = {
            "max_body_bytes": max_body,
            "max_header_bytes": max_header,
            "max_prompt_tokens": max_prompt_tokens,
            "max_connections": max_connections,
            "max_streams": max_streams,
        }
        limits = HttpLimits(**{name: value for name, value in given.items() if value is not None})
        command(*args, limits=limits, **extra)

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
    @click.option("--trusted-proxy", metavar="ADDRESS", help="Proxy whose X-Forwarded-For is believed.")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        api_keys: Path | None,
        rate_limit: int | None,
        cors_origin: tuple[str, ...],
        trusted_proxy: str | None,
        **extra: Any,
    ) -> None:
        from .runtime.http.auth import Security, load_keys

        keys = load_keys(api_keys, os.environ.get("ROCMFORGE_API_KEY"))
        command(*args, security=Security(keys, rate_limit, cors_origin or ("*",), trusted_proxy), **extra)

    return wrapped
