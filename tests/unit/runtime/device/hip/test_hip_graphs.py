"""Graphs that go wrong as on real stacks: a step read stale, pointers of another capture, memory that is gone."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import DeviceError, RocmforgeError
from rocmforge.artifacts.layout import LaunchEntry
from rocmforge.runtime.device.batch import RowSampling
from rocmforge.runtime.device.hip.capacity import reserved_bytes
from rocmforge.runtime.device.hip.program import HipProgram
from rocmforge.runtime.device.load import DeviceOptions, load_program, load_target
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.engine.engine import Engine
from rocmforge.runtime.engine.generation import GenerationRequest, SamplingParams
from rocmforge.runtime.http.native.health import _checks
from rocmforge.runtime.telemetry.metrics import Metrics
from rocmforge.tests.support.engine_harness import SECONDS, CountingMetrics, ended
from rocmforge.tests.support.fake_hip import CAPTURE_INVALIDATED, CAPTURE_UNSUPPORTED, LAUNCH_FAILURE, FakeHip
from rocmforge.tests.support.hip_bundle import LAYOUT, batch, hip_bundle
from rocmforge.tests.support.tokenizers import TINY

KV = KvSize(20, 128)


def load(bundle: Bundle, api: FakeHip, graphs: str = "auto", kv: KvSize = KV) -> HipProgram:
    """As `rfc serve` does: graphs have been tried."""
    options = DeviceOptions("hip", 1, None, lambda: api, Path("/nonexistent"), graphs)
    program = load_program(bundle, options, kv)
    assert isinstance(program, HipProgram)
    return program


def tokens(program: HipProgram, *contexts: int) -> list[int]:
    return [int(token) for token in program.step(batch(*contexts))]


def test_F133_a_step_comes_by_a_kernel_and_no_copy(bundle: Bundle) -> None:
    """The fake's kernel takes it from coherent pinned memory alone; a graph has that kernel first and the echo last."""
    api = FakeHip()
    program = load(bundle, api)
    before = api.copies_to_device
    api.launched.clear()
    assert tokens(program, 5) == tokens(program, 6) == [101]
    masked = dataclasses.replace(batch(7), sampling=[RowSampling(mask=np.full(2, 3, np.uint32))])
    program.step(masked)
    program.step(batch(20, new=9))  # launched kernel by kernel
    assert api.copies_to_device == before
    names = [item.kernel for item in api.launched]
    assert names.count("step_in") == names.count("step_echo") == 4
    for start in (index for index, name in enumerate(names) if name == "step_in"):
        step = names[start : names.index("sample", start) + 1]
        assert (step[0], step[1], step[-2], step[-1]) == ("step_in", "embedding", "step_echo", "sample")
    program.close()
    assert api.held() == 0


@pytest.mark.parametrize("stale", ["step", "old", "pointers"], ids="F134-{}".format)
def test_graphs_that_go_wrong_are_found_at_load(bundle: Bundle, stale: str, caplog: pytest.LogCaptureFixture) -> None:
    api = FakeHip()
    api.stale = stale
    with caplog.at_level(logging.WARNING):
        program = load(bundle, api)
    assert "a replayed step differs from the same one launched kernel by kernel; kernels are launched" in caplog.text
    assert program.facts().graphs == "off: a replayed step differs from the same one launched kernel by kernel"
    replays = api.calls["hipGraphLaunch"]
    assert tokens(program, 9) == [101]
    assert tokens(program, 9, 4) == [101, 102]
    assert api.calls["hipGraphLaunch"] == replays
    assert program.facts().graph_mismatches == 0
    program.close()
    assert api.held() == 0
    api = FakeHip()
    api.stale = stale
    with pytest.raises(DeviceError, match=r"GPU 0 .*: --gpu-graphs on: a replayed step differs") as caught:
        load(bundle, api, "on")
    assert caught.value.exit_code == 4
    assert api.held() == 0


def test_sound_graphs_are_used_and_none_where_they_are_off(bundle: Bundle) -> None:
    for mode, state in (("auto", "on"), ("on", "on"), ("off", "off: --gpu-graphs off")):
        api = FakeHip()
        program = load(bundle, api, mode)
        tried = api.calls["hipGraphLaunch"]
        assert bool(tried) == (mode != "off")
        assert tokens(program, 9) == [101]
        assert (api.calls["hipGraphLaunch"] > tried) == (mode != "off")
        assert program.facts().graphs == state
        assert program.facts().runtime == "HIP 7.2"
        if mode == "off":
            assert api.calls["hipStreamBeginCapture"] == 0
        program.close()
        assert api.held() == 0


def test_graphs_are_tried_where_verify_runs_them_and_on_the_emulator_where_it_is_asked(bundle: Bundle) -> None:
    api = FakeHip()
    api.stale = "pointers"
    for device, graphs, problem in (
        ("hip", "auto", ""),
        ("emulated", "on", "--gpu-graphs on"),
        ("emulated", "auto", None),
    ):
        options = DeviceOptions(device, 1, lambda arch: api, lambda: api, Path("/nonexistent"), graphs)
        if problem:
            with pytest.raises(DeviceError, match=problem):
                load_target(bundle, bundle.manifest.targets[0], options, KV)
            continue
        program = load_target(bundle, bundle.manifest.targets[0], options, KV)
        assert program is not None
        assert program.facts().graphs.startswith("off") == (problem is not None)
        program.close()
    assert api.held() == 0


def test_F134_a_replay_that_fails_at_load_costs_graphs_alone(bundle: Bundle) -> None:
    api = FakeHip()
    api.fail("hipGraphLaunch", 2, LAUNCH_FAILURE)
    program = load(bundle, api)
    assert program.facts().graphs.startswith("off: launch of a step's graph: hipErrorLaunchFailure")
    assert tokens(program, 9) == [101]
    program.close()
    api.fail("hipGraphLaunch", 2, LAUNCH_FAILURE)
    with pytest.raises(DeviceError, match="--gpu-graphs on: launch of a step's graph: hipErrorLaunchFailure"):
        load(bundle, api, "on")
    api.fail("hipGraphLaunch", 2, LAUNCH_FAILURE)
    api.fail("hipStreamSynchronize", 14, LAUNCH_FAILURE)  # in a step launched kernel by kernel
    with pytest.raises(DeviceError, match=r"^GPU 0 .*hipErrorLaunchFailure"):
        load(bundle, api)
    assert api.held() == 0


def test_F134_a_capture_that_comes_to_nothing_costs_graphs_alone(bundle: Bundle) -> None:
    """HIP 6.4 and 7.2 take no work on its stream until another capture has ended well."""
    api = FakeHip()
    api.fail("hipStreamEndCapture", 1, CAPTURE_INVALIDATED)
    program = load(bundle, api)
    assert program.facts().graphs.startswith("off: capture of a graph: hipErrorStreamCaptureInvalidated")
    assert [tokens(program, 9) for _ in range(2)] == [[101]] * 2
    program.close()
    assert api.held() == 0


def test_on_is_an_error_where_there_are_no_graphs(bundle: Bundle) -> None:
    api = FakeHip()
    api.fail("hipGraphInstantiate", 1, CAPTURE_UNSUPPORTED)
    with pytest.raises(DeviceError, match="--gpu-graphs on: making of a graph: hipErrorStreamCaptureUnsupported"):
        load(bundle, api, "on")
    assert api.held() == 0


def test_F135_a_graph_that_runs_the_step_before_is_the_last_one(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    api = FakeHip()
    program = load(bundle, api)
    assert tokens(program, 9) == [101]
    other = dataclasses.replace(batch(9), token_ids=np.array([40], np.int32))
    api.stale = "step"
    with caplog.at_level(logging.WARNING):
        assert program.step(other).tolist() == [41]
    assert "a graph ran step" in caplog.text
    facts = program.facts()
    assert facts.graphs.startswith("off: a graph ran step")
    assert facts.graph_mismatches == 1
    replays = api.calls["hipGraphLaunch"]
    assert tokens(program, 3) == [101]
    assert program.step(other).tolist() == [41]
    assert (api.calls["hipGraphLaunch"], program.facts().graph_mismatches) == (replays, 1)
    program.close()
    assert api.held() == 0


def test_F135_a_graph_that_runs_an_old_step_fails_this_one_alone(bundle: Bundle) -> None:
    """What it wrote to the KV cache may lie in pages of others: nothing of the cache is trusted then."""
    api = FakeHip()
    program = load(bundle, api)
    api.stale = "old"
    with pytest.raises(RocmforgeError, match=r"a graph ran step 1 instead of \d+: the KV cache is spoiled") as caught:
        tokens(program, 9)
    assert not isinstance(caught.value, DeviceError)  # for which the engine would load all anew, graphs included
    assert tokens(program, 9) == [101]
    assert program.facts().graph_mismatches == 1
    program.close()


def test_kernels_that_see_no_step_fail_it(bundle: Bundle) -> None:
    api = FakeHip()
    program = load(bundle, api, "off")
    api.stale = "deaf"
    with pytest.raises(DeviceError, match=r"the kernels ran step 0 instead of 1"):
        tokens(program, 9)
    program.close()
    with hip_bundle_without_echo(bundle.path.parent / "other") as other, pytest.raises(DeviceError, match="ran step 0"):
        load(other, FakeHip())


def hip_bundle_without_echo(folder: Path) -> Bundle:
    folder.mkdir()
    launches = tuple(entry for entry in LAYOUT.launches if entry.kernel != "step_echo")
    assert all(isinstance(entry, LaunchEntry) for entry in launches)
    return hip_bundle(folder, layout=dataclasses.replace(LAYOUT, launches=launches))


def test_F135_requests_notice_nothing_and_people_are_told(bundle: Bundle) -> None:
    def run(stale: str) -> tuple[tuple[int, ...], Engine]:
        api = FakeHip()
        program = load(bundle, api)
        api.stale, api.sound_replays = stale, api.calls["hipGraphLaunch"] + 3
        engine = Engine(program, TINY, 128, CountingMetrics())
        engine.start()
        state = ended(engine.submit(request))
        assert state.error is None
        return state.tokens, engine

    request = GenerationRequest((5, 9), 16, SamplingParams(temperature=0.0), ignore_eos=True)
    expected, sound = run("")
    found, engine = run("step")
    assert found == expected == tuple(range(10, 26))
    stats = engine.stats()
    assert stats.graph_mismatches == 1
    gpu = _checks(stats)["gpu"]
    assert isinstance(gpu, dict)
    assert gpu["runtime"] == "HIP 7.2"
    assert str(gpu["graphs"]).startswith("off: a graph ran step")
    assert gpu["graph_mismatches"] == 1
    scrape = Metrics().render(stats).decode()
    assert "\nrocmforge_gpu_graphs 0\n" in scrape
    assert "\nrocmforge_gpu_graph_mismatches 1\n" in scrape
    assert "\nrocmforge_gpu_graphs 1\n" in Metrics().render(sound.stats()).decode()
    for one in (sound, engine):
        one.stop(SECONDS)


def test_F136_what_graphs_take_is_not_given_to_the_kv_cache(bundle: Bundle) -> None:
    """Five of them, for 1, 2, 4, 6 and 8 sequences (see test_hip_program.py), a MiB each."""
    api = FakeHip(memory_bytes=(1 << 30) + (6 << 20))
    api.graph_bytes = 1 << 20
    program = load(bundle, api, kv=KvSize(None, 128))
    assert 8 <= program.num_blocks == 64  # all that is of use
    small = FakeHip(memory_bytes=(1 << 30) + (5 << 20) + (100 << 10))
    small.graph_bytes = 1 << 20
    second = load(bundle, small, kv=KvSize(None, 128))
    assert 8 <= second.num_blocks < 64
    for count in range(1, 9):
        second.step(batch(*[5] * count))
    assert len(small.executables) == 5
    assert 0 <= small.memory_bytes - small.used() - (1 << 30) < LAYOUT.kv.bytes_per_block
    for one in (program, second):
        one.close()


def test_F136_memory_left_free() -> None:
    assert [reserved_bytes(total << 30) >> 20 for total in (1, 8, 24, 25, 192)] == [1024, 1024, 1024, 1024, 7864]


def test_F136_a_small_card_serves_one_context_and_says_what_is_left(
    bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    program = load(bundle, FakeHip(memory_bytes=1 << 29), kv=KvSize(None, 128))
    assert program.num_blocks == 8
    assert (
        "512 MiB of its memory stay free, HIP may need 1024; --kv-tokens or --max-context ask for less" in caplog.text
    )
    assert tokens(program, 9) == [101]
    program.close()
