"""The sampling kernel on emulated GPUs, against the oracle of the host's."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.graph import Node, Value
from rocmforge.runtime.device.batch import RowSampling
from rocmforge.tests.kernels.hip_harness import ARCHES, CONFIG, Gpu, lower
from rocmforge.tests.kernels.kernel_harness import Step
from rocmforge.tests.oracles.sampling import VOCAB, acceptable, adjusted_rows, mask_of, random_sampling, uniform

Logits = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint32]
ROWS = 16
LARGE_VOCAB = 49152


class Sampler:
    """The kernel alone. Its logits, with penalties applied, are in `logits` after a call."""

    def __init__(self, arch: str, vocab_size: int, cache: BuildCache) -> None:
        values = (Value("x", "R", vocab_size), Value("y", "R", vocab_size, "int32"))
        (self.launch,) = lower(arch, Node("sample", ("x",), "y"), values, (), CONFIG)
        self.gpu = Gpu(arch, [self.launch[0]], cache)
        self.logits = np.zeros((0, vocab_size), np.float32)

    def __call__(self, logits: Logits, sampling: Sequence[RowSampling], masks: Sequence[Mask | None] = ()) -> list[int]:
        self.logits = np.array(logits)
        rows = Step(0, logits_rows=range(len(logits)))
        return [int(x) for x in self.gpu.run(*self.launch, rows, self.logits, sampling=sampling, masks=masks)]


@pytest.fixture(scope="module", params=ARCHES)
def sample(request: pytest.FixtureRequest, build_cache: BuildCache) -> Sampler:
    return Sampler(request.param, VOCAB, build_cache)


def rows_of(random: np.random.Generator, count: int = ROWS, vocab_size: int = VOCAB) -> Logits:
    return random.normal(0, 3, (count, vocab_size)).astype(np.float32)


def test_tokens_are_those_of_the_oracle(sample: Sampler) -> None:
    random = np.random.default_rng(1)
    certain = 0
    for turn in range(12):
        logits = rows_of(random)
        if turn % 3 == 0:
            logits = np.round(logits)  # many ties, zeros of both signs
        sampling = [random_sampling(random) for _ in range(ROWS)]
        masks = [
            mask_of(random.random(VOCAB) < share) if share else None for share in random.choice([0, 0.02, 0.5], ROWS)
        ]
        tokens = sample(logits, sampling, masks)
        for row, s, mask, token in zip(logits, sampling, masks, tokens, strict=True):
            seen = row.copy()
            if mask is not None:
                seen[~np.unpackbits(mask.view(np.uint8), bitorder="little")[:VOCAB].astype(bool)] = -np.inf
            allowed = acceptable(seen, s) if np.isfinite(seen).any() else {-1}
            assert token in allowed, s
            certain += len(allowed) == 1
    assert certain > 0.9 * 12 * ROWS


def test_a_row_is_drawn_the_same_alone_and_among_others(sample: Sampler) -> None:
    random = np.random.default_rng(3)
    logits, sampling = rows_of(random), [random_sampling(random) for _ in range(ROWS)]
    together = sample(logits, sampling)
    assert [sample(logits[i : i + 1], sampling[i : i + 1])[0] for i in range(ROWS)] == together


def test_seed_and_counter_alone_make_the_draw(sample: Sampler) -> None:
    logits = np.zeros((ROWS, VOCAB), np.float32)
    drawn = sample(logits, [RowSampling(1.0, seed=7, counter=i) for i in range(ROWS)])
    assert drawn == [int(uniform(7, i) * VOCAB) for i in range(ROWS)]


LOGITS = np.array([[1, 5, 3, 5, 4] + [-9] * (VOCAB - 5)], np.float32)


@pytest.mark.parametrize(
    "s, expected",
    [
        pytest.param(RowSampling(0.0), {1}, id="greedy-lowest-id-of-a-tie"),
        pytest.param(RowSampling(5.0, top_k=1), {1}, id="top-k-1"),
        pytest.param(RowSampling(5.0, top_p=0.0), {1}, id="top-p-0"),
        pytest.param(RowSampling(5.0, top_k=10, top_p=0.0), {1}, id="top-k-and-top-p-0"),
        pytest.param(RowSampling(5.0, top_k=2), {1, 3}, id="top-k-2"),
        pytest.param(RowSampling(5.0, min_p=1.0), {1, 3}, id="min-p-1-keeps-ties"),
        pytest.param(RowSampling(5.0, top_k=1, min_p=1.0), {1}, id="top-k-before-min-p"),
        pytest.param(RowSampling(1e-45), {1, 3}, id="smallest-temperature"),
        pytest.param(RowSampling(1e-30, top_p=0.999), {1, 3}, id="tiny-temperature-top-p"),
        # Weights 1, 1, e^-1, e^-2, e^-4: half of their sum, 1.26, takes the first two.
        pytest.param(RowSampling(1.0, top_p=0.5), {1, 3}, id="nucleus"),
        pytest.param(RowSampling(1.0, top_k=3, top_p=0.9), {1, 3, 4}, id="nucleus-of-top-k"),
        pytest.param(RowSampling(1.0, min_p=0.3), {1, 3, 4}, id="min-p"),
        pytest.param(RowSampling(1.0, typical_p=0.0), {1, 3}, id="typical-p-0-keeps-ties"),
        pytest.param(RowSampling(1.0, typical_p=0.7), {1, 3}, id="typical-p"),
        pytest.param(RowSampling(1.0, typical_p=0.9), {1, 3, 4}, id="typical-p-three"),
        pytest.param(RowSampling(1.0, top_k=1, typical_p=0.9), {1}, id="typical-p-after-top-k"),
    ],
)
def test_only_allowed_tokens_are_drawn_and_all_of_them(sample: Sampler, s: RowSampling, expected: set[int]) -> None:
    rows = [dataclasses.replace(s, seed=3, counter=i) for i in range(64)]
    assert set(sample(np.repeat(LOGITS, 64, axis=0), rows)) == expected


@pytest.mark.parametrize("top_k", [0, 4])
def test_a_nucleus_that_is_reached_exactly_takes_no_token_more(sample: Sampler, top_k: int) -> None:
    """Four tokens alike, and top_p of one half: two of them, the first by id."""
    logits = np.full((64, VOCAB), -np.inf, np.float32)
    logits[:, [3, 40, 41, 200]] = 1.5
    rows = [RowSampling(1.0, top_p=0.5, top_k=top_k, seed=5, counter=i) for i in range(64)]
    assert set(sample(logits, rows)) == {3, 40}


def test_penalties_are_those_of_float32(sample: Sampler) -> None:
    """Each operation rounds once, in this order: to the bit."""
    random = np.random.default_rng(4)
    logits, sampling = rows_of(random), []
    expected = logits.copy()
    for row in range(ROWS):
        seen = random.permutation(VOCAB)[: random.integers(0, 300)].astype(np.int32)
        counts = random.integers(0, 4, len(seen)).astype(np.int32)
        repetition, presence, frequency = np.float32(random.choice([1.0, 1.3, 0.8])), np.float32(0.7), np.float32(-0.3)
        s = RowSampling(
            repetition_penalty=float(repetition),
            presence_penalty=float(presence),
            frequency_penalty=float(frequency),
            seen_tokens=seen,
            seen_counts=counts,
        )
        sampling.append(s)
        x = expected[row, seen]
        x = np.where(x > 0, x / repetition, x * repetition).astype(np.float32)
        taken = presence + frequency * counts.astype(np.float32)
        expected[row, seen] = np.where(counts > 0, x - taken, x)
    tokens = sample(logits, sampling)
    assert sample.logits.tobytes() == expected.tobytes()
    assert tokens == [int(np.argmax(row)) for row in expected]


@pytest.mark.parametrize("keep", [False, True])
def test_biases_come_before_penalties_and_logits_are_kept_where_asked(sample: Sampler, keep: bool) -> None:
    random = np.random.default_rng(7)
    logits = rows_of(random)
    sampling, expected = adjusted_rows(random, logits)
    tokens = sample(logits, [dataclasses.replace(s, keep_logits=keep) for s in sampling])
    assert sample.logits.tobytes() == (logits if keep else expected).tobytes()
    assert tokens == [int(np.argmax(row)) for row in expected]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.nan])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_F76_logits_that_are_no_numbers_give_no_token(sample: Sampler, value: float, temperature: float) -> None:
    logits = np.zeros((5, VOCAB), np.float32)
    logits[1, VOCAB - 1] = value
    logits[2] = -np.inf
    logits[3, 1:] = -np.inf  # one token is left
    masks = [None] * 4 + [mask_of(np.zeros(VOCAB, bool))]
    tokens = sample(logits, [RowSampling(temperature, top_p=0.9, seed=1)] * 5, masks)
    assert tokens[1:] == [-1, -1, 0, -1]
    assert tokens[0] >= 0


@pytest.mark.parametrize("arch", ARCHES)
def test_a_large_vocabulary(arch: str, build_cache: BuildCache) -> None:
    sampler, random = Sampler(arch, LARGE_VOCAB, build_cache), np.random.default_rng(5)
    logits = rows_of(random, 4, LARGE_VOCAB)
    sampling = [dataclasses.replace(random_sampling(random), top_k=int(k)) for k in (0, 40, 5000, 0)]
    sampling[3] = dataclasses.replace(sampling[3], top_p=0.95)
    for row, s, token in zip(logits, sampling, sampler(logits, sampling), strict=True):
        assert token in acceptable(row, s), s


@pytest.mark.parametrize("arch", ARCHES)
def test_passes_over_the_logits_wait_for_memory_once_in_eight_tokens(arch: str, build_cache: BuildCache) -> None:
    """A row is one workgroup's, and each of its passes would wait as often as a thread has tokens. The emulator knows
    no time: it is counted how often loads were begun that have no other next to them in the code."""
    sampler = Sampler(arch, LARGE_VOCAB, build_cache)
    sampler(rows_of(np.random.default_rng(6), 1, LARGE_VOCAB), [RowSampling(1.0, top_k=40, top_p=0.9)])
    loads = waits = 0
    end = -100
    for offset, name, count in sampler.gpu.api.profile(sampler.launch[0].symbol):
        if name.startswith("global_load"):
            loads += count
            waits += count if offset - end > 8 else 0
            end = offset + (12 if arch.startswith("gfx12") else 8)
    assert loads * (64 if arch == "gfx942" else 32) > 10 * LARGE_VOCAB  # passes
    assert waits < 1.1 * loads / 8
