"""Sampling in NumPy, and which tokens a row may draw."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from rocmforge.runtime.device.batch import RowSampling

Logits = npt.NDArray[np.float32]
VOCAB = 321  # no multiple of 16: the last vector is a short one
ULP = 2.0**-24

# A weight is e^x with x = (logit - largest) / temperature, from -87 to 0. The subtraction and the division round x
# by 2 ULP relative, 2 x 87 ULP absolute, which is relative to e^x; the exponential's own steps add 10 ULP at most.
WEIGHT_ERROR = (2 * 87 + 10) * ULP


def uniform(seed: int, counter: int) -> float:
    """SplitMix64 (Steele, Lea, Flood 2014), its counter-th output, as a fraction of 53 bits."""
    mask = (1 << 64) - 1
    z = (seed + (counter + 1) * 0x9E3779B97F4A7C15) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return ((z ^ (z >> 31)) >> 11) / (1 << 53)


def typical(x: npt.NDArray[np.float64], shares: list[float], shifts: list[float]) -> Iterator[npt.NDArray[np.bool_]]:
    """Meister et al. 2023, equation 12: the fewest tokens that make up a share, those first whose information is
    nearest to the entropy; equally near ones stay together. `x` are logits, a shift moves the entropy."""
    p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    information = -np.log(np.where(p > 0, p, 1))
    for shift in shifts:
        distance = np.abs(information - (p * information).sum() - shift)
        distance[p == 0] = np.inf
        order = np.argsort(distance, kind="stable")
        cumulative = np.cumsum(p[order])
        for share in shares:
            last = min(int(np.searchsorted(cumulative, share)), len(x) - 1)
            yield distance <= distance[order[last]]


def kept(
    x: npt.NDArray[np.float64], weights: npt.NDArray[np.float64], s: RowSampling, limits: set[tuple[float, float]]
) -> Iterator[npt.NDArray[np.int64]]:
    """The tokens that top_k, and pairs of top_p and min_p, leave; each set once."""
    ranked = np.arange(len(x))
    by_rank = 0 < s.top_k < len(x) or s.top_p < 1
    if by_rank:
        ranked = np.lexsort((ranked, -x))[: s.top_k or None]
        cumulative = np.cumsum(weights[ranked])
    seen = set()
    for top_p, min_p in limits:
        ids = ranked[: np.searchsorted(cumulative, top_p * cumulative[-1]) + 1] if by_rank else ranked
        ids = ids[weights[ids] >= min_p]
        if ids.tobytes() not in seen:
            seen.add(ids.tobytes())
            yield ids


def acceptable(logits: Logits, s: RowSampling) -> set[int]:
    """The token at the point that is drawn, of the distribution that all filters leave, in float64; where a limit lies
    within rounding of a token's edge, those at both sides.

    `logits` have their penalties applied. Both sides of each comparison are sums of weights: 2 WEIGHT_ERROR.
    """
    x = logits.astype(np.float64)
    if s.temperature == 0:
        return {int(np.argmax(x))}
    point = uniform(s.seed, s.counter)
    off = 2 * WEIGHT_ERROR
    points = [min(point * c, 1.0) for c in (1 - off, 1, 1 + off)]
    limits = {
        (s.top_p * a, s.min_p * b)
        for a in (1 - off, 1, 1 + off)
        for b in (1 - off, 1, min(1 + off, 1 / max(s.min_p, 1e-9)))
    }
    # The mean of x, at most 87, is as exact as its weights and x itself.
    shares, shifts = [s.typical_p * t for t in (1 - off, 1, 1 + off)], [-87 * off, 0, 87 * off]
    weights = np.exp((x - x.max()) / s.temperature)
    drawn: set[int] = set()
    for ids in kept(x, weights, s, limits):
        left = [ids] if s.typical_p >= 1 else [ids[near] for near in typical(x[ids] / s.temperature, shares, shifts)]
        for tokens in left:
            cumulative = np.cumsum(weights[tokens])
            found = np.searchsorted(cumulative, np.array(points) * cumulative[-1], side="right")
            drawn |= set(tokens[np.minimum(found, len(tokens) - 1)].tolist())
    return drawn


def random_sampling(random: np.random.Generator) -> RowSampling:
    return RowSampling(
        temperature=float(np.float32(random.choice([0.1, 0.5, 0.7, 1.0, 1.5, 10.0]))),
        top_k=int(random.choice([0, 0, 1, 2, 40, VOCAB - 1, VOCAB, 10**6])),
        top_p=float(np.float32(random.choice([1.0, 1.0, 0.1, 0.5, 0.9, 0.99, 0.9999]))),
        min_p=float(np.float32(random.choice([0.0, 0.0, 0.01, 0.1, 0.5]))),
        seed=int(random.integers(0, 1 << 64, dtype=np.uint64)),
        counter=int(random.integers(0, 1 << 20)),
        typical_p=float(np.float32(random.choice([1.0, 1.0, 0.2, 0.9]))),
    )


def mask_of(allowed: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint32]:
    """A bit a token, the lowest first."""
    bits = np.packbits(np.pad(allowed, (0, -len(allowed) % 32)), bitorder="little")
    return bits.view(np.uint32)


def adjusted_rows(random: np.random.Generator, logits: Logits) -> tuple[list[RowSampling], Logits]:
    """Biases and penalties that overlap, and the logits after them: each operation rounds once, to float32."""
    sampling, expected = [], logits.copy()
    for row in range(len(logits)):
        biased, seen = (random.permutation(VOCAB)[: random.integers(0, 200)].astype(np.int32) for _ in range(2))
        biases = random.uniform(-100, 100, len(biased)).astype(np.float32)
        counts = random.integers(0, 4, len(seen)).astype(np.int32)
        sampling.append(
            RowSampling(
                0.0,
                repetition_penalty=2.0,
                presence_penalty=0.5,
                frequency_penalty=0.25,
                seen_tokens=seen,
                seen_counts=counts,
                bias_tokens=biased,
                biases=biases,
            )
        )
        expected[row, biased] += biases
        x = expected[row, seen]
        x = np.where(x > 0, x / np.float32(2), x * np.float32(2))
        taken = np.float32(0.5) + np.float32(0.25) * counts.astype(np.float32)
        expected[row, seen] = np.where(counts > 0, x - taken, x)
    return sampling, expected
