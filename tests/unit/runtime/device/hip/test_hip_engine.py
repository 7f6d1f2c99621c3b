"""The engine on a fake GPU that fails: its requests end with an error, the next ones are served."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from rocmforge.runtime.device.hip.open_program import load_hip_program
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.engine.engine import Engine
from rocmforge.runtime.engine.generation import GenerationRequest, GenerationState, SamplingParams
from rocmforge.tests.support.engine_harness import SECONDS, CountingMetrics
from rocmforge.tests.support.fake_hip import LAUNCH_FAILURE, NO_DEVICE, OUT_OF_MEMORY, FakeHip
from rocmforge.tests.support.hip_bundle import hip_bundle
from rocmforge.tests.support.tokenizers import TINY


def wait(engine: Engine, request: GenerationRequest) -> GenerationState:
    """The state that a request ends in."""
    generation, ended = engine.submit(request), threading.Event()

    def drain() -> None:
        for _ in generation.events():
            pass
        ended.set()

    threading.Thread(target=drain, daemon=True).start()
    assert ended.wait(SECONDS)
    return generation.state()


REQUEST = GenerationRequest((5, 9), 4, SamplingParams(temperature=0.0), ignore_eos=True)


@pytest.mark.parametrize(
    ("function", "code", "name"),
    [
        ("hipMemcpyAsync", NO_DEVICE, "hipErrorNoDevice"),
        ("hipModuleLaunchKernel", LAUNCH_FAILURE, "hipErrorLaunchFailure"),
        ("hipStreamSynchronize", LAUNCH_FAILURE, "hipErrorLaunchFailure"),
        ("hipGraphLaunch", OUT_OF_MEMORY, "hipErrorOutOfMemory"),
    ],
    ids=["F77-lost", "F74-launch", "F74-kernel", "F73-memory"],
)
def test_a_failing_step_fails_its_requests_alone(tmp_path: Path, function: str, code: int, name: str) -> None:
    api = FakeHip()
    with hip_bundle(tmp_path) as bundle:
        program = load_hip_program(bundle, api, KvSize(20, 128), nodes=None)
    engine = Engine(program, TINY, 128, CountingMetrics())
    engine.start()
    assert wait(engine, REQUEST).error is None
    api.fail(function, 1, code)
    state = wait(engine, REQUEST)
    assert state.error is not None
    assert name in state.error.message
    assert "GPU 0 (gfx1100" in state.error.message
    again = wait(engine, REQUEST)
    assert again.error is None
    assert engine.stats().pages_used == 0
    engine.stop(SECONDS)
    assert api.held() == 0
