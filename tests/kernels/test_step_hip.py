"""How a step comes to the GPU: its kernels' instructions, and what they do on emulated GPUs."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest

from rocmforge.artifacts.layout import GridEntry
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.plan import KernelSpec
from rocmforge.runtime.device.batch import RowSampling
from rocmforge.runtime.device.hip.step import STEP
from rocmforge.tests.kernels.hip_harness import ARCHES, STEP_NUMBER, Gpu, plan
from rocmforge.tests.kernels.kernel_harness import Step
from rocmforge.tools.emulator.code_object import CodeObject, Kernel, parse
from rocmforge.tools.emulator.decode import Decoder, Instruction, bits
from rocmforge.tools.emulator.families import family, family_name

KERNARG = 0  # the scalar register from which on a kernel finds its arguments' address: none asks for more


def specs(arch: str) -> dict[str, KernelSpec]:
    """All but those that take long to compile, and of a step read no more than how many tokens it has."""
    kernels = plan("Q4_0", arch).kernels
    return {spec.template: spec for spec in kernels if spec.template not in {"gemm", "gemv", "attention_tiled"}}


@pytest.fixture(scope="module", params=ARCHES)
def gpu(request: pytest.FixtureRequest, build_cache: BuildCache) -> Gpu:
    return Gpu(request.param, specs(request.param).values(), build_cache)


def instructions(gpu: Gpu, template: str) -> Iterator[tuple[Instruction, int]]:
    """Of a kernel, each with its first 8 bytes."""
    code: CodeObject = parse(gpu.code)
    kernel: Kernel = code.kernels[specs(gpu.api.arch)[template].symbol]
    decoder, at = Decoder(family(family_name(gpu.api.arch)), code.image), kernel.begin
    while at < kernel.end:
        found = decoder.decode(at)
        yield found, int.from_bytes(code.image[at : at + 8], "little")
        at += found.size


def is_of_system_scope(arch: str, word: int) -> bool:
    """A load that no cache of the GPU may answer.

    Source: LLVM, User Guide for AMDGPU Backend, memory models: load atomic monotonic, system.
    """
    if arch == "gfx942":
        return bits(word, 16, 16) == bits(word, 25, 25) == 1  # sc0, sc1
    if arch.startswith("gfx12"):
        return bits(word, 51, 50) == 3  # scope
    return bits(word, 14, 14) == 1  # glc


def test_the_host_is_read_by_vector_loads_of_system_scope(gpu: Gpu) -> None:
    """By `step_in`, whose scalar loads read arguments alone, and for masks by `sample`; by no other kernel."""
    for template in specs(gpu.api.arch):
        found = list(instructions(gpu, template))
        loads = [word for one, word in found if one.format == "GLOBAL" and "load" in one.name]
        of_system = sum(is_of_system_scope(gpu.api.arch, word) for word in loads)
        if template == "step_in":
            assert of_system == len(loads) > 1
            assert {one.fields["sbase"] for one, _ in found if one.format == "SMEM"} == {KERNARG}
        elif template == "sample":
            assert 0 < of_system < len(loads)
        else:
            assert of_system == 0, template


def test_no_kernel_spreads_a_workgroup_over_compute_units(gpu: Gpu) -> None:
    """gfx942's `sample` does not wait for its global stores before four barriers: right where all waves of a workgroup
    share a vector cache, which sees their accesses in order. Source: as above, GFX942, fence release, workgroup."""
    kernels = parse(gpu.code).kernels
    assert len(kernels) == len(specs(gpu.api.arch))
    if gpu.api.arch == "gfx942":
        assert not any(kernel.rsrc3 >> 16 & 1 for kernel in kernels.values())  # TG_SPLIT


@pytest.mark.parametrize("n_bytes", [88, 96, 8192, 32768, 32776, 100_000])
def test_step_in_copies_the_image_and_nothing_more(gpu: Gpu, n_bytes: int) -> None:
    image = np.random.default_rng(n_bytes).integers(0, 256, n_bytes + 64, np.uint8)
    image[: STEP.itemsize].view(STEP)["n_bytes"] = n_bytes
    goal, held = np.full(n_bytes + 64, 0xEE, np.uint8), list[ctypes.c_void_p]()
    address = gpu.pinned(image, held)
    gpu.run_at(specs(gpu.api.arch)["step_in"], GridEntry(1024, 1), goal, address)
    assert np.array_equal(goal[:n_bytes], image[:n_bytes])
    assert (goal[n_bytes:] == 0xEE).all()
    gpu.free(held)


def test_step_echo_tells_the_number(gpu: Gpu) -> None:
    held = list[ctypes.c_void_p]()
    address = gpu.pinned(np.zeros(1, np.uint64), held)
    step = np.zeros(1, STEP)
    step["number"] = STEP_NUMBER
    gpu.run_at(specs(gpu.api.arch)["step_echo"], GridEntry(64, 1), step, address)
    assert ctypes.c_uint64.from_address(address).value == STEP_NUMBER
    gpu.free(held)


def test_F133_the_emulator_traps_scalar_loads_of_what_the_host_has_just_written(gpu: Gpu) -> None:
    """The kernels of every emulated test are held to it: see tools/emulator/README.md."""
    api, kernel = gpu.api, specs(gpu.api.arch)["step_echo"]
    held, stream = list[ctypes.c_void_p](), ctypes.c_void_p()
    assert api.hipStreamCreateWithFlags(ctypes.byref(stream), 1) == 0
    echo = gpu.pinned(np.zeros(1, np.uint64), held)
    pinned = gpu.pinned(np.zeros(1, STEP), held)
    device = ctypes.c_void_p()
    assert api.hipMalloc(ctypes.byref(device), STEP.itemsize) == 0
    assert api.hipMemcpyAsync(device, pinned, STEP.itemsize, 1, stream) == 0
    assert gpu.launch_at(kernel, GridEntry(64, 1), device.value or 0, echo, stream) == 719
    assert api.fault is not None
    assert api.fault.kind == "fresh"
    assert "which the host has just written" in api.fault.message
    api.hipDeviceReset()
    assert gpu.launch_at(kernel, GridEntry(64, 1), pinned, echo, stream) == 719  # pinned memory always is
    api.hipDeviceReset()
    assert api.hipStreamSynchronize(stream) == 0
    assert gpu.launch_at(kernel, GridEntry(64, 1), device.value or 0, echo, stream) == 0
    gpu.free([*held, device])


def test_a_masked_row_is_drawn_from_the_mask_that_the_host_wrote(gpu: Gpu) -> None:
    """The kernel's own copy of it is used, which holds a pattern before: 64 tokens, of which one is allowed."""
    logits = np.random.default_rng(1).normal(size=(2, 64)).astype(np.float32)
    masks = [np.array([0, 1 << 5], np.uint32), np.array([1 << 9, 0], np.uint32)]
    rows = Step(0, logits_rows=range(2))
    kernel = specs(gpu.api.arch)["sample"]
    drawn = gpu.run(kernel, GridEntry(512, 1, "logits"), rows, logits, sampling=[RowSampling()] * 2, masks=masks)
    assert drawn.tolist() == [37, 9]
