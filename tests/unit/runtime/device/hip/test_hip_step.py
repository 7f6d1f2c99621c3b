"""The memory of a step: where each array lies, and how it grows."""

from __future__ import annotations

import ctypes
import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from rocmforge.artifacts.arguments import StepRef
from rocmforge.runtime.device.batch import RowSampling
from rocmforge.runtime.device.hip.api import HipError
from rocmforge.runtime.device.hip.memory import DeviceMemory
from rocmforge.runtime.device.hip.step import SAMPLING, STEP, StepMemory
from rocmforge.tests.support.fake_hip import OUT_OF_MEMORY, FakeHip
from rocmforge.tests.support.hip_bundle import batch


class Made:
    """A step's memory on a fake GPU."""

    def __init__(self, n_bytes: int) -> None:
        self.api = FakeHip()
        self.memory = DeviceMemory(self.api)
        self.step = StepMemory(self.memory, 4096, n_bytes)

    @property
    def device(self) -> int:
        return self.step.pointer.value or 0

    @property
    def image(self) -> int:
        return self.step.arguments[StepRef("image")].value or 0

    def sizes(self) -> list[int]:
        """Of all that is held: on the device, then pinned."""
        device = sorted(block.size for block in self.api.device_blocks.values())
        return device + sorted(block.size for block in self.api.pinned_blocks.values())

    def records(self, count: int) -> list[dict[str, float]]:
        """The sampling records of the image."""
        header = np.frombuffer(ctypes.string_at(self.image, STEP.itemsize), STEP)[0]
        at = self.image + int(header["sampling"]) - self.device
        found = np.frombuffer(ctypes.string_at(at, count * SAMPLING.itemsize), SAMPLING)
        names = SAMPLING.names
        assert names is not None
        return [dict(zip(names, record.tolist(), strict=True)) for record in found]


@pytest.fixture
def made() -> Iterator[Made]:
    one = Made(4096)
    yield one
    one.memory.close()
    assert one.api.held() == 0


def ints(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array(values, np.int32)


def test_each_array_lies_at_a_line_of_its_own(made: Made) -> None:
    """The header, the batch's five arrays, the records, what they point to, and masks at the end."""
    biases = np.array([0.5, -2.0], np.float32)
    rows = [
        RowSampling(seen_tokens=ints(5, 7, 9), seen_counts=ints(1, 0, 2), keep_logits=True),
        RowSampling(mask=np.full(20, 7, np.uint32)),
        RowSampling(bias_tokens=ints(3, 4), biases=biases, mask=np.full(2, 9, np.uint32), keep_logits=True),
        RowSampling(keep_logits=True),
        RowSampling(
            seen_tokens=ints(*range(17)),
            seen_counts=ints(*range(17)),
            bias_tokens=ints(3, 4),
            biases=biases,
            keep_logits=True,
        ),
    ]
    sent = batch(5, 6, 7, 8, 9, rows=rows)
    made.step.write(sent)
    header = np.frombuffer(ctypes.string_at(made.image, STEP.itemsize), STEP)[0]
    assert STEP.itemsize == 144
    assert SAMPLING.itemsize == 112
    starts = {"token_ids": 192, "positions": 256, "rows": 320, "block_table": 384, "logits_rows": 576, "sampling": 640}
    assert {name: int(header[name]) - made.device for name in starts} == starts
    at = 640 + 576  # of the records: 560 bytes
    first, second, third, fourth, fifth = made.records(5)
    lies = {
        "first": [first["seen_tokens"], first["seen_counts"], first["originals"]],
        "third": [third["bias_tokens"], third["biases"], third["originals"]],
        "fifth": [fifth[name] for name in ("seen_tokens", "seen_counts", "bias_tokens", "biases", "originals")],
    }
    assert {name: [int(place) - made.device for place in places] for name, places in lies.items()} == {
        "first": [at, at + 64, at + 128],
        "third": [at + 192, at + 256, at + 320],
        "fifth": [at + 384, at + 512, at + 640, at + 704, at + 768],  # 17 numbers take two lines of 64 bytes
    }
    end = at + 768 + 128  # 19 logits of the last
    assert [int(header[name]) for name in ("num_tokens", "num_logits", "n_bytes")] == [5, 5, end]
    assert (int(header["sampled"]), int(header["number"]), made.step.number) == (4096, 1, 1)
    counts = [(record["num_seen"], record["num_biases"]) for record in (first, second, third, fourth, fifth)]
    assert counts == [(3, 0), (0, 0), (0, 2), (0, 0), (17, 2)]
    assert [record["originals"] for record in (second, fourth)] == [0, 0]
    assert [record["mask"] - made.device for record in (second, third)] == [end, end + 128]
    assert [record["mask_image"] - made.image for record in (second, third)] == [end, end + 128]
    assert {record[name] for record in (first, fourth, fifth) for name in ("mask", "mask_image")} == {0}
    made.step.write_masks(sent)
    for place, mask in ((end, rows[1].mask), (end + 128, rows[2].mask)):
        assert isinstance(mask, np.ndarray)
        assert ctypes.string_at(made.image + place, mask.nbytes) == mask.tobytes()
    assert ctypes.string_at(made.image + at + 768, 4 * 19) == bytes(4 * 19)


def test_state_is_pointed_at_where_a_batch_has_some(made: Made) -> None:
    """Three sequences of 1, 3 and 2 tokens."""
    plain = batch(4, 5, 6, new=2)
    rows, to = ints(0, 1, 1, 1, 2, 2), ints(7, -1, 6, 5, -1, 3)
    sent = dataclasses.replace(plain, rows=rows, state_from=ints(2, -1, 9), state_to=to)
    made.step.write(sent)
    header = np.frombuffer(ctypes.string_at(made.image, STEP.itemsize), STEP)[0]
    expected = {"sequence_starts": ints(0, 1, 4, 6), "state_from": ints(2, -1, 9), "state_to": to}
    for name, values in expected.items():
        at = int(header[name]) - made.device
        assert (at % 64, at + values.nbytes <= int(header["n_bytes"])) == (0, True)
        assert ctypes.string_at(made.image + at, values.nbytes) == values.tobytes(), name
    assert int(header["num_sequences"]) == 3
    made.step.write(plain)
    header = np.frombuffer(ctypes.string_at(made.image, STEP.itemsize), STEP)[0]
    assert [int(header[name]) for name in ("num_sequences", *expected)] == [0, 0, 0, 0]


def test_rows_from_outside_lie_where_the_host_wrote_them() -> None:
    api = FakeHip()
    memory = DeviceMemory(api)
    step = StepMemory(memory, 4096, rows_bytes=4 * 3 * 5)
    rows, row_of = np.arange(10, dtype=np.float32).reshape(2, 5), ints(1, -1, 0)
    places = []
    for _ in range(2):
        step.write(dataclasses.replace(batch(4, 5, 6), input_rows=rows, row_of=row_of))
        image = step.arguments[StepRef("image")].value or 0
        header = np.frombuffer(ctypes.string_at(image, STEP.itemsize), STEP)[0]
        places.append(int(header["input_rows"]))
        assert ctypes.string_at(places[-1], rows.nbytes) == rows.tobytes()
        at = image + int(header["row_of"]) - (step.pointer.value or 0)
        assert ctypes.string_at(at, row_of.nbytes) == row_of.tobytes()
        assert not image <= places[-1] < image + int(header["n_bytes"])
        rows = rows + 1
    assert places[0] == places[1]
    assert places[0] in api.coherent
    step.write(batch(4, 5, 6))
    header = np.frombuffer(ctypes.string_at(image, STEP.itemsize), STEP)[0]
    assert (int(header["input_rows"]), int(header["row_of"])) == (0, 0)
    memory.close()
    assert api.held() == 0


def test_rotary_positions_are_pointed_at_where_a_batch_has_some(made: Made) -> None:
    plain = batch(4, 5, 6, new=2)
    rotary = np.arange(24, dtype=np.int32).reshape(4, 6)
    made.step.write(dataclasses.replace(plain, rope_positions=rotary))
    header = np.frombuffer(ctypes.string_at(made.image, STEP.itemsize), STEP)[0]
    at = int(header["rope_positions"]) - made.device
    assert (at % 64, at + rotary.nbytes <= int(header["n_bytes"])) == (0, True)
    assert ctypes.string_at(made.image + at, rotary.nbytes) == rotary.tobytes()
    made.step.write(plain)
    header = np.frombuffer(ctypes.string_at(made.image, STEP.itemsize), STEP)[0]
    assert int(header["rope_positions"]) == 0


def test_what_kernels_have_seen_is_nothing_at_first(made: Made) -> None:
    assert (made.step.echoed(), made.step.number, made.step.generation) == (0, 0, 1)
    echo = made.step.arguments[StepRef("echo")].value or 0
    assert ctypes.string_at(echo, 64) == bytes(64)
    ctypes.c_uint64.from_address(echo).value = 2**40
    assert made.step.echoed() == 2**40
    assert made.api.coherent == {echo, made.image}


@pytest.mark.parametrize(
    ("n_bytes", "grown"), [(640, 640), (639, 1278), (400, 800), (320, 640), (319, 640), (1, 640), (4096, 4096)]
)
def test_memory_grows_to_twice_what_it_was_or_what_is_needed(n_bytes: int, grown: int) -> None:
    """A step of one token takes 640 bytes."""
    made = Made(n_bytes)
    assert made.sizes() == [n_bytes, *sorted([64, n_bytes])]
    before = made.device
    for number in (1, 2):
        made.step.write(batch(5))
        assert made.step.number == number
        assert made.step.generation == 1 + (grown != n_bytes)
        assert made.sizes() == [grown, *sorted([64, grown])]
    assert (made.device == before) == (grown == n_bytes)
    made.memory.close()
    assert made.api.held() == 0


@pytest.mark.parametrize("function", ["hipMalloc", "hipHostMalloc"])
def test_memory_that_is_not_to_be_had_leaves_what_there_was(function: str) -> None:
    made = Made(128)
    before, held = (made.device, made.image, made.step.generation), made.sizes()
    made.api.fail(function, 1, OUT_OF_MEMORY)
    with pytest.raises(HipError, match=r"^640 bytes for the step"):
        made.step.write(batch(5))
    assert ((made.device, made.image, made.step.generation), made.sizes()) == (before, held)
