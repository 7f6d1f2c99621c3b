"""The sampling kernel on every level of this CPU, against an oracle in float64."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pytest

from rocmforge.artifacts.bundle import Bundle, open_bundle
from rocmforge.artifacts.host import HOST_LEVELS, cpu_features, host_arch
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import PlainProgress
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.device.batch import Batch, RowSampling
from rocmforge.runtime.device.host import HostProgram, choose_variant
from rocmforge.tests.oracles.sampling import (
    ULP,
    VOCAB,
    Logits,
    acceptable,
    adjusted_rows,
    mask_of,
    random_sampling,
    uniform,
)
from rocmforge.tests.support.programs import building_levels
from rocmforge.tools.generate.fixtures import write_model

LEVELS = [level for level, needed in HOST_LEVELS[host_arch()].items() if cpu_features().issuperset(needed)]
ROWS = 64


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, build_cache: BuildCache) -> Iterator[Bundle]:
    folder = tmp_path_factory.mktemp("sampling")
    model = write_model(folder / "model.gguf", num_layers=1, vocab_size=VOCAB)
    with PlainProgress() as progress, building_levels(tuple(LEVELS)):
        compile_model(CompileOptions(model, folder / "model.rfb"), build_cache, progress, make_golden)
    with open_bundle(folder / "model.rfb") as opened:
        yield opened


class Sampler:
    """A program that consists of the sampling kernel alone, on logits that the test gives it."""

    def __init__(self, bundle: Bundle, level: str):
        layout = dataclasses.replace(bundle.layout, launches=bundle.layout.launches[-1:], sampler=None)
        file = choose_variant(bundle.manifest.targets, level).file
        self.program = HostProgram(layout, bundle.map_weights(), bundle.open_code(file), file, 1, 2)
        self.vocab_size = layout.vocab_size

    def __call__(self, logits: Logits, sampling: list[RowSampling]) -> list[int]:
        """float32[R, vocab] and R ways to sample -> R tokens."""
        offset = self.program._addresses.buffers[self.program._sampler.logits]
        np.frombuffer(self.program._arena, np.float32, logits.size, offset)[:] = logits.reshape(-1)
        none = np.zeros(0, np.int32)
        rows = np.arange(len(logits), dtype=np.int32)
        tokens = self.program.step(Batch(none, none, none, np.zeros((1, 1), np.int32), rows, sampling))
        return [int(token) for token in tokens]


@pytest.fixture(scope="module", params=LEVELS)
def sample(request: pytest.FixtureRequest, bundle: Bundle) -> Iterator[Sampler]:
    sampler = Sampler(bundle, request.param)
    yield sampler
    sampler.program.close()


def rows_of(random: np.random.Generator, count: int = ROWS) -> Logits:
    return (random.normal(0, 3, (count, VOCAB))).astype(np.float32)


def test_tokens_are_those_of_the_oracle(sample: Sampler) -> None:
    random = np.random.default_rng(1)
    certain = 0
    for _ in range(20):
        logits = rows_of(random)
        if random.random() < 0.3:
            logits = np.round(logits)  # many ties
        sampling = [random_sampling(random) for _ in range(ROWS)]
        for row, s, token in zip(logits, sampling, sample(logits, sampling), strict=True):
            allowed = acceptable(row, s)
            assert token in allowed, s
            certain += len(allowed) == 1
    assert certain > 0.9 * 20 * ROWS


def test_all_levels_draw_the_same_tokens(bundle: Bundle) -> None:
    random = np.random.default_rng(2)
    logits, sampling = rows_of(random), [random_sampling(random) for _ in range(ROWS)]
    drawn = []
    for level in LEVELS:
        sampler = Sampler(bundle, level)
        drawn.append(sampler(logits, sampling))
        sampler.program.close()
    # Levels round exponentials differently: a token differs only where the oracle has a choice too.
    for row, s, *tokens in zip(logits, sampling, *drawn, strict=True):
        assert len(set(tokens)) == 1 or set(tokens) <= acceptable(row, s)


def test_a_row_is_drawn_the_same_alone_and_among_others(sample: Sampler) -> None:
    random = np.random.default_rng(3)
    logits, sampling = rows_of(random), [random_sampling(random) for _ in range(ROWS)]
    together = sample(logits, sampling)
    assert [sample(logits[i : i + 1], sampling[i : i + 1])[0] for i in range(ROWS)] == together
    assert sample(logits[::-1], sampling[::-1]) == together[::-1]


def test_seed_and_counter_alone_make_the_draw(sample: Sampler) -> None:
    logits = np.zeros((ROWS, VOCAB), np.float32)
    counted = sample(logits, [RowSampling(1.0, seed=7, counter=i) for i in range(ROWS)])
    seeded = sample(logits, [RowSampling(1.0, seed=i, counter=7) for i in range(ROWS)])
    assert sample(logits, [RowSampling(1.0, seed=7, counter=i) for i in range(ROWS)]) == counted
    # 64 draws of 321 equal tokens: 64 x 63 / 2 / 321 = 6.3 pairs are equal by chance; 20 would be a defect.
    assert len(set(counted)) > ROWS - 20
    assert len(set(seeded)) > ROWS - 20
    assert counted == [int(uniform(7, i) * VOCAB) for i in range(ROWS)]


def test_the_distribution_is_the_softmax(sample: Sampler) -> None:
    logits = np.full(VOCAB, -50, np.float32)
    logits[10:18] = np.log([8, 7, 6, 5, 4, 3, 2, 1])
    steps = 100
    counts = np.zeros(VOCAB, int)
    for step in range(steps):
        sampling = [RowSampling(1.0, seed=99, counter=step * ROWS + i) for i in range(ROWS)]
        for token in sample(np.tile(logits, (ROWS, 1)), sampling):
            counts[token] += 1
    expected = steps * ROWS * np.arange(8, 0, -1) / 36
    # 24.3 is the 99.9th percentile of chi-squared with 7 degrees of freedom.
    assert ((counts[10:18] - expected) ** 2 / expected).sum() < 24.3
    assert counts[10:18].sum() == steps * ROWS


LOGITS = np.array([[1, 5, 3, 5, 4] + [-9] * (VOCAB - 5)], np.float32)


@pytest.mark.parametrize(
    "s, expected",
    [
        pytest.param(RowSampling(0.0), {1}, id="greedy-lowest-id-of-a-tie"),
        pytest.param(RowSampling(0.0, top_k=3, top_p=0.5), {1}, id="greedy-ignores-filters"),
        pytest.param(RowSampling(5.0, top_k=1), {1}, id="top-k-1"),
        pytest.param(RowSampling(5.0, top_p=0.0), {1}, id="top-p-0"),
        pytest.param(RowSampling(5.0, top_p=1e-30), {1}, id="top-p-tiny"),
        pytest.param(RowSampling(5.0, top_k=10, top_p=0.0), {1}, id="top-k-and-top-p-0"),
        pytest.param(RowSampling(5.0, top_k=2), {1, 3}, id="top-k-2"),
        pytest.param(RowSampling(5.0, top_k=3), {1, 3, 4}, id="top-k-3"),
        pytest.param(RowSampling(5.0, min_p=1.0), {1, 3}, id="min-p-1-keeps-ties"),
        pytest.param(RowSampling(5.0, top_k=1, min_p=1.0), {1}, id="top-k-before-min-p"),
        pytest.param(RowSampling(1e-45), {1, 3}, id="smallest-temperature"),
        pytest.param(RowSampling(1e-30, top_p=0.999), {1, 3}, id="tiny-temperature-top-p"),
        pytest.param(RowSampling(1e-30, top_k=5), {1, 3}, id="tiny-temperature-top-k"),
        # Weights 1, 1, e^-1, e^-2, e^-4: half of their sum, 1.26, takes the first two.
        pytest.param(RowSampling(1.0, top_p=0.5), {1, 3}, id="nucleus"),
        pytest.param(RowSampling(1.0, top_k=3, top_p=0.9), {1, 3, 4}, id="nucleus-of-top-k"),
        pytest.param(RowSampling(1.0, min_p=0.3), {1, 3, 4}, id="min-p"),
        # Of p 0.40, 0.40, 0.147, 0.054, 0.007: entropy 1.22 nats, information 0.92, 0.92, 1.92, 2.92, 4.92.
        pytest.param(RowSampling(1.0, typical_p=0.0), {1, 3}, id="typical-p-0-keeps-ties"),
        pytest.param(RowSampling(1.0, typical_p=0.7), {1, 3}, id="typical-p"),
        pytest.param(RowSampling(1.0, typical_p=0.9), {1, 3, 4}, id="typical-p-three"),
        pytest.param(RowSampling(1.0, top_k=1, typical_p=0.9), {1}, id="typical-p-after-top-k"),
    ],
)
def test_only_allowed_tokens_are_drawn_and_all_of_them(sample: Sampler, s: RowSampling, expected: set[int]) -> None:
    drawn: set[int] = set()
    for seed in range(4):
        rows = [dataclasses.replace(s, seed=seed, counter=i) for i in range(ROWS)]
        drawn |= set(sample(np.repeat(LOGITS, ROWS, axis=0), rows))
    assert drawn == expected


@pytest.mark.parametrize("top_k", [0, 4])
def test_a_nucleus_that_is_reached_exactly_takes_no_token_more(sample: Sampler, top_k: int) -> None:
    """Four tokens alike, and top_p of one half: two of them, the first by id."""
    logits = np.full((64, VOCAB), -np.inf, np.float32)
    logits[:, [3, 40, 41, 200]] = 1.5
    rows = [RowSampling(1.0, top_p=0.5, top_k=top_k, seed=5, counter=i) for i in range(64)]
    assert set(sample(logits, rows)) == {3, 40}


def test_top_p_counts_all_of_top_k(sample: Sampler) -> None:
    """Weights 1, 0.1 and many small ones that together move the limit of the nucleus past the first token."""
    weights = np.full(VOCAB, 1e-30)
    weights[0], weights[1], weights[2:300] = 1, 0.1, 0.0002
    logits = np.log(weights).astype(np.float32)[None].repeat(ROWS, 0)
    s = [RowSampling(1.0, top_k=300, top_p=0.9, seed=4, counter=i) for i in range(ROWS)]
    assert set(sample(logits, s)) == {0, 1}  # 0.9 x 1.1596 = 1.04


def test_penalties_against_float64(sample: Sampler) -> None:
    random = np.random.default_rng(4)
    logits = rows_of(random)
    sampling, expected, error = [], logits.astype(np.float64), np.zeros(logits.shape)
    for row in range(ROWS):
        seen = random.permutation(VOCAB)[: random.integers(0, 50)].astype(np.int32)
        counts = random.integers(0, 4, len(seen)).astype(np.int32)
        repetition, presence, frequency = (float(np.float32(x)) for x in (random.choice([1.0, 1.3, 0.8]), 0.7, -0.3))
        s = RowSampling(
            repetition_penalty=repetition,
            presence_penalty=presence,
            frequency_penalty=frequency,
            seen_tokens=seen,
            seen_counts=counts,
        )
        sampling.append(s)
        for token, count in zip(seen, counts, strict=True):
            x = expected[row, token]
            x = x / repetition if x > 0 else x * repetition
            taken = presence + frequency * count if count else 0.0
            expected[row, token] = x - taken
            # One rounding each: of the quotient, frequency x count, its sum with presence, and the difference.
            error[row, token] = ULP * (2 * abs(x) + 3 * (abs(presence) + abs(frequency) * count))
    tokens = sample(logits, sampling)
    found = sample.program.logits(ROWS)
    assert (np.abs(found - expected) <= error).all()
    assert tokens == [int(np.argmax(row)) for row in found]
    assert (np.argmax(found, axis=1) != np.argmax(logits, axis=1)).any()


def test_presence_and_frequency_leave_the_prompt_alone(sample: Sampler) -> None:
    seen, counts = np.array([1, 2], np.int32), np.array([0, 2], np.int32)
    logits = np.zeros((1, VOCAB), np.float32)
    sample(
        logits, [RowSampling(0.0, presence_penalty=0.5, frequency_penalty=0.25, seen_tokens=seen, seen_counts=counts)]
    )
    found = sample.program.logits(1)[0]
    assert (found[0], found[1], found[2]) == (0, 0, -1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.nan])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_F76_logits_that_are_no_numbers_give_no_token(sample: Sampler, value: float, temperature: float) -> None:
    logits = np.zeros((4, VOCAB), np.float32)
    logits[1, VOCAB - 1] = value
    logits[2] = -np.inf
    logits[3, 1:] = -np.inf  # masked: one token is left
    tokens = sample(logits, [RowSampling(temperature, top_p=0.9, seed=1)] * 4)
    assert tokens[1:] == [-1, -1, 0]
    assert tokens[0] >= 0


@pytest.mark.parametrize("s", [RowSampling(1.0), RowSampling(1.0, top_k=200), RowSampling(1.0, top_p=0.999)])
def test_masked_tokens_are_never_drawn(sample: Sampler, s: RowSampling) -> None:
    logits = np.full((ROWS, VOCAB), -np.inf, np.float32)
    logits[:, 100:110] = 0
    drawn = set(sample(logits, [dataclasses.replace(s, counter=i) for i in range(ROWS)]))
    assert drawn <= set(range(100, 110))
    assert len(drawn) > 5


def test_masked_rows_are_drawn_as_if_the_others_were_not_there(sample: Sampler) -> None:
    random = np.random.default_rng(6)
    logits, sampling, expected = rows_of(random), [], []
    for row in logits:
        allowed = random.random(VOCAB) < random.choice([0.01, 0.3, 0.9])
        allowed[random.integers(VOCAB)] = True
        s = random_sampling(random)
        sampling.append(dataclasses.replace(s, mask=mask_of(allowed)))
        expected.append(acceptable(np.where(allowed, row, np.float32(-np.inf)), s))
    tokens = sample(logits, sampling)
    assert all(token in choices for token, choices in zip(tokens, expected, strict=True))
    assert sample.program.logits(ROWS).tobytes() == logits.tobytes()  # a mask leaves them alone
    greedy = [dataclasses.replace(s, temperature=0.0) for s in sampling]
    best = [int(np.argmax(np.where(allowed_of(s), row, -np.inf))) for row, s in zip(logits, sampling, strict=True)]
    assert sample(logits, greedy) == best
    assert sample(logits[:1], [RowSampling(1.0, mask=mask_of(np.zeros(VOCAB, bool)))]) == [-1]


def allowed_of(s: RowSampling) -> npt.NDArray[np.bool_]:
    mask = s.wait_for_mask()
    assert mask is not None
    return np.unpackbits(mask.view(np.uint8), bitorder="little")[:VOCAB].astype(bool)


def test_biases_come_before_penalties(sample: Sampler) -> None:
    random = np.random.default_rng(7)
    logits = rows_of(random)
    sampling, expected = adjusted_rows(random, logits)
    tokens = sample(logits, sampling)
    assert sample.program.logits(ROWS).tobytes() == expected.tobytes()
    assert tokens == [int(np.argmax(row)) for row in expected]


def test_logits_are_kept_where_asked(sample: Sampler) -> None:
    random = np.random.default_rng(8)
    logits = rows_of(random)
    sampling, expected = adjusted_rows(random, logits)
    tokens = sample(logits, [dataclasses.replace(s, keep_logits=True) for s in sampling])
    assert sample.program.logits(ROWS).tobytes() == logits.tobytes()
    assert tokens == [int(np.argmax(row)) for row in expected]


def test_a_large_vocabulary(smollm2: Bundle) -> None:
    """Every path on SmolLM2's 49152 tokens."""
    sampler = Sampler(smollm2, LEVELS[0])
    random = np.random.default_rng(5)
    logits = random.normal(0, 3, (16, sampler.vocab_size)).astype(np.float32)
    sampling = [dataclasses.replace(random_sampling(random), top_k=int(k)) for k in random.choice([0, 40, 5000], 16)]
    for row, s, token in zip(logits, sampling, sampler(logits, sampling), strict=True):
        assert token in acceptable(row, s), s
    sampler.program.close()
