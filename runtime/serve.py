"""`rfc serve`: bundles on a device, behind HTTP."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.bundle import Bundle, open_bundle
from ..artifacts.dataclass import dataclass
from ..artifacts.errors import UsageError, printable
from ..artifacts.hip import installed_arches
from ..artifacts.manifest import TENSOR_COUNT
from ..artifacts.vision import VISION_PART
from .device.load import DeviceOptions
from .engine.engine import Engine, EngineLimits
from .engine.lifecycle import Observer
from .engine.loading import EngineOptions, load_chat_template, load_engine, load_tokenizer, template_source
from .http.app import create_app
from .http.core.limits import HttpLimits
from .http.core.service import ServedModel, Service
from .http.core.text_apis import ConstraintApi
from .http.proxy.manager import IntegrationManager, parse_integration
from .http.transport.auth import Security, warn_if_open
from .http.transport.server import run_server
from .model_pool import NEVER, Load, ModelPool
from .pictures.encode import vision_of
from .telemetry.metrics import Metrics
from .telemetry.tracing import UNTRACED, TraceOptions, Tracer
from .text.chat import CHATML
from .text.constraints import ConstraintCompiler
from .text.tokenizer import Tokenizer

if TYPE_CHECKING:  # loaded where an engine gets a process of its own: a server without one starts sooner
    from .engine.worker.remote import RemoteEngine
    from .engine.worker.router import RoutedEngine
    from .engine.worker.spawn import WorkerProcess
    from .engine.worker.wire import Start

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
    names for them. `worker`: whether each engine gets a process of its own, None: on a GPU; `early`: one that was
    started already. `check` refuses an open bundle before its code is loaded, as where it is not signed.
    `draft`: bundle of a small model that drafts for the one that is served.
    `drain_seconds` are how long requests in flight have, once the server is to stop.
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
    worker: bool | None = None
    early: WorkerProcess | None = None
    check: Callable[[Bundle], None] | None = None
    drain_seconds: float = DRAIN_SECONDS
    draft: Path | None = None


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
        adapters=bundle.layout.adapters,
        sees=VISION_PART in bundle.manifest.parts,
        template=template_source(bundle) or CHATML,
    )


def devices_of(options: ServeOptions) -> list[str]:
    """Each of the devices asked for."""
    return options.device.device.split(",")


def has_worker(bundle: Bundle, options: ServeOptions) -> bool:
    """Whether a bundle's engine gets a process of its own: on a GPU, unless the options say otherwise."""
    if len(devices_of(options)) > 1:
        if options.worker is False:
            raise UsageError("--no-worker: several devices need a worker each")
        return True
    if options.worker is not None:
        return options.worker
    kind, _ = options.device.parsed()
    if kind == "auto":
        has_code = any(target.backend == "hip" for target in bundle.manifest.targets)
        return has_code and bool(installed_arches(options.device.nodes))
    return kind != "host"


def make_remote(
    bundle: Bundle, options: ServeOptions, shared: Shared, observer: Observer, draft: Bundle | None = None
) -> RemoteEngine | RoutedEngine:
    """The bundle's engine in processes of its own, one for each device that was asked for; not yet started.

    Raises:
        UsageError: a device is none of the forms.
    """
    from .engine.worker.remote import RemoteEngine  # noqa: PLC0415 - see above
    from .engine.worker.router import RoutedEngine  # noqa: PLC0415

    engines = []
    for name in devices_of(options):
        device = replace(options.device, device=name)
        device.parsed()
        first = shared.early.pop() if shared.early else None
        start = start_message(bundle, options, device, draft)
        engines.append(
            RemoteEngine(start, shared.metrics, observer=observer, request_ids=shared.request_ids, first=first)
        )
    return engines[0] if len(engines) == 1 else RoutedEngine(engines)


def start_message(bundle: Bundle, options: ServeOptions, device: DeviceOptions, draft: Bundle | None = None) -> Start:
    """What a worker is to run."""
    from .engine.worker.wire import Start  # noqa: PLC0415 - see above

    return Start(
        bundle=str(bundle.path),
        digest=bundle.manifest.bundle_digest,
        stamps=None if options.check is None else bundle.weights_stamps,
        device=device.device,
        threads=device.threads,
        graphs=device.graphs,
        gpu_layers=device.places.gpu_layers,
        cpu_experts=device.places.cpu_experts,
        state_slots=device.state_slots,
        limits=options.engine_limits,
        emulator=None if device.emulator is None else f"{device.emulator.__module__}:{device.emulator.__qualname__}",
        max_context=options.max_context,
        kv_tokens=options.kv_tokens,
        log_level=log.getEffectiveLevel(),
        draft=None if draft is None else str(draft.path),
        draft_digest="" if draft is None else draft.manifest.bundle_digest,
        draft_stamps=None if draft is None or options.check is None else draft.weights_stamps,
    )


@contextlib.contextmanager
def open_checked(path: Path, options: ServeOptions) -> Iterator[Bundle]:
    """Open a bundle and hold it, weights and all, against what the options say of who may have made it.

    Raises:
        RocmforgeError: it is unavailable, or refused.
    """
    with open_bundle(path) as bundle:
        if options.check is not None:
            options.check(bundle)
            bundle.read_weights()
        yield bundle


def deferred_constraints() -> ConstraintApi:
    """Constraints that a worker compiles."""
    from .engine.worker.wire import DeferredConstraints  # noqa: PLC0415 - see above

    return DeferredConstraints()


class BundleModel:
    """A bundle on its device. Call `stop`."""

    def __init__(self, path: Path, options: ServeOptions, shared: Shared) -> None:
        """Load and start it.

        Raises:
            RocmforgeError: the bundle or the device is unavailable.
        """
        with contextlib.ExitStack() as opened:
            bundle = opened.enter_context(open_checked(path, options))
            draft = None if options.draft is None else opened.enter_context(open_checked(options.draft, options))
            model = served_model(bundle, options.aliases)
            observer = shared.tracer.observer(model.name)
            remote = make_remote(bundle, options, shared, observer, draft) if has_worker(bundle, options) else None
            if remote is not None:
                opened.callback(remote.stop, 0.0)
                remote.start()
            template = opened.enter_context(contextlib.closing(load_chat_template(bundle)))
            template.start()  # beside what follows, which takes longer
            tokenizer = load_tokenizer(bundle)
            if remote is not None:
                remote.wait()
            self._engine = remote or self._load_engine(bundle, options, tokenizer, shared, observer, draft)
            self._opened = opened.pop_all()
        self.service = Service(
            engine=self._engine,
            tokenizer=tokenizer,
            chat_template=template,
            model=model,
            constraints=ConstraintCompiler(tokenizer) if remote is None else deferred_constraints(),
            vision=vision_of(bundle) if model.sees else None,
        )

    def _load_engine(
        self,
        bundle: Bundle,
        options: ServeOptions,
        tokenizer: Tokenizer,
        shared: Shared,
        observer: Observer,
        draft: Bundle | None,
    ) -> Engine:
        engine_options = EngineOptions(options.device, options.max_context, options.kv_tokens, options.engine_limits)
        engine = load_engine(
            bundle,
            engine_options,
            tokenizer,
            shared.metrics,
            observer=observer,
            request_ids=shared.request_ids,
            draft=draft,
        )
        engine.start()
        return engine

    def stop(self, timeout: float) -> None:
        """See `LoadedModel`."""
        self._engine.stop(timeout)
        self._opened.close()


def random_id() -> int:
    """A number that nobody guesses, and that JavaScript reads exactly: the native API promises numbers."""
    return 1 + secrets.randbelow(MAX_ID)


@dataclass(frozen=True, slots=True)
class Shared:
    """What all models of a server have in common: request ids are of one kind, whichever model answers.

    `early`: workers that were started before it was known which model needs one.
    """

    metrics: Metrics
    tracer: Tracer
    request_ids: Iterator[int] = field(default_factory=lambda: iter(random_id, None))
    early: list[WorkerProcess] = field(default_factory=list)


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
        RocmforgeError: a bundle is unavailable, or the first does not load.
    """
    models: list[tuple[ServedModel, Load]] = []
    for path in options.bundles:
        with open_bundle(path) as bundle:
            if options.check is not None:
                options.check(bundle)
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
    finally:
        for unneeded in shared.early:
            unneeded.end(0.0)
            unneeded.wait_until_gone()
    return pool


def serve_bundles(options: ServeOptions) -> None:
    """Serve until SIGTERM, SIGHUP or Ctrl-C, then drain.

    Raises:
        RocmforgeError: a bundle, the device or the address is unavailable.
    """
    integrations = IntegrationManager()
    for text in options.integrations:
        integrations.add_integration(*parse_integration(text))
    early = [] if options.early is None else [options.early]
    shared = Shared(Metrics(), Tracer(options.traces), early=early)
    pool = make_pool(options, shared)

    def on_ready(host: str, port: int) -> None:
        gc.freeze()  # what is there by now stays: each full collection would look at it again, for 13 ms
        gc.set_threshold(*SERVING_THRESHOLDS)
        warn_if_open(options.security, host)
        names = ", ".join(printable(card.name if len(pool.cards()) > 1 else card.path) for card in pool.cards())
        log.info("serving %s on http://%s:%d", names, host, port)

    try:
        limits = options.limits
        if any(card.sees for card in pool.cards()):
            limits = replace(limits, max_body_bytes=limits.image_body_bytes)
        app = create_app(pool, shared.metrics, limits, options.security, shared.tracer, integrations)
        run_server(app, options.host, options.port, on_ready=on_ready, drain_seconds=options.drain_seconds)
    finally:
        pool.close(0.0)  # the server has drained: whoever is left has lost its client
        shared.tracer.close()
