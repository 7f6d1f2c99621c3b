"""A program on a fake GPU: what is uploaded and launched, and that each fault is one clear error and no leak."""

from __future__ import annotations

import ctypes
import dataclasses
import logging
import math
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rocmforge.artifacts.abi import HIP_ABI_VERSION
from rocmforge.artifacts.arguments import Argument, BufferRef, KvHalf, KvRef, StepRef, TensorRef
from rocmforge.artifacts.bundle import Bundle, MappedWeights
from rocmforge.artifacts.errors import BundleError, DeviceError
from rocmforge.artifacts.layout import LaunchEntry
from rocmforge.runtime.device.batch import RowSampling
from rocmforge.runtime.device.hip import memory as hip_memory
from rocmforge.runtime.device.hip.program import (
    RESERVED_BYTES,
    HipProgram,
    check_fit,
    fitting_blocks,
    load_hip_program,
    reserved_bytes,
)
from rocmforge.runtime.device.hip.select import DEVICE_VARIABLE, GpuDevice
from rocmforge.runtime.device.hip.step import SAMPLING, STEP, StepMemory
from rocmforge.runtime.device.memory import KvSize
from rocmforge.tests.support.fake_hip import (
    CAPTURE_UNSUPPORTED,
    INVALID_IMAGE,
    LAUNCH_FAILURE,
    NO_BINARY,
    NO_DEVICE,
    OUT_OF_MEMORY,
    Device,
    FakeHip,
    Launched,
    code_object,
    through_c,
)
from rocmforge.tests.support.hip_bundle import BLOCKS, KV, LAYOUT, WEIGHTS, batch, hip_bundle, load, target

GPU_0 = "GPU 0 (gfx1100, AMD Radeon RX 7900 XTX)"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    with hip_bundle(tmp_path_factory.mktemp("hip")) as opened:
        yield opened


def grids(launched: list[Launched]) -> dict[str, tuple[int, int, int]]:
    found = {item.kernel: item.grid for item in launched}
    assert len(found) == len(launched)
    return found


def refused(api: FakeHip, act: Callable[[], object]) -> str:
    """The one line with which it fails."""
    with pytest.raises(DeviceError) as caught:
        act()
    assert caught.value.exit_code == 4
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_memory_is_known_by_what_it_is_for(bundle: Bundle) -> None:
    api = FakeHip()
    found = load(bundle, api).allocations()
    assert {"weights", "KV cache"} <= set(found)
    assert len(set(found.values())) == len(found)


def test_memory_is_as_large_as_it_has_to_be(bundle: Bundle) -> None:
    """The arena: 64 floats a token and 3, then 8 rows of 48, each in whole pieces of 256 bytes."""
    api = FakeHip()
    program = load(bundle, api)
    sizes = {what: api.device_blocks[address].size for what, address in program.allocations().items()}
    arena = -(-4 * (64 * 32 + 3) // 256) * 256 + 4 * 8 * 48
    weights = 4 * 48 * 64 + 256 + 4096
    kv = BLOCKS * LAYOUT.kv.bytes_per_block
    assert sizes == {"arena": arena, "sampled tokens": 32, "step": 65536, "weights": weights, "KV cache": kv}
    assert sorted(block.size for block in api.pinned_blocks.values()) == [32, 64, 65536]
    assert api.held() == len(sizes) + 3 + 1 + 1  # a stream and a module
    program.close()
    unloads = api.calls["hipModuleUnload"], api.calls["hipStreamDestroy"]
    program.close()  # harmless
    assert (api.held(), (api.calls["hipModuleUnload"], api.calls["hipStreamDestroy"])) == (0, unloads)


def test_weights_that_have_changed_while_they_were_uploaded(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeHip()

    def check(weights: MappedWeights) -> None:
        if api.calls["hipMemcpyAsync"]:
            raise BundleError(bundle.path, "weights.bin", "changed")

    monkeypatch.setattr(MappedWeights, "check", check)
    with pytest.raises(BundleError, match="changed"):
        load(bundle, api)
    assert api.held() == 0


def test_a_load_that_fails_at_its_very_end(bundle: Bundle) -> None:
    api = FakeHip()
    load(bundle, api)
    count = api.calls["hipStreamSynchronize"]
    api = FakeHip()
    api.fail("hipStreamSynchronize", count, LAUNCH_FAILURE)
    message = refused(api, lambda: load(bundle, api))
    assert message == f"{GPU_0}: load: hipErrorLaunchFailure (unspecified launch failure)"
    assert api.held() == 0


@pytest.mark.parametrize("missing", [0, 1])
def test_little_memory_that_is_left_is_told(bundle: Bundle, missing: int, caplog: pytest.LogCaptureFixture) -> None:
    api = FakeHip(memory_bytes=2 << 30)
    load(bundle, api)
    api = FakeHip(memory_bytes=RESERVED_BYTES + api.used() - missing)
    with caplog.at_level(logging.WARNING):
        program = load(bundle, api)
    said = "1024 MiB of its memory stay free, HIP may need 1024; --kv-tokens or --max-context ask for less"
    assert [record.getMessage() for record in caplog.records] == [f"{GPU_0}: {said}"] * missing
    assert program.memory() == (RESERVED_BYTES - missing, api.memory_bytes)


def test_what_is_left_free() -> None:
    """A gibibyte, and of more than 25 one part in 25."""
    gib = 1 << 30
    expected = {0: gib, gib: gib, 25 * gib: gib, 25 * gib + 24: gib, 25 * gib + 25: gib + 1, 100 * gib: 4 * gib}
    assert {total: reserved_bytes(total) for total in expected} == expected


def test_blocks_that_fit() -> None:
    """One context in any case, and no more than all sequences have use for."""
    each, gib = LAYOUT.kv.bytes_per_block, 1 << 30
    for context, free, expected in (
        (128, gib + 20 * each, 20),
        (128, gib + 21 * each - 1, 20),
        (128, gib + 7 * each, 8),
        (128, 0, 8),
        (128, gib + 64 * each, 64),
        (128, gib + 65 * each, 64),
        (17, gib + 900 * each, 2 * 8),
        (16, gib + 900 * each, 8),
    ):
        assert fitting_blocks(LAYOUT, KvSize(None, context), free, gib) == expected, (context, free)


@pytest.mark.parametrize(("size", "tokens"), [(KvSize(20, 128), 320), (KvSize(None, 128), 128), (KvSize(None, 17), 32)])
def test_all_has_to_fit_before_anything_is_taken(size: KvSize, tokens: int) -> None:
    weights, arena = 4 * 48 * 64 + 256 + 4096, 8448 + 4 * 8 * 48
    needed = weights + arena + tokens // 16 * LAYOUT.kv.bytes_per_block
    check_fit(LAYOUT, size, needed, 1 << 30, "GPU 5")
    with pytest.raises(DeviceError) as caught:
        check_fit(LAYOUT, size, needed - 1, 1 << 30, "GPU 5")
    assert str(caught.value) == (
        f"GPU 5: weights of 1 MiB, an arena of 1 MiB and a KV cache of {tokens} tokens (1 MiB) need 1 MiB; "
        "1 of 1024 MiB are free, 1 MiB too few; --kv-tokens or --max-context ask for less"
    )
    with pytest.raises(DeviceError, match=r"need 1 MiB; 0 of 2 MiB are free, 1 MiB too few"):
        check_fit(LAYOUT, size, 0, (1 << 20) + 1, "GPU 5")


def test_what_is_told_of_a_load(bundle: Bundle) -> None:
    said: list[str] = []
    program = load_hip_program(bundle, FakeHip(), KV, nodes=None, report=said.append)
    assert said == [f"{GPU_0}: HIP 7.2, code for gfx1100, KV cache of 320 tokens"]
    program.close()


def test_the_largest_step_there_may_be(bundle: Bundle) -> None:
    api = FakeHip()
    program = load(bundle, api)
    assert program.step(batch(100, new=32)).tolist() == [132]
    assert program.step(batch(*range(4, 12), new=4)).tolist() == list(range(104, 133, 4))
    program.close()


def test_every_launch_is_of_the_chosen_gpu(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """HIP's current device is that of a thread, and steps may come from any."""
    api = FakeHip(Device("gfx1030"), Device("gfx1100"))
    program, launch, seen = load(bundle, api), api.hipModuleLaunchKernel, set[int]()

    def noted(*arguments: Any) -> int:
        seen.add(api._current())
        return launch(*arguments)

    monkeypatch.setattr(api, "hipModuleLaunchKernel", noted)
    for act in (lambda: program.step(batch(1)), program.try_graphs, lambda: program.logits(1), program.close):
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()
    assert seen == {1}
    assert api.held() == 0


def test_the_mask_of_a_row_is_where_the_kernel_fetches_it(bundle: Bundle) -> None:
    api = FakeHip()
    program = load(bundle, api)
    mask = np.array([3, 7], np.uint32)
    program.step(batch(1, rows=[RowSampling(mask=mask)]))
    step = np.frombuffer(api.read(api.launched[0].arguments[0], STEP.itemsize), STEP)[0]
    record = np.frombuffer(api.read(int(step["sampling"]), SAMPLING.itemsize), SAMPLING)[0]
    assert api.read(int(record["mask"]), 8) == mask.tobytes()
    program.close()


def test_a_trial_of_graphs_that_fails(bundle: Bundle) -> None:
    api = FakeHip()
    program = load(bundle, api)
    api.fail("hipMemcpyAsync", 1, LAUNCH_FAILURE)
    message = refused(api, program.try_graphs)
    assert message == f"{GPU_0}: download of the sampled tokens: hipErrorLaunchFailure (unspecified launch failure)"
    program.try_graphs()
    assert program.facts().graphs == "on"
    program.close()


class Spoiling(FakeHip):
    """Kernels go wrong with the first replay, and stay so."""

    def _goes(self, wrong: str) -> bool:
        return wrong == "pointers" and self.calls["hipGraphLaunch"] > 0


def test_kernels_that_differ_after_a_replay(bundle: Bundle) -> None:
    api = Spoiling()
    program = load(bundle, api)
    problem = "a replayed step differs from the same one launched kernel by kernel, and then kernels differ too"
    assert refused(api, program.try_graphs) == f"{GPU_0}: {problem}"
    program.close()


HALVES: tuple[KvHalf, KvHalf] = ("key", "value")


@pytest.mark.parametrize("layers", [2, 3])
def test_keys_and_values_of_a_layer_lie_one_after_the_other(tmp_path: Path, layers: int) -> None:
    """In the order of the layers: each half of one holds its part of all pages."""
    names = [KvRef(layer, half) for layer in range(layers) for half in HALVES]
    rope: dict[str, tuple[Argument, ...]] = {"rope": (TensorRef("table"), *names)}
    launches = tuple(dataclasses.replace(one, arguments=rope.get(one.kernel, one.arguments)) for one in LAYOUT.launches)
    kv = dataclasses.replace(LAYOUT.kv, num_layers=layers)
    layout = dataclasses.replace(LAYOUT, kv=kv, launches=launches)
    api = FakeHip()
    with hip_bundle(tmp_path, layout=layout) as opened:
        program = load(opened, api)
        program.step(batch(1))
        program.close()
    _, _, *places = next(item.arguments for item in api.launched if item.kernel == "rope")
    half = BLOCKS * layout.kv.bytes_per_block // (2 * layers)
    assert half == BLOCKS * 16 * 8 * 2  # tokens of a page, elements of a head, bytes of f16
    assert [place - places[0] for place in places[: 2 * layers]] == [half * n for n in range(2 * layers)]


def test_the_gpu_that_the_environment_names(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE_VARIABLE, "7")
    assert "7" in refused(FakeHip(), lambda: load(bundle, FakeHip()))
    load_hip_program(bundle, FakeHip(), KV, device="0", nodes=None).close()


def test_weights_arrive_whole_and_nothing_else(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hip_memory, "STAGING_BYTES", 1000)  # many pieces, the last ones short
    api, seen = FakeHip(), list[tuple[int, int]]()
    program = load_hip_program(bundle, api, KV, nodes=None, progress=lambda *done: seen.append(done))
    batch_of_one = batch(1, new=1)
    program.step(batch_of_one)
    arguments = {item.kernel: item.arguments for item in api.launched}
    for kernel, tensor in zip(("embedding", "gemv_2", "rope"), LAYOUT.tensors, strict=True):
        expected = WEIGHTS[tensor.offset : tensor.offset + tensor.n_bytes]
        assert api.read(arguments[kernel][1], tensor.n_bytes) == expected
        assert arguments[kernel][1] % 256 == 0
    total = sum(tensor.n_bytes for tensor in LAYOUT.tensors)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    program.close()
    assert api.held() == 0


def test_arguments_point_at_what_they_name(bundle: Bundle) -> None:
    api = FakeHip()
    program = load(bundle, api)
    program.step(batch(1))
    by_name = {item.kernel: item.arguments for item in api.launched}
    hidden, logits = by_name["embedding"][2], by_name["sample"][1]
    half_layer = BLOCKS * 16 * 8 * 2  # positions x head_dim x bytes, one kv head
    key = by_name["split"][1]
    assert by_name["split"][2] - key == half_layer
    assert [by_name["rope"][i] - key for i in (2, 3)] == [2 * half_layer, 3 * half_layer]
    assert by_name["gemv_2"][2:] == (0, hidden, 0, 0, 0, 0, 0)
    assert by_name["norm"][1] == hidden
    assert logits - hidden >= 4 * (64 * 32 + 3)
    assert api.read(key, 4 * half_layer) == bytes(4 * half_layer)  # pages are zero before they are written
    assert len({item.arguments[0] for item in api.launched}) == 1
    program.close()


def test_a_step_is_in_memory_as_kernels_read_it(bundle: Bundle) -> None:
    api = FakeHip()
    program = load(bundle, api)
    seen = np.array([5, 7, 9], np.int32), np.array([1, 0, 2], np.int32)
    rows = [RowSampling(temperature=0.5, top_k=3, seed=2**64 - 1, counter=6), RowSampling(0.25, top_p=0.5, min_p=0.125)]
    rows[1] = dataclasses.replace(rows[1], repetition_penalty=1.5, presence_penalty=2.5, frequency_penalty=3.5)
    rows[1] = dataclasses.replace(rows[1], seen_tokens=seen[0], seen_counts=seen[1])
    sent = batch(9, 12, new=3, rows=rows)
    sampled = program.step(sent)
    assert sampled.tolist() == [103, 106]
    step = np.frombuffer(api.read(api.launched[0].arguments[0], STEP.itemsize), STEP)[0]
    assert [int(step[name]) for name in ("num_tokens", "num_logits", "blocks_per_row")] == [6, 2, 8]
    for name in ("token_ids", "positions", "rows", "block_table", "logits_rows"):
        array = getattr(sent, name)
        assert api.read(int(step[name]), array.nbytes) == array.tobytes(), name
        assert int(step[name]) % 16 == 0
    first, second = np.frombuffer(api.read(int(step["sampling"]), 2 * SAMPLING.itemsize), SAMPLING)
    assert first.tolist() == (0.5, 1.0, 0.0, 3, 1.0, 0.0, 0.0, 0, 0, 0, 2**64 - 1, 6, 0, 0, 1.0, 0, 0, 0, 0)
    assert second.tolist()[:8] == (0.25, 0.5, 0.125, 0, 1.5, 2.5, 3.5, 3)
    for name, array in zip(("seen_tokens", "seen_counts"), seen, strict=True):
        assert api.read(int(second[name]), array.nbytes) == array.tobytes()
    program.close()


def test_grids_of_a_prefill(bundle: Bundle) -> None:
    """13 tokens that end at position 100, one row of logits: tiles of 16 and 8, no split, no GEMV."""
    api = FakeHip()
    program = load(bundle, api)
    program.step(batch(100, new=13))
    assert grids(api.launched) == {
        "step_in": (1, 1, 1),
        "embedding": (1, 13, 1),
        "gemm": (3, 1, 1),
        "rope": (4, 13, 1),
        "tiled": (2, 2, 1),
        "once": (7, 1, 1),
        "norm": (1, 1, 1),
        "output": (1, 1, 1),
        "step_echo": (1, 1, 1),
        "sample": (1, 1, 1),
    }
    assert {item.kernel: item.block for item in api.launched}["gemm"] == (128, 1, 1)
    assert api.calls["hipGraphLaunch"] == 0
    program.close()


def test_a_chunk_without_logits_launches_nothing_for_them(bundle: Bundle) -> None:
    api = FakeHip()
    program = load(bundle, api)
    sent = dataclasses.replace(batch(4, new=4), logits_rows=np.zeros(0, np.int32), sampling=[])
    assert program.step(sent).shape == (0,)
    assert {"norm", "sample"}.isdisjoint(grids(api.launched))
    program.close()


def test_decode_steps_are_captured_once_a_bucket_and_replayed_on_new_memory(bundle: Bundle) -> None:
    """Buckets of tokens end at 1, 2, 4, 6 and 8 (where other kernels begin, too), of the context at 32, 64, 128."""
    api = FakeHip()
    program = load(bundle, api)

    def run(*contexts: int) -> dict[str, tuple[int, int, int]]:
        api.launched.clear()
        expected = [int(t) + 1 for t in batch(*contexts).token_ids]
        assert program.step(batch(*contexts)).tolist() == expected
        assert {item.num_tokens for item in api.launched} == {len(contexts)}
        return grids(api.launched)

    assert run(3)["split"] == (2, 1, 1)
    assert api.calls["hipGraphInstantiate"] == 1
    launches = api.calls["hipModuleLaunchKernel"]
    assert run(32)["split"] == (2, 1, 1)
    # Tokens are drawn outside of the graph: by one launch.
    assert (api.calls["hipGraphInstantiate"], api.calls["hipModuleLaunchKernel"]) == (1, launches + 1)
    assert run(33)["split"] == (2, 1, 2)
    assert run(65)["split"] == run(128)["split"] == (2, 1, 4)
    assert api.calls["hipGraphInstantiate"] == 3
    assert run(5, 6, 7)["split"] == (2, 4, 1)  # launched for 4, the kernel itself sees 3
    assert "tiled" not in run(5, 6, 7, 8)
    assert api.calls["hipGraphInstantiate"] == 4
    five = run(1, 2, 3, 4, 5)
    assert five["gemv_6"] == (5, 1, 1)
    assert five["tiled"] == (2, 1, 1)
    assert "split" not in five
    assert run(*range(1, 8))["gemm"] == (3, 1, 1)
    assert api.calls["hipGraphInstantiate"] == 6
    assert api.calls["hipGraphLaunch"] == 9
    assert api.graphs == {}
    program.close()
    assert api.held() == 0


def test_a_larger_step_moves_the_memory_and_the_graphs_with_it(bundle: Bundle) -> None:
    api = FakeHip()
    program = load(bundle, api)
    program.step(batch(5))
    before, held = api.launched[0].arguments[0], api.held()
    seen = np.arange(20_000, dtype=np.int32)
    api.launched.clear()
    program.step(batch(5, rows=[RowSampling(seen_tokens=seen, seen_counts=seen)]))
    moved = {item.arguments[0] for item in api.launched}
    assert len(moved) == 1
    assert before not in moved
    assert api.calls["hipGraphInstantiate"] == 2
    assert api.held() == held
    program.close()
    assert api.held() == 0


def test_the_memory_grows_for_masks_too(bundle: Bundle) -> None:
    """16 rows of a vocabulary of 49,152 have 98 kB of masks, more than all that was taken at first."""
    api = FakeHip()
    program = load(bundle, api)
    step = StepMemory(program._memory, sampled=0)
    masks = [np.full(49_152 // 32, number, np.uint32) for number in range(16)]
    sent = batch(*[5] * 16, rows=[RowSampling(mask=mask) for mask in masks])
    step.write(sent)
    assert step.pointer.value is not None
    room = api.device_blocks[step.pointer.value].size
    assert step._masks[-1] + masks[-1].nbytes <= room  # else what follows writes past the memory
    step.write_masks(sent)
    image = step.arguments[StepRef("image")].value
    assert image is not None
    header = np.frombuffer(ctypes.string_at(image, STEP.itemsize), STEP)[0]
    records_at = image + int(header["sampling"]) - step.pointer.value
    records = np.frombuffer(ctypes.string_at(records_at, 16 * SAMPLING.itemsize), SAMPLING)
    for record, mask in zip(records, masks, strict=True):
        assert ctypes.string_at(int(record["mask_image"]), mask.nbytes) == mask.tobytes()
        assert int(record["mask"]) - step.pointer.value == int(record["mask_image"]) - image >= int(header["n_bytes"])
    program.close()


def test_every_call_is_one_that_c_can_take(bundle: Bundle) -> None:
    """Handles, out parameters and arrays go through C signatures, as they do to the library."""
    api = FakeHip(Device("gfx90a"), Device("gfx1100"))
    program = load_hip_program(bundle, through_c(api), KV, nodes=None)
    assert program.device.arch == "gfx1100"
    assert program.step(batch(100, new=13)).tolist() == [113]
    seen = np.arange(20_000, dtype=np.int32)
    rows = [RowSampling(seen_tokens=seen, seen_counts=seen), RowSampling()]
    for _ in range(2):
        assert program.step(batch(5, 40, rows=rows)).tolist() == [101, 102]
    assert api.calls["hipGraphLaunch"] == 2
    assert grids(api.launched[-10:])["split"] == (2, 2, 2)
    assert program.logits(2).shape == (2, 48)
    assert program.memory() == (api.memory_bytes - api.used(), api.memory_bytes)
    program.close()
    assert api.held() == 0


def test_waits_for_a_busy_stream(bundle: Bundle) -> None:
    api = FakeHip()
    program = load(bundle, api)
    api.busy = 5
    assert program.step(batch(1)).tolist() == [101]
    assert api.busy == 0
    program.close()


def test_logits_are_copied_from_their_buffer(bundle: Bundle) -> None:
    api = FakeHip()
    program = load(bundle, api)
    program.step(batch(1))
    values = np.random.default_rng(2).normal(size=(3, 48)).astype(np.float32)
    address = next(item.arguments[1] for item in api.launched if item.kernel == "sample")
    assert np.array_equal(
        program.logits(1), np.full((1, 48), 100 / 2**20, np.float32)
    )  # what the fake makes of token 100
    ctypes.memmove(address, values.tobytes(), values.nbytes)
    assert np.array_equal(program.logits(3), values)
    program.close()


def test_hidden_states_are_what_the_last_layer_left_and_its_norm(bundle: Bundle) -> None:
    api = FakeHip()
    program = load(bundle, api)
    program.step(batch(1))
    values = np.random.default_rng(2).normal(size=(5, 64)).astype(np.float32)
    address = next(item.arguments[2] for item in api.launched if item.kernel == "embedding")
    ctypes.memmove(address, values.tobytes(), values.nbytes)
    weight = np.frombuffer(WEIGHTS, np.float32, 64, LAYOUT.tensors[1].offset).astype(np.float64)  # random bits
    expected = [weight * row / math.sqrt(np.mean(row**2) + 0.25) for row in values.astype(np.float64)]
    with np.errstate(over="ignore"):
        # Both are made in float64; rounding to float32 may differ by a unit in the last place, 2^-23 of the value.
        for first, count in ((0, 5), (3, 2), (2, 1)):
            wanted = np.array(expected[first : first + count]).astype(np.float32)
            np.testing.assert_allclose(program.hidden(first, count), wanted, rtol=2**-23, atol=2**-149)
    for function in ("hipMemcpyAsync", "hipStreamSynchronize"):
        api.fail(function, 1, LAUNCH_FAILURE)
        assert "download of hidden states" in refused(api, lambda: program.hidden(0, 1))
    program.close()


def test_hidden_states_are_read_wherever_their_buffer_lies(tmp_path: Path) -> None:
    layout = dataclasses.replace(LAYOUT, buffers=LAYOUT.buffers[::-1])
    api = FakeHip()
    with hip_bundle(tmp_path, layout=layout) as bundle:
        program = load(bundle, api)
        program.step(batch(1))
        address = next(item.arguments[2] for item in api.launched if item.kernel == "embedding")
        rows = np.ones((2, 64), np.float32)
        rows[1, 0] = 3.0
        ctypes.memmove(address, rows.tobytes(), rows.nbytes)
        first, second = program.hidden(0, 1), program.hidden(1, 1)
        with np.errstate(invalid="ignore", over="ignore"):
            ratio = second[0, 0] / first[0, 0]
        assert ratio == pytest.approx(3 * math.sqrt(1.25 / (72 / 64 + 0.25)), rel=1e-6)
        program.close()


def test_memory_is_of_the_chosen_gpu_in_any_thread(bundle: Bundle) -> None:
    api = FakeHip(Device("gfx1030"), Device("gfx1100"))
    program = load(bundle, api)
    assert {block.device for block in (*api.device_blocks.values(), *api.pinned_blocks.values())} == {1}
    sets, found = api.calls["hipSetDevice"], list[tuple[int, int]]()
    free = api.memory_bytes - api.used()
    for act in (lambda: found.append(program.memory()), program.close):
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()
        sets += 1
        assert api.calls["hipSetDevice"] == sets
    assert found == [(free, api.memory_bytes)]
    assert api.held() == 0


def test_kv_cache_takes_what_is_free_and_no_more_than_is_of_use(bundle: Bundle) -> None:
    per_block = LAYOUT.kv.bytes_per_block
    everything = 8 * 128 // 16  # max_sequences contexts
    for memory_bytes, expected in ((2 << 30, everything), (1 << 30, 8), (RESERVED_BYTES + (1 << 17), None)):
        api = FakeHip(memory_bytes=memory_bytes)
        program = load(bundle, api, KvSize(None, 128))
        if expected is None:
            assert 8 <= program.num_blocks < everything
            # One more would have cut into what is reserved.
            assert 0 <= api.memory_bytes - api.used() - RESERVED_BYTES < per_block
        else:
            assert program.num_blocks == expected
        program.close()


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


def test_F75_a_gpu_that_hangs_fails_the_step_and_all_after_it(bundle: Bundle) -> None:
    api = FakeHip()
    program = HipProgram(
        api, GpuDevice(0, "x", "gfx1100", ""), LAYOUT, bundle.map_weights(), code_object("gfx1100"), KV, None, 0.05
    )
    api.hangs = True
    assert "did not end within 0.05 s" in refused(api, lambda: program.step(batch(4)))
    held = api.held()
    assert refused(api, lambda: program.step(batch(4))) == "GPU 0 (gfx1100, x): hangs since an earlier step"
    program.close()  # returns: the fake would not have a wait
    assert (api.held(), api.calls["hipFree"]) == (held, 0)


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
