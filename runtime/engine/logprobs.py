"""Log-probabilities of a step's tokens, drawn or of a prompt, for clients that ask for them.

They are those of the model itself: the softmax of the row of logits as it left the model, before biases, penalties,
temperature and masks. So do OpenAI's service (a bias does not show in them) and llama.cpp's server by default.
"""

from __future__ import annotations

import numpy as np

from ...artifacts.dataclass import dataclass
from ..device.batch import Float32


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """The natural logarithm of a token's probability, the likeliest tokens with theirs, and its place among all.

    `top`: likeliest first, equally likely ones by id; so is `rank` counted, from 1.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()
    rank: int = 1


def token_logprobs(logits: Float32, token: int, num_top: int) -> TokenLogprobs:
    """Logarithms of probabilities, in float64.

    Args:
        logits: float32[vocab_size], a row as the model made it; finite or -infinity, one finite at least.
        token: the one that was drawn, or that stands in the prompt.
        num_top: how many of the likeliest to list.
    """
    largest, own = logits.max().astype(np.float64), logits[token]
    exponentials = logits.astype(np.float64)
    exponentials -= largest
    np.exp(exponentials, out=exponentials)
    normalizer = largest + np.log(exponentials.sum())
    top: tuple[tuple[int, float], ...] = ()
    if num_top:
        num_top = min(num_top, len(logits))
        least = np.partition(logits, len(logits) - num_top)[len(logits) - num_top]
        ids = np.flatnonzero(logits >= least)  # more than asked for where there are ties
        ids = ids[np.argsort(-logits[ids], kind="stable")][:num_top]
        top = tuple((int(i), float(logits[i] - normalizer)) for i in ids)
    rank = 1 + np.count_nonzero(logits > own) + np.count_nonzero(logits[:token] == own)
    return TokenLogprobs(token, float(own - normalizer), top, int(rank))
