"""A program on a fake GPU: what is uploaded and launched, and that each fault is one clear error and no leak."""

from __future__ import annotations

import ctypes
import dataclasses
import math
import threading
from pathlib import Path

import numpy as np
import pytest

from rocmforge.artifacts.arguments import Argument, KvHalf, KvRef, StepRef, TensorRef
from rocmforge.artifacts.bundle import Bundle
from rocmforge.runtime.device.batch import RowSampling
from rocmforge.runtime.device.hip.open_program import load_hip_program
from rocmforge.runtime.device.hip.step import SAMPLING, STEP, StepMemory
from rocmforge.tests.support.fake_hip import (
    LAUNCH_FAILURE,
    Device,
    FakeHip,
    Launched,
    through_c,
)
from rocmforge.tests.support.hip_bundle import (
    BLOCKS,
    GPU_0,
    KV,
    LAYOUT,
    WEIGHTS,
    batch,
    hip_bundle,
    load,
    refused,
)


def grids(launched: list[Launched]) -> dict[str, tuple[int, int, int]]:
    found = {item.kernel: item.grid for item in launched}
    assert len(found) == len(launched)
    return found


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
