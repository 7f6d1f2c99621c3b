"""`rfc serve`: a bundle on a device, behind HTTP."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..artifacts.bundle import Bundle, open_bundle
from ..artifacts.errors import UsageError, printable
from ..artifacts.tokenizer_config import TokenizerConfig
from .chat import ChatTemplate
from .constraints import ConstraintCompiler
from .devices import DeviceOptions, Report, load_program
from .engine import Engine, EngineLimits
from .host_device import HostProgram
from .http.app import create_app
from .http.auth import Security, warn_if_open
from .http.limits import HttpLimits
from .http.registry import OneModel
from .http.server import run_server
from .http.service import ServedModel, Service
from .lifecycle import Observer
from .memory import KvSize
from .metrics import Metrics
from .tokenizer import Tokenizer
from .tracing import UNTRACED, TraceOptions, Tracer

log = logging.getLogger(__name__)

DRAIN_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What to serve, where and on what. `max_context` and `kv_tokens` None: from the bundle and the device."""

    bundle: Path
    host: str
    port: int
    device: DeviceOptions
    max_context: int | None = None
    kv_tokens: int | None = None
    limits: HttpLimits = field(default_factory=HttpLimits)
    security: Security = field(default_factory=Security)
    engine_limits: EngineLimits = field(default_factory=EngineLimits)
    traces: TraceOptions = UNTRACED


def load_tokenizer(bundle: Bundle) -> Tokenizer:
    """The bundle's tokenizer."""
    config = TokenizerConfig.from_json(bundle.path, bundle.manifest.tokenizer)
    return Tokenizer(bundle.read("tokenizer.json").decode(), config)


def load_chat_template(bundle: Bundle, config: TokenizerConfig) -> ChatTemplate:
    """The bundle's chat template, or ChatML."""
    name = "chat_template.jinja"
    source = bundle.read(name).decode() if name in bundle.manifest.files else None
    return ChatTemplate(source, config.bos_token, config.eos_token)


def load_engine(
    bundle: Bundle,
    options: ServeOptions,
    tokenizer: Tokenizer,
    metrics: Metrics,
    report: Report = log.info,
    observer: Observer | None = None,
) -> Engine:
    """An engine, not yet started, with the bundle's program on its device.

    Raises:
        UsageError: the context asked for is longer than the bundle's.
        DeviceError: the device is not to be had, or its memory does not suffice; nothing was allocated then.
    """
    layout = bundle.layout
    max_context = options.max_context or layout.max_seq_len
    if max_context > layout.max_seq_len:
        raise UsageError(f"--max-context: expected at most {layout.max_seq_len} (the bundle's), found {max_context}")
    blocks = None if options.kv_tokens is None else -(-options.kv_tokens // layout.kv.block_size)
    size = KvSize(blocks, max_context)
    program = load_program(bundle, options.device, size, report)
    device = options.device
    if device.device == "auto":  # what was chosen: a GPU that is lost is waited for, not replaced by the CPU
        device = replace(device, device="host" if isinstance(program, HostProgram) else "hip")
    return Engine(
        program,
        tokenizer,
        max_context,
        metrics,
        limits=options.engine_limits,
        make_program=lambda: load_program(bundle, device, size, report),
        observer=observer,
    )


def served_model(bundle: Bundle) -> ServedModel:
    """How the model presents itself over HTTP."""
    model, path = bundle.manifest.model, bundle.path.resolve()
    return ServedModel(
        name=path.stem,
        path=str(path),
        size_bytes=sum(entry.n_bytes for entry in bundle.manifest.files.values()),
        created=int(os.stat(path).st_mtime),
        metadata=model.metadata,
        context_length=bundle.layout.max_seq_len,
        fingerprint=bundle.manifest.bundle_digest,
        parameters=model.parameters,
        quantization=model.quantization,
    )


def serve_bundle(options: ServeOptions) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain.

    Raises:
        RocmforgeError: the bundle, the device or the address is not to be had.
    """
    bundle = open_bundle(options.bundle)
    metrics = Metrics()
    tokenizer = load_tokenizer(bundle)
    model = served_model(bundle)
    tracer = Tracer(options.traces)
    engine = load_engine(bundle, options, tokenizer, metrics, observer=tracer.observer(model.name))
    service = Service(
        engine=engine,
        tokenizer=tokenizer,
        chat_template=load_chat_template(bundle, tokenizer.config),
        model=model,
        constraints=ConstraintCompiler(tokenizer),
    )
    engine.start()

    def on_ready(host: str, port: int) -> None:
        warn_if_open(options.security, host)
        log.info("serving %s on http://%s:%d", printable(bundle.path), host, port)

    try:
        app = create_app(OneModel(service), metrics, options.limits, options.security, tracer)
        run_server(app, options.host, options.port, on_ready=on_ready, drain_seconds=DRAIN_SECONDS)
    finally:
        engine.stop(0.0)  # the server has drained: whoever is left has lost its client
        tracer.close()
        bundle.close()
