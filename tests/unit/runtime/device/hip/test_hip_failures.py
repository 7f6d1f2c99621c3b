"""A GPU that fails: no memory, failed calls, hangs, a lost device, code that is not what it should be."""

from __future__ import annotations

import dataclasses
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rocmforge.artifacts.abi import HIP_ABI_VERSION
from rocmforge.artifacts.arguments import BufferRef
from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import DeviceError
from rocmforge.artifacts.layout import LaunchEntry
from rocmforge.runtime.device.batch import RowSampling
from rocmforge.runtime.device.hip.program import STEP_SECONDS, HipProgram
from rocmforge.runtime.device.hip.select import GpuDevice
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.device.token_masks import PendingMask
from rocmforge.tests.support.fake_hip import (
    CAPTURE_UNSUPPORTED,
    INVALID_IMAGE,
    LAUNCH_FAILURE,
    NO_BINARY,
    NO_DEVICE,
    OUT_OF_MEMORY,
    FakeHip,
    code_object,
)
from rocmforge.tests.support.hip_bundle import KV, LAYOUT, batch, hip_bundle, load, refused, target


def test_F72_a_model_that_does_not_fit_is_refused_before_anything_is_taken(bundle: Bundle) -> None:
    api = FakeHip(memory_bytes=60_000)
    message = refused(api, lambda: load(bundle, api, KvSize(400, 128)))
    assert "KV cache of 6400 tokens" in message
    assert "MiB too few" in message
    assert "--kv-tokens" in message
    assert api.calls["hipMalloc"] + api.calls["hipHostMalloc"] == 0
    assert api.held() == 0


@pytest.mark.parametrize("function", ["hipMalloc", "hipHostMalloc"])
def test_F72_out_of_memory_at_each_allocation_in_turn(bundle: Bundle, function: str) -> None:
    api = FakeHip()
    load(bundle, api).close()
    count = api.calls[function]
    assert count >= 4
    for call in range(1, count + 1):
        api = FakeHip()
        api.fail(function, call, OUT_OF_MEMORY)
        message = refused(api, lambda api=api: load(bundle, api))  # type: ignore[misc]
        assert "hipErrorOutOfMemory (out of memory)" in message
        assert "bytes for the" in message
        assert f"of {1 << 30} are free" in message
        assert api.held() == 0, call


LOADING = (
    "hipGetDeviceCount",
    "hipSetDevice",
    "hipMemGetInfo",
    "hipMalloc",
    "hipHostMalloc",
    "hipMemcpyAsync",
    "hipMemsetAsync",
    "hipStreamCreateWithFlags",
    "hipStreamSynchronize",
    "hipModuleLoadData",
    "hipModuleGetFunction",
)


@pytest.mark.parametrize("function", LOADING)
def test_F77_any_call_that_fails_while_loading_leaves_nothing(bundle: Bundle, function: str) -> None:
    """Where a call's failure does not matter (one of the waits while buffers are freed), loading succeeds."""
    api = FakeHip()
    load(bundle, api)
    count, messages = api.calls[function], list[str]()
    assert count
    for call in range(1, count + 1):
        api = FakeHip()
        api.fail(function, call, LAUNCH_FAILURE)
        try:
            load(bundle, api).close()
        except DeviceError as error:
            messages.append(str(error))
        assert api.held() == 0, call
    assert all("hipErrorLaunchFailure" in message for message in messages)
    assert len(messages) >= (1 if function == "hipStreamSynchronize" else count)


def test_F73_no_memory_for_a_larger_step_fails_that_step_alone(bundle: Bundle) -> None:
    seen = np.arange(20_000, dtype=np.int32)
    large = batch(5, rows=[RowSampling(seen_tokens=seen, seen_counts=seen)])
    for function in ("hipMalloc", "hipHostMalloc"):
        api = FakeHip()
        program = load(bundle, api)
        held = api.held()
        api.fail(function, 1, OUT_OF_MEMORY)
        assert "bytes for the step" in refused(api, lambda program=program: program.step(large))  # type: ignore[misc]
        assert api.held() == held
        assert program.step(batch(7)).tolist() == [101]
        assert program.step(large).tolist() == [101]
        program.close()
        assert api.held() == 0


@pytest.mark.parametrize("new", [1, 9], ids=["captured", "launched one by one"])
def test_F74_a_failed_launch_fails_the_step_alone(bundle: Bundle, new: int) -> None:
    api = FakeHip()
    program = load(bundle, api)
    for call in (1, 3, 7):
        api.fail("hipModuleLaunchKernel", call, LAUNCH_FAILURE)
        message = refused(api, lambda: program.step(batch(20, new=new)))
        assert "launch of" in message
        assert "hipErrorLaunchFailure" in message
        assert api.graphs == {}
        assert all(stream.capturing is None for stream in api.streams.values())
    assert program.step(batch(20, new=new)).tolist() == [100 + new]
    program.close()
    assert api.held() == 0


@pytest.mark.parametrize("function", ["hipStreamBeginCapture", "hipStreamEndCapture", "hipGraphInstantiate"])
def test_F74_where_graphs_are_not_to_be_had_kernels_are_launched_one_by_one(bundle: Bundle, function: str) -> None:
    api = FakeHip()
    program = load(bundle, api)
    api.fail(function, 1, CAPTURE_UNSUPPORTED)
    for _ in range(3):
        assert program.step(batch(4)).tolist() == [101]
    assert api.calls["hipGraphLaunch"] == 0
    # Not tried again; but a capture that failed is followed by an empty one, which frees the stream.
    assert api.calls["hipStreamBeginCapture"] == 1 + (function == "hipStreamEndCapture")
    program.close()
    assert api.held() == 0


@pytest.mark.parametrize("function", ["hipGraphLaunch", "hipMemcpyAsync", "hipStreamQuery", "hipStreamSynchronize"])
def test_F74_what_a_kernel_failed_with_is_told_at_the_end_of_the_step(bundle: Bundle, function: str) -> None:
    api = FakeHip()
    program = load(bundle, api)
    program.step(batch(4))
    api.fail(function, 1, LAUNCH_FAILURE)
    if function == "hipStreamQuery":  # says only whether it is done; the wait that follows says how it went
        api.fail("hipStreamSynchronize", 1, LAUNCH_FAILURE)
    assert "hipErrorLaunchFailure (unspecified launch failure)" in refused(api, lambda: program.step(batch(4)))
    assert program.step(batch(4)).tolist() == [101]
    program.close()
    assert api.held() == 0


def hanging(bundle: Bundle) -> tuple[FakeHip, HipProgram]:
    """A GPU that hangs once its program is loaded, which waits 0.05 s for a step."""
    api, device = FakeHip(), GpuDevice(0, "x", "gfx1100", "")
    program = HipProgram(api, device, LAYOUT, bundle.map_weights(), code_object("gfx1100"), KV, None, 0.05)
    api.hangs = True
    return api, program


def test_F75_a_gpu_that_hangs_fails_the_step_and_all_after_it(bundle: Bundle) -> None:
    api, program = hanging(bundle)
    assert "did not end within 0.05 s" in refused(api, lambda: program.step(batch(4)))
    held = api.held()
    assert refused(api, lambda: program.step(batch(4))) == "GPU 0 (gfx1100, x): hangs since an earlier step"
    program.close()  # returns: the fake would not have a wait
    assert (api.held(), api.calls["hipFree"]) == (held, 0)


def test_F75_a_process_that_was_stopped_does_not_take_its_gpu_for_hung(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A query finds the step at work, then the process is stopped for an hour, and the step has long ended."""
    now = [0.0]

    class Stopped(FakeHip):
        def hipStreamQuery(self, stream: Any) -> int:
            now[0] += 3600 if self.busy == 1 else 0.001
            return super().hipStreamQuery(stream)

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    api = Stopped()
    program = load(bundle, api)
    api.busy = 3
    assert program.step(batch(4)).tolist() == [101]
    assert now[0] > STEP_SECONDS
    program.close()
    assert api.held() == 0


def test_F74_a_step_that_ends_in_the_middle_leaves_nothing_at_work(bundle: Bundle) -> None:
    """Whatever it ends with: the pinned memory that its kernels read is written anew by the next step."""

    class Torn(PendingMask):
        def wait(self) -> npt.NDArray[np.uint32]:
            raise MemoryError("no room for a mask")

    api = FakeHip()
    program = load(bundle, api)
    for new in (1, 9):  # a graph is replayed; kernels are launched one by one
        mask = Torn(Future(), -(-LAYOUT.vocab_size // 32))
        with pytest.raises(MemoryError, match="no room for a mask"):
            program.step(batch(20, new=new, rows=[RowSampling(mask=mask)]))
        assert all(not stream.queue for stream in api.streams.values())
        assert program.step(batch(20, new=new)).tolist() == [100 + new]
    program.close()
    assert api.held() == 0


def test_F75_a_launch_that_fails_on_a_gpu_that_hangs_does_not_hang_too(bundle: Bundle) -> None:
    api, program = hanging(bundle)
    api.fail("hipModuleLaunchKernel", 3, LAUNCH_FAILURE)
    assert "launch of" in refused(api, lambda: program.step(batch(20, new=9)))  # the fake would not have a wait
    assert "hangs since an earlier step" in refused(api, lambda: program.step(batch(4)))
    program.close()


def test_F77_a_lost_device_fails_each_step_and_closes(bundle: Bundle) -> None:
    api = FakeHip()
    program = load(bundle, api)
    program.step(batch(4))
    before = program.memory()
    api.lost = NO_DEVICE
    for _ in range(2):
        assert "hipErrorNoDevice" in refused(api, lambda: program.step(batch(4)))
        assert "hipErrorNoDevice" in refused(api, lambda: program.logits(1))
        assert "hipErrorNoDevice" in refused(api, lambda: program.hidden(0, 1))
    assert program.memory() == before  # /health still answers
    program.close()
    assert api.held() == 0


def test_F41_code_for_another_arch_than_its_label(tmp_path: Path) -> None:
    api = FakeHip()
    with hip_bundle(tmp_path, code=code_object("gfx1030")) as bundle:
        message = refused(api, lambda: load(bundle, api))
    assert "code/gfx1100.hsaco: expected code for gfx1100, as the manifest says, found gfx1030" in message
    assert api.held() == 0


@pytest.mark.parametrize(
    "code",
    [b"", b"\x7fELF", code_object("gfx1100")[:-1], code_object("gfx1100", machine=62), b"\0" * 4096],
    ids=["F41-empty", "F41-magic", "F41-cut", "F41-x86", "F41-zeros"],
)
def test_code_that_is_no_code_object(tmp_path: Path, code: bytes) -> None:
    api = FakeHip()
    with hip_bundle(tmp_path, code=code) as bundle:
        assert "code/gfx1100.hsaco: expected" in refused(api, lambda: load(bundle, api))
    assert api.held() == 0


@pytest.mark.parametrize(("code", "name"), [(INVALID_IMAGE, "InvalidImage"), (NO_BINARY, "NoBinaryForGpu")])
def test_F41_code_that_hip_refuses(bundle: Bundle, code: int, name: str) -> None:
    api = FakeHip()
    api.fail("hipModuleLoadData", 1, code)
    message = refused(api, lambda: load(bundle, api))
    assert "load of the code object" in message
    assert f"hipError{name}" in message
    assert api.held() == 0


def test_F41_code_without_a_kernel(bundle: Bundle) -> None:
    api = FakeHip()
    api.missing_kernels = {"rope"}
    assert "kernel rope of the code object: hipErrorNotFound" in refused(api, lambda: load(bundle, api))
    assert api.held() == 0


def test_code_of_another_abi(tmp_path: Path) -> None:
    row = dataclasses.replace(target("gfx1100"), abi=HIP_ABI_VERSION + 1)
    with hip_bundle(tmp_path, targets=[row]) as bundle:
        assert "compile the model again" in refused(FakeHip(), lambda: load(bundle, FakeHip()))


def test_a_layout_for_the_host(tmp_path: Path) -> None:
    layout = dataclasses.replace(LAYOUT, launches=(LaunchEntry("embedding", (BufferRef("logits"),)),))
    api = FakeHip()
    with hip_bundle(tmp_path, layout=layout) as bundle:
        assert "expected a grid" in refused(api, lambda: load(bundle, api))
    assert api.held() == 0


def test_a_step_beyond_the_limits(bundle: Bundle) -> None:
    api = FakeHip()
    program = load(bundle, api)
    assert "32 tokens and 8 rows" in refused(api, lambda: program.step(batch(100, new=33)))
    assert "32 tokens and 8 rows" in refused(api, lambda: program.step(batch(*range(1, 10))))
    program.close()
