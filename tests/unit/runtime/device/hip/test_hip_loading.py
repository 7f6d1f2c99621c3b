"""What a load takes of a GPU, tells, and leaves free."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import BundleError, DeviceError
from rocmforge.artifacts.mapped_weights import MappedWeights
from rocmforge.runtime.device.hip import memory as hip_memory
from rocmforge.runtime.device.hip.capacity import RESERVED_BYTES, check_fit, fitting_blocks, reserved_bytes
from rocmforge.runtime.device.hip.open_program import load_hip_program
from rocmforge.runtime.device.hip.select import DEVICE_VARIABLE
from rocmforge.runtime.device.memory import KvSize
from rocmforge.tests.support.fake_hip import LAUNCH_FAILURE, Device, FakeHip
from rocmforge.tests.support.hip_bundle import BLOCKS, GPU_0, KV, LAYOUT, WEIGHTS, batch, load, refused


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
