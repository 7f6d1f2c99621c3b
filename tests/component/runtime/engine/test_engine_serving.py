"""`rfc serve`'s engine: its options, and the program that it loads again after the device failed."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import DeviceError
from rocmforge.cli import main
from rocmforge.runtime import serve as serve_module
from rocmforge.runtime.device.batch import Batch, DeviceFacts, Int32, Program
from rocmforge.runtime.device.host import HostProgram
from rocmforge.runtime.device.load import DeviceOptions, Report, load_program
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.engine import loading
from rocmforge.runtime.engine import recovery as recovery_module
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.generation import SamplingParams
from rocmforge.runtime.engine.loading import EngineOptions, load_engine
from rocmforge.runtime.serve import ServeOptions
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.engine_harness import SECONDS, ScriptedProgram, ended, request, wait_until

OPTIONS = EngineOptions(DeviceOptions("auto", 1, None), kv_tokens=512)


def test_F77_the_model_is_loaded_again_on_the_same_device(
    bundle: Bundle, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[tuple[str, KvSize]] = []
    step = HostProgram.step
    lost = False

    def load(of: Bundle, device: DeviceOptions, size: KvSize, report: Report) -> Program:
        loaded.append((device.device, size))
        return load_program(of, device, size, report)

    def fail_once(program: HostProgram, batch: Batch) -> Int32:
        nonlocal lost
        if lost:
            lost = False
            raise DeviceError("gone")
        return step(program, batch)

    monkeypatch.setattr(loading, "load_program", load)
    monkeypatch.setattr(HostProgram, "step", fail_once)
    monkeypatch.setattr(recovery_module, "REBUILD_SECONDS", (0.02,))
    engine = load_engine(bundle, OPTIONS, tokenizer, Metrics())
    engine.start()
    try:
        one = request(20, 10, sampling=SamplingParams(0.0), ignore_eos=True)
        expected = ended(engine.submit(one))
        lost = True
        assert str(ended(engine.submit(one)).error) == "gone"
        wait_until(lambda: engine.stats().running)
        assert ended(engine.submit(one)).tokens == expected.tokens
    finally:
        engine.stop(SECONDS)
    size = KvSize(32, bundle.layout.max_seq_len)
    assert loaded == [("auto", size), ("host", size)]


def test_a_lost_gpu_is_not_replaced_by_the_cpu(
    bundle: Bundle, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Gpu(ScriptedProgram):
        def facts(self) -> DeviceFacts:
            return DeviceFacts("HIP 6.4")

    def load(of: Bundle, device: DeviceOptions, size: KvSize, report: Report) -> Program:
        asked.append(device.device)
        if len(asked) > 1:
            raise DeviceError("no device")
        return Gpu(fail)

    def fail(batch: Batch) -> list[int]:
        raise DeviceError("gone")

    monkeypatch.setattr(loading, "load_program", load)
    monkeypatch.setattr(recovery_module, "REBUILD_SECONDS", (0.02,))
    engine = load_engine(bundle, OPTIONS, tokenizer, Metrics())
    engine.start()
    try:
        assert str(ended(engine.submit(request())).error) == "gone"
        wait_until(lambda: len(asked) > 3)
        assert not engine.stats().device_available
    finally:
        engine.stop(SECONDS)
    assert asked[0] == "auto"
    assert set(asked[1:]) == {"hip"}


def test_options_of_the_command_line_reach_the_engine(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[ServeOptions] = []
    monkeypatch.setattr(serve_module, "serve_bundles", served.append)
    given = [
        "--max-queue",
        "7",
        "--queue-seconds",
        "1.5",
        "--step-seconds",
        "9",
        "--prefill-tokens",
        "33",
        "--speculate",
        "7",
    ]
    for arguments in ([], given):
        with pytest.raises(SystemExit) as ended_with:
            main.main(["serve", str(bundle.path), *arguments])
        assert ended_with.value.code == 0
    assert [one.engine_limits for one in served] == [EngineLimits(), EngineLimits(7, 1.5, 9.0, 33, 7)]
    assert {one.bundles for one in served} == {(Path(bundle.path),)}


def test_F70_figures_where_no_descriptor_is_left(bundle: Bundle, tokenizer: Tokenizer) -> None:
    """This machine says in a file what memory it has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    engine = load_engine(bundle, OPTIONS, tokenizer, Metrics())
    engine.start()
    try:
        assert engine.stats().memory_total_bytes > 0
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        stats = engine.stats()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        engine.stop(0)
    assert (stats.running, stats.memory_free_bytes, stats.memory_total_bytes) == (True, 0, 0)
