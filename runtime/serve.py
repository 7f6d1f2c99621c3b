"""`rfc serve`: bundles on a device, behind HTTP."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import secrets
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..artifacts.bundle import Bundle, open_bundle
from ..artifacts.errors import UsageError, printable
from ..artifacts.manifest import TENSOR_COUNT
from ..artifacts.tokenizer_config import TokenizerConfig
from .chat import ChatTemplate
from .constraints import ConstraintCompiler
from .devices import DeviceOptions, Report, load_program
from .engine import Engine, EngineLimits
from .host_device import HostProgram
from .http.app import create_app
from .http.auth import Security, warn_if_open
from .http.limits import HttpLimits
from .http.server import run_server
from .http.service import ServedModel, Service
from .integrations import IntegrationManager, parse_integration
from .lifecycle import Observer
from .memory import KvSize
from .metrics import Metrics
from .model_pool import NEVER, Load, ModelPool
from .tokenizer import Tokenizer
from .tracing import UNTRACED, TraceOptions, Tracer

log = logging.getLogger(__name__)

DRAIN_SECONDS = 30.0
IDLE_SECONDS = 300.0
SERVING_THRESHOLDS = (700, 10, 10)  # of the collector: the Python default, which rfc raises while it starts
MAX_ID = 2**53 - 1  # JavaScript's Number.MAX_SAFE_INTEGER


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What to serve, where and on what. `max_context` and `kv_tokens` None: from the bundle and the device.

    `idle_seconds` after which a model that nobody uses is unloaded; 0: never; None: `IDLE_SECONDS` where there are
    several. `max_loaded` at once; None: all. `integrations`: see `parse_integration`. `aliases`: of models, by further
    names for them.
    """

    bundles: tuple[Path, ...]
    host: str
    port: int
    device: DeviceOptions
    max_context: int | None = None
    kv_tokens: int | None = None
    limits: HttpLimits = field(default_factory=HttpLimits)
    security: Security = field(default_factory=Security)
    engine_limits: EngineLimits = field(default_factory=EngineLimits)
    traces: TraceOptions = UNTRACED
    idle_seconds: float | None = None
    max_loaded: int | None = None
    integrations: tuple[str, ...] = ()
    aliases: Mapping[str, str] = field(default_factory=dict)


def _tokenizer_config(bundle: Bundle) -> TokenizerConfig:
    return TokenizerConfig.from_json(bundle.path, bundle.manifest.tokenizer)


def load_tokenizer(bundle: Bundle) -> Tokenizer:
    """The bundle's tokenizer."""
    return Tokenizer(bundle.read("tokenizer.json").decode(), _tokenizer_config(bundle))


def load_chat_template(bundle: Bundle) -> ChatTemplate:
    """The bundle's chat template, or ChatML."""
    name, config = "chat_template.jinja", _tokenizer_config(bundle)
    source = bundle.read(name).decode() if name in bundle.manifest.files else None
    return ChatTemplate(source, config.bos_token, config.eos_token)


def load_engine(
    bundle: Bundle,
    options: ServeOptions,
    tokenizer: Tokenizer,
    metrics: Metrics,
    report: Report = log.info,
    observer: Observer | None = None,
    request_ids: Iterator[int] | None = None,
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
        request_ids=request_ids,
    )


def served_model(bundle: Bundle, aliases: Mapping[str, str]) -> ServedModel:
    """How the model presents itself over HTTP; `aliases` are those of all models, by further names for them."""
    model, path = bundle.manifest.model, Path(os.path.abspath(bundle.path))  # a link is known by its own name
    return ServedModel(
        name=path.stem,
        path=str(path),
        size_bytes=sum(entry.n_bytes for entry in bundle.manifest.files.values()),
        created=int(os.stat(path).st_mtime),
        metadata=model.metadata,
        context_length=bundle.layout.max_seq_len,
        fingerprint=bundle.manifest.bundle_digest,
        aliases=tuple(alias for alias, name in aliases.items() if name == path.stem),
        parameters=model.parameters,
        quantization=model.quantization,
        tensor_count=int(model.metadata.get(TENSOR_COUNT, 0)),
        vocab_size=bundle.layout.vocab_size,
        weights_bytes=bundle.layout.weights_bytes,
    )


class BundleModel:
    """A bundle on its device. Call `stop`."""

    def __init__(self, path: Path, options: ServeOptions, shared: Shared) -> None:
        """Load and start it.

        Raises:
            RocmforgeError: the bundle or the device is not to be had.
        """
        with contextlib.ExitStack() as opened:
            bundle = opened.enter_context(open_bundle(path))
            template = opened.enter_context(contextlib.closing(load_chat_template(bundle)))
            template.start()  # beside what follows, which takes longer
            tokenizer = load_tokenizer(bundle)
            model = served_model(bundle, options.aliases)
            self._engine = load_engine(
                bundle,
                options,
                tokenizer,
                shared.metrics,
                observer=shared.tracer.observer(model.name),
                request_ids=shared.request_ids,
            )
            self._opened = opened.pop_all()
        self.service = Service(
            engine=self._engine,
            tokenizer=tokenizer,
            chat_template=template,
            model=model,
            constraints=ConstraintCompiler(tokenizer),
        )
        self._engine.start()

    def stop(self, timeout: float) -> None:
        """See `LoadedModel`."""
        self._engine.stop(timeout)
        self._opened.close()


def random_id() -> int:
    """A number that nobody guesses, and that JavaScript reads exactly: the native API promises numbers."""
    return 1 + secrets.randbelow(MAX_ID)


@dataclass(frozen=True, slots=True)
class Shared:
    """What all models of a server have in common: request ids are of one kind, whichever model answers."""

    metrics: Metrics
    tracer: Tracer
    request_ids: Iterator[int] = field(default_factory=lambda: iter(random_id, None))


def check_aliases(aliases: Mapping[str, str], names: Set[str]) -> None:
    """Hold further names of models against the names of those that are served.

    Raises:
        UsageError: a name is taken already, or means no model.
    """
    for alias, name in aliases.items():
        if name not in names:
            known = ", ".join(sorted(names)[:8])
            raise UsageError(f"--alias: expected the name of a model, {printable(known)}, found {printable(name)}")
        if alias in names:
            raise UsageError(f"--alias: expected a name that no model has, found {printable(alias)}")


def make_pool(options: ServeOptions, shared: Shared) -> ModelPool:
    """The models to serve; the first is loaded, so that what is wrong with it shows at once.

    Raises:
        RocmforgeError: a bundle is not to be had, or the first does not load.
    """
    models: list[tuple[ServedModel, Load]] = []
    for path in options.bundles:
        with open_bundle(path) as bundle:
            card = served_model(bundle, options.aliases)
        models.append((card, functools.partial(BundleModel, path, options, shared)))
    check_aliases(options.aliases, {card.name for card, _ in models})
    several = len(models) > 1
    idle = options.idle_seconds if options.idle_seconds is not None else IDLE_SECONDS if several else NEVER
    pool = ModelPool(models, idle or NEVER, options.max_loaded)
    try:
        pool.lease(None).release()
    except BaseException:
        pool.close(0.0)
        raise
    return pool


def serve_bundles(options: ServeOptions) -> None:
    """Serve until SIGTERM, SIGHUP or Ctrl-C, then drain.

    Raises:
        RocmforgeError: a bundle, the device or the address is not to be had.
    """
    integrations = IntegrationManager()
    for text in options.integrations:
        integrations.add_integration(*parse_integration(text))
    shared = Shared(Metrics(), Tracer(options.traces))
    pool = make_pool(options, shared)

    def on_ready(host: str, port: int) -> None:
        gc.freeze()  # what is there by now stays: each full collection would look at it again, for 13 ms
        gc.set_threshold(*SERVING_THRESHOLDS)
        warn_if_open(options.security, host)
        names = ", ".join(printable(card.name if len(pool.cards()) > 1 else card.path) for card in pool.cards())
        log.info("serving %s on http://%s:%d", names, host, port)

    try:
        app = create_app(pool, shared.metrics, options.limits, options.security, shared.tracer, integrations)
        run_server(app, options.host, options.port, on_ready=on_ready, drain_seconds=DRAIN_SECONDS)
    finally:
        pool.close(0.0)  # the server has drained: whoever is left has lost its client
        shared.tracer.close()
