"""Sampling in NumPy, and which tokens a row may draw."""

from __future__ import annotations

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


def typical(x: npt.NDArray[np.float64], typical_p: float, shift: float) -> npt.NDArray[np.bool_]:
    """Meister et al. 2023, equation 12: the fewest tokens that make up typical_p, those first whose information is
    nearest to the entropy; equally near ones stay together. `x` are logits, `shift` moves the entropy."""
    p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
    information = -np.log(np.where(p > 0, p, 1))
    distance = np.abs(information - (p * information).sum() - shift)
    distance[p == 0] = np.inf
    order = np.argsort(distance, kind="stable")
    last = min(int(np.searchsorted(np.cumsum(p[order]), typical_p)), len(x) - 1)
    near: npt.NDArray[np.bool_] = distance <= distance[order[last]]
    return near


def draw(
    logits: Logits, s: RowSampling, top_p: float, min_p: float, points: list[float], typical_p: float, shift: float
) -> set[int]:
    """The tokens at `points` of the distribution that is left after all filters, in float64."""
    x = logits.astype(np.float64)
    if s.temperature == 0:
        return {int(np.argmax(x))}
    ids = np.arange(len(x))
    weights = np.exp((x - x.max()) / s.temperature)
    if 0 < s.top_k < len(x) or s.top_p < 1:
        ids = np.lexsort((ids, -x))[: s.top_k or None]
        cumulative = np.cumsum(weights[ids])
        ids = ids[: np.searchsorted(cumulative, top_p * cumulative[-1]) + 1]
    ids = ids[weights[ids] >= min_p]
    if s.typical_p < 1:
        ids = ids[typical(x[ids] / s.temperature, typical_p, shift)]
    cumulative = np.cumsum(weights[ids])
    found = np.searchsorted(cumulative, np.array(points) * cumulative[-1], side="right")
    return set(ids[np.minimum(found, len(ids) - 1)].tolist())


def acceptable(logits: Logits, s: RowSampling) -> set[int]:
    """The oracle's token; where a limit lies within rounding of a token's edge, those at both sides.

    `logits` have their penalties applied. Both sides of each comparison are sums of weights: 2 WEIGHT_ERROR.
    """
    point = uniform(s.seed, s.counter)
    off = 2 * WEIGHT_ERROR
    # The mean of x, at most 87, is as exact as its weights and x itself.
    nudges = [(t, d) for t in (1 - off, 1, 1 + off) for d in (-87 * off, 0, 87 * off)] if s.typical_p < 1 else [(1, 0)]
    points = [min(point * c, 1.0) for c in (1 - off, 1, 1 + off)]
    limits = {
        (s.top_p * a, s.min_p * b)
        for a in (1 - off, 1, 1 + off)
        for b in (1 - off, 1, min(1 + off, 1 / max(s.min_p, 1e-9)))
    }
    drawn = (draw(logits, s, *limit, points, s.typical_p * t, d) for t, d in nudges for limit in limits)
    return set().union(*drawn)


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
