"""What `rfc serve` puts together: models, workers and options. The whole of it runs in e2e/test_serve.py."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rocmforge.artifacts.errors import BundleError, DeviceError, UsageError
from rocmforge.artifacts.manifest import TENSOR_COUNT
from rocmforge.runtime import serve
from rocmforge.runtime.device.hip.placement import WeightPlaces
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.runtime.engine import loading
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.loading import EngineOptions
from rocmforge.runtime.engine.worker import remote, router
from rocmforge.runtime.engine.worker.wire import DeferredConstraints, Start
from rocmforge.runtime.http.core.limits import HttpLimits
from rocmforge.runtime.http.core.service import ServedModel
from rocmforge.runtime.http.transport.auth import Security
from rocmforge.runtime.model_pool import NEVER
from rocmforge.runtime.serve import IDLE_SECONDS, MAX_ID, ServeOptions, Shared
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.runtime.telemetry.tracing import UNTRACED, Sampling, TraceOptions, Tracer
from rocmforge.runtime.text.chat import CHATML

LIMITS = EngineLimits(7)


def options(device: str = "host", **more: Any) -> ServeOptions:
    return ServeOptions((Path("a"),), "127.0.0.1", 8000, DeviceOptions(device), engine_limits=LIMITS, **more)


def fake_bundle(path: Path, *targets: str, **metadata: object) -> Any:
    """What is asked of a bundle, without its files."""
    files = {"weights.bin": SimpleNamespace(n_bytes=1000), "manifest.json": SimpleNamespace(n_bytes=50)}
    model = SimpleNamespace(metadata=metadata, parameters=600, quantization="Q8_0")
    manifest = SimpleNamespace(
        **{"model": model, "files": files, "bundle_digest": "abc", "tokenizer": {}},
        targets=[SimpleNamespace(backend=backend) for backend in targets],
        parts={},
    )
    layout = SimpleNamespace(max_seq_len=256, vocab_size=300, weights_bytes=990, adapters=("sql",))
    return SimpleNamespace(path=path, manifest=manifest, layout=layout, read=lambda name: f"of {name}".encode())


def test_how_a_model_presents_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tiny.rfb").mkdir()
    (tmp_path / "link.q4.rfb").symlink_to("tiny.rfb")
    os.utime(tmp_path / "tiny.rfb", (1_700_000_000.9, 1_700_000_000.9))
    monkeypatch.chdir(tmp_path)
    aliases = {"gpt": "link.q4", "small": "link.q4", "other": "tiny"}
    found = serve.served_model(fake_bundle(Path("link.q4.rfb"), name="x"), aliases)
    assert found == ServedModel(
        name="link.q4",
        path=str(tmp_path / "link.q4.rfb"),
        size_bytes=1050,
        created=1_700_000_000,
        metadata={"name": "x"},
        context_length=256,
        fingerprint="abc",
        aliases=("gpt", "small"),
        parameters=600,
        quantization="Q8_0",
        tensor_count=0,
        vocab_size=300,
        weights_bytes=990,
        adapters=("sql",),
        template=CHATML,
    )
    counted = fake_bundle(Path("link.q4.rfb"), **{TENSOR_COUNT: 12})
    assert serve.served_model(counted, {}).tensor_count == 12


def test_a_template_that_is_no_text_is_refused() -> None:
    bundle = fake_bundle(Path("x"))
    bundle.manifest.files["chat_template.jinja"] = SimpleNamespace(n_bytes=1)
    bundle.read = lambda name: b"\xff"
    with pytest.raises(BundleError, match=r"x: chat_template\.jinja: expected UTF-8, found "):
        loading.template_source(bundle)


@pytest.mark.parametrize("has_one", [True, False])
def test_a_template_is_the_bundles_or_none(monkeypatch: pytest.MonkeyPatch, has_one: bool) -> None:
    bundle = fake_bundle(Path("x"))
    if has_one:
        bundle.manifest.files["chat_template.jinja"] = SimpleNamespace(n_bytes=1)
    monkeypatch.setattr(loading, "tokenizer_config", lambda of: SimpleNamespace(bos_token="<s>", eos_token="</s>"))
    monkeypatch.setattr(loading, "ChatTemplate", lambda *arguments: arguments)
    source = "of chat_template.jinja" if has_one else None
    made: Any = loading.load_chat_template(bundle)
    assert made == (source, "<s>", "</s>")


@pytest.mark.parametrize(
    "device, worker, targets, arches, expected",
    [
        ("host", None, ("hip",), ("gfx1100",), False),
        ("host", True, (), (), True),
        ("hip", None, ("hip",), (), True),
        ("hip:1", None, ("hip",), (), True),
        ("hip:1", False, ("hip",), (), False),
        ("emulated:gfx1100", None, (), (), True),
        ("auto", None, ("host", "hip"), ("gfx1100",), True),
        ("auto", None, ("host",), ("gfx1100",), False),
        ("auto", None, ("host", "hip"), (), False),
        ("auto", True, (), (), True),
        ("hip:0,hip:1", None, ("hip",), (), True),
        ("hip:0,hip:1", True, ("hip",), (), True),
    ],
)
def test_which_engines_get_a_process(
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    worker: bool | None,
    targets: tuple[str, ...],
    arches: tuple[str, ...],
    expected: bool,
) -> None:
    monkeypatch.setattr(serve, "installed_arches", lambda nodes: arches)
    assert serve.has_worker(fake_bundle(Path("x"), *targets), options(device, worker=worker)) is expected


def test_several_devices_need_workers() -> None:
    with pytest.raises(UsageError, match=r"^--no-worker: several devices need a worker each$"):
        serve.has_worker(fake_bundle(Path("x")), options("hip:0,hip:1", worker=False))


def make_emulator() -> None:
    """Is only named."""


def test_what_a_worker_is_told() -> None:
    device = DeviceOptions("hip:3", 5, graphs="off")
    with_sizes = options(max_context=100, kv_tokens=200)
    expected = Start("/x/b.rfb", "abc", "hip:3", 5, "off", None, 100, 200, LIMITS, serve.log.getEffectiveLevel())
    assert serve.start_message(fake_bundle(Path("/x/b.rfb")), with_sizes, device) == expected
    emulated = replace(device, emulator=make_emulator)  # type: ignore[arg-type]
    elsewhere = replace(device, places=WeightPlaces(6, 7), state_slots=8)
    told = serve.start_message(fake_bundle(Path("/x/b.rfb")), with_sizes, elsewhere)
    assert told == replace(expected, gpu_layers=6, cpu_experts=7, state_slots=8)
    named = serve.start_message(fake_bundle(Path("/x/b.rfb")), with_sizes, emulated).emulator
    assert named == f"{__name__}:make_emulator"


def test_each_device_has_an_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RemoteEngine", lambda *arguments, **named: (arguments, named))
    monkeypatch.setattr(router, "RoutedEngine", list)
    monkeypatch.setattr(serve, "start_message", lambda bundle, options, device, draft: device.device)
    early: list[Any] = ["first process"]
    shared, observer = Shared(Metrics(), Tracer(), iter([1]), early), print
    one: Any = serve.make_remote(fake_bundle(Path("x")), options("hip:1"), shared, observer)
    named = {"observer": observer, "request_ids": shared.request_ids}
    assert one == (("hip:1", shared.metrics), {**named, "first": "first process"})
    early += ["second process"]
    two: Any = serve.make_remote(fake_bundle(Path("x")), options("hip:0,host"), shared, observer)
    assert two == [
        (("hip:0", shared.metrics), {**named, "first": "second process"}),
        (("host", shared.metrics), {**named, "first": None}),
    ]
    with pytest.raises(UsageError, match="--device: expected"):
        serve.make_remote(fake_bundle(Path("x")), options("hip:0,odd"), shared, observer)


class Parts:
    """What a model is put together from; tells what is done with it, in order."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, worker: bool, broken: str = "") -> None:
        self.told: list[Any] = []
        self._broken = broken
        bundle = fake_bundle(Path("/x/tiny.rfb"))

        @contextlib.contextmanager
        def open_bundle(path: Path) -> Iterator[Any]:
            self.told.append(("open", path))
            yield bundle
            self.told.append("bundle closed")

        for name, value in {
            "open_bundle": open_bundle,
            "served_model": lambda *arguments: SimpleNamespace(name="tiny", sees=False),
            "has_worker": lambda *arguments: worker,
            "make_remote": lambda *arguments: self,
            "load_chat_template": lambda of: SimpleNamespace(
                start=lambda: self.tell("template started"), close=lambda: self.tell("template closed")
            ),
            "load_tokenizer": self.load_tokenizer,
            "load_engine": self.load_engine,
            "ConstraintCompiler": lambda tokenizer: f"constraints of {tokenizer}",
            "Service": lambda **named: named,
        }.items():
            monkeypatch.setattr(serve, name, value)

    def tell(self, what: Any) -> None:
        self.told.append(what)
        if what == self._broken:
            raise DeviceError(f"no {what}")

    def start(self) -> None:
        self.tell("started")

    def wait(self) -> None:
        self.tell("waited")

    def stop(self, timeout: float) -> None:
        self.tell(("stopped", timeout))

    def load_tokenizer(self, bundle: Any) -> str:
        self.tell("tokenizer")
        return "the tokenizer"

    def load_engine(self, bundle: Any, *arguments: Any, **named: Any) -> Parts:
        self.loaded = arguments, named
        return self


def made(tracer: Any = None) -> Shared:
    return Shared(Metrics(), cast(Tracer, tracer or SimpleNamespace(observer=lambda name: f"observer of {name}")))


def test_a_model_with_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(monkeypatch, worker=True)
    model = serve.BundleModel(Path("p"), options(), made())
    begun = [("open", Path("p")), "started", "template started", "tokenizer", "waited"]
    assert parts.told == begun
    service: Any = model.service
    assert isinstance(service.pop("constraints"), DeferredConstraints)
    assert service.pop("vision") is None
    assert (service["engine"], service["tokenizer"], service["model"].name) == (parts, "the tokenizer", "tiny")
    assert service["chat_template"].close is not None
    model.stop(2.5)
    ended = [("stopped", 2.5), "template closed", ("stopped", 0.0), "bundle closed"]
    assert parts.told == begun + ended


def test_a_model_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    parts, shared = Parts(monkeypatch, worker=False), made()
    given = options(max_context=100, kv_tokens=200)
    model = serve.BundleModel(Path("p"), given, shared)
    begun = [("open", Path("p")), "template started", "tokenizer", "started"]
    assert parts.told == begun
    (engine_options, *others), named = parts.loaded
    assert engine_options == EngineOptions(given.device, 100, 200, LIMITS)
    assert others == ["the tokenizer", shared.metrics]
    assert named == {"observer": "observer of tiny", "request_ids": shared.request_ids, "draft": None}
    service: Any = model.service
    assert service["constraints"] == "constraints of the tokenizer"
    model.stop(1.0)
    assert parts.told == [*begun, ("stopped", 1.0), "template closed", "bundle closed"]


@pytest.mark.parametrize("worker", [True, False])
def test_a_model_that_does_not_load_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch, worker: bool) -> None:
    parts = Parts(monkeypatch, worker, broken="waited" if worker else "started")
    with pytest.raises(DeviceError, match="no waited" if worker else "no started"):
        serve.BundleModel(Path("p"), options(), made())
    left = ["template closed", ("stopped", 0.0)] if worker else ["template closed"]
    # What the bundle's own exit does is `open_bundle`'s; here a generator that an exception ends.
    assert parts.told[-len(left) :] == left


def test_ids_are_numbers_that_javascript_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    shared = made()
    ids = list(islice(shared.request_ids, 100))
    assert len(set(ids)) == 100
    assert all(1 <= one <= MAX_ID for one in ids)
    asked: list[int] = []

    def randbelow(below: int) -> int:
        asked.append(below)
        return 0

    monkeypatch.setattr(secrets, "randbelow", randbelow)
    assert (serve.random_id(), asked) == (1, [MAX_ID])


def test_aliases_are_held_against_the_names() -> None:
    serve.check_aliases({"x": "a", "y": "b"}, {"a", "b"})
    many = {f"m{number}" for number in range(9)}
    for aliases, names, problem in (
        ({"x": "c"}, {"b", "a"}, "--alias: expected the name of a model, a, b, found c"),
        ({"x": "c"}, many, "--alias: expected the name of a model, m0, m1, m2, m3, m4, m5, m6, m7, found c"),
        ({"b": "a"}, {"a", "b"}, "--alias: expected a name that no model has, found b"),
    ):
        with pytest.raises(UsageError) as caught:
            serve.check_aliases(aliases, names)
        assert str(caught.value) == problem


class Pool:
    """Instead of the pool: how it was made, and what was done with it."""

    last: Pool
    broken = False

    def __init__(self, models: Any, idle_seconds: float, max_loaded: int | None) -> None:
        type(self).last = self
        self.models, self.idle_seconds, self.max_loaded = models, idle_seconds, max_loaded
        self.done: list[Any] = []

    def lease(self, name: str | None) -> Any:
        self.done.append(("lease", name))
        if self.broken:
            raise DeviceError("no memory")
        return SimpleNamespace(release=lambda: self.done.append("release"))

    def close(self, timeout: float) -> None:
        self.done.append(("close", timeout))


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> type[Pool]:
    class Fresh(Pool):
        pass

    @contextlib.contextmanager
    def open_bundle(path: Path) -> Iterator[Any]:
        yield path

    monkeypatch.setattr(serve, "ModelPool", Fresh)
    monkeypatch.setattr(serve, "open_bundle", open_bundle)
    monkeypatch.setattr(serve, "served_model", lambda path, aliases: SimpleNamespace(name=path.stem, path=f"/{path}"))
    return Fresh


@pytest.mark.parametrize(
    "bundles, idle, expected",
    [
        (("a.rfb",), None, NEVER),
        (("a.rfb",), 5.0, 5.0),
        (("a.rfb", "b.rfb"), None, IDLE_SECONDS),
        (("a.rfb", "b.rfb"), 5.0, 5.0),
        (("a.rfb", "b.rfb"), 0.0, NEVER),
    ],
)
def test_models_are_put_into_a_pool_and_the_first_is_loaded(
    pool: type[Pool], bundles: tuple[str, ...], idle: float | None, expected: float
) -> None:
    given = replace(options(idle_seconds=idle, max_loaded=3), bundles=tuple(map(Path, bundles)))
    shared = made()
    found: Any = serve.make_pool(given, shared)
    assert (found.idle_seconds, found.max_loaded, found.done) == (expected, 3, [("lease", None), "release"])
    assert [card.name for card, _ in found.models] == [Path(name).stem for name in bundles]
    load = found.models[-1][1]
    assert isinstance(load, partial)
    assert (load.func, load.args) == (serve.BundleModel, (Path(bundles[-1]), given, shared))


@pytest.mark.parametrize("broken", [True, False])
def test_workers_that_nobody_needs_are_ended(pool: type[Pool], broken: bool) -> None:
    done: list[Any] = []
    worker: Any = SimpleNamespace(
        end=lambda seconds: done.append(("end", seconds)), wait_until_gone=lambda: done.append("gone")
    )
    pool.broken = broken
    shared = replace(made(), early=[worker, worker])
    with pytest.raises(DeviceError) if broken else contextlib.nullcontext():
        serve.make_pool(options(), shared)
    assert done == [("end", 0.0), "gone"] * 2
    assert pool.last.done == [("lease", None), ("close", 0.0) if broken else "release"]


def test_wrong_aliases_are_refused_before_anything_is_loaded(pool: type[Pool]) -> None:
    with pytest.raises(UsageError, match="--alias"):
        serve.make_pool(options(aliases={"x": "nobody"}), made())
    assert not hasattr(pool, "last")


@pytest.mark.parametrize("count", [1, 2])
def test_serving_from_the_first_to_the_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, count: int
) -> None:
    told: list[Any] = []
    cards = [SimpleNamespace(name=f"m{number}", path=f"/p{number}", sees=number == 1) for number in range(count)]
    served = SimpleNamespace(cards=lambda: cards, close=lambda timeout: told.append(("pool closed", timeout)))
    given = options(
        integrations=("a=http://h/v1", "ollama"),
        early="early",
        traces=TraceOptions(Sampling(0.5), 7),
        limits=HttpLimits(max_body_bytes=2, image_body_bytes=3),
        security=Security(),
    )

    def make_pool(of: ServeOptions, shared: Shared) -> Any:
        told.append(("pool", of, shared.early))
        return served

    def create_app(*arguments: Any) -> str:
        pool, metrics, limits, security, tracer, integrations = arguments
        assert isinstance(metrics, Metrics)
        assert isinstance(tracer, Tracer)
        assert tracer._options == given.traces
        monkeypatch.setattr(tracer, "close", lambda: told.append("tracer closed"))
        told.append((pool, limits, security, integrations.names()))
        return "app"

    def run_server(
        app: str, host: str, port: int, *, on_ready: Callable[[str, int], None], drain_seconds: float
    ) -> None:
        told.append((app, host, port, drain_seconds))
        on_ready("::1", 80)
        raise KeyboardInterrupt

    for name, value in {"make_pool": make_pool, "create_app": create_app, "run_server": run_server}.items():
        monkeypatch.setattr(serve, name, value)
    monkeypatch.setattr(serve, "warn_if_open", lambda *arguments: told.append(arguments))
    gc = SimpleNamespace(
        freeze=lambda: told.append("frozen"), set_threshold=lambda *figures: told.append(("collected", *figures))
    )
    monkeypatch.setattr(serve, "gc", gc)
    with caplog.at_level(logging.INFO), pytest.raises(KeyboardInterrupt):
        serve.serve_bundles(given)
    assert told == [
        ("pool", given, ["early"]),
        (served, HttpLimits(max_body_bytes=1 + count, image_body_bytes=3), given.security, ["a", "ollama"]),
        ("app", "127.0.0.1", 8000, serve.DRAIN_SECONDS),
        "frozen",
        ("collected", 700, 10, 10),
        (given.security, "::1"),
        ("pool closed", 0.0),
        "tracer closed",
    ]
    names = "/p0" if count == 1 else "m0, m1"
    assert [record.message for record in caplog.records] == [f"serving {names} on http://::1:80"]


def test_what_is_served_unless_it_is_asked_for() -> None:
    plain = ServeOptions((Path("a"),), "h", 1, DeviceOptions())
    assert (plain.traces, plain.integrations, plain.early, plain.worker) == (UNTRACED, (), None, None)
