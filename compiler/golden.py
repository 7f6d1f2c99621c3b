"""Golden records at compile time: prompts run on the host's portable code, kept in the cache."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from ..artifacts.errors import GgufError, printable
from ..artifacts.layout import Layout
from ..artifacts.layout_file import encode_layout
from ..artifacts.manifest_entries import PartFacts
from ..artifacts.token_table import TokenTable, is_token_table
from ..artifacts.vision import VISION_PART
from .build_cache import BuildCache, cache_key
from .parts import PartModel
from .target import GOLDEN_TOLERANCE
from .tokenizer import TokenizerArtifact

log = logging.getLogger(__name__)

GOLDEN_TEXTS = ("The capital of France is", "def fibonacci(n):\n    ")
MAX_PROMPT_TOKENS = 16
MAX_ANSWER_TOKENS = 4  # a record's greedy tokens; runtime/device/golden.py

NOISES: Final = 5
"""Times the noise that a logit may differ by: docs/gpu.md."""

LEAST_OF_SPREAD: Final = 2.0**-6
"""Of what rows of an encoder of images spread over, as much as a number of them may differ by at least: keys and values
are rounded to float16, 2^-11, in each of some 30 layers; and a factor of five."""


class GoldenMaker(Protocol):
    """Runs prompts on the portable code of a model, or of a part of its bundle."""

    def __call__(
        self,
        layout: Layout,
        weights: Path,
        code: bytes,
        prompts: Sequence[Sequence[int]],
        part: PartFacts | None = None,
        /,
    ) -> list[dict[str, object]]:
        """Return golden records with their `noise`; those of a part with their `spread` too.

        Args:
            layout: of the code.
            weights: path of weights.bin.
            code: the portable code object.
            prompts: token ids.
            part: whose code it is; None: the model's own.
        """


def golden_prompts(tokenizer: TokenizerArtifact, max_seq_len: int) -> list[list[int]]:
    """Return the token ids of the texts, never empty, that leave room for an answer in a context of `max_seq_len`."""
    longest = max(1, min(MAX_PROMPT_TOKENS, max_seq_len - MAX_ANSWER_TOKENS))
    if is_token_table(tokenizer.json):
        table = TokenTable.from_json(tokenizer.json)
        return [_tokens_of(table, text)[:longest] or [0] for text in GOLDEN_TEXTS]
    from tokenizers import Tokenizer  # noqa: PLC0415 - slow to import, and not needed by `rfc --help`

    encoder = Tokenizer.from_str(tokenizer.json)
    return [encoder.encode(text).ids[:longest] or [0] for text in GOLDEN_TEXTS]


def _tokens_of(table: TokenTable, text: str) -> list[int]:
    """Return the longest token at each place of a text; for a record those will do that the rule would find or not."""
    ids = {token: i for i, token in enumerate(table.texts)}
    rest, found = text.replace(" ", "\u2581"), []
    while rest:
        size = next((size for size in range(len(rest), 0, -1) if rest[:size] in ids), 0)
        found += [ids[rest[:size]]] if size else []
        rest = rest[size or 1 :]
    return found


def check_golden(records: Sequence[Mapping[str, Any]], model: Path) -> None:
    """Refuse a model whose logits are not finite.

    Raises:
        GgufError: they are not.
    """
    for record in records:
        for token, logit in record["top"]:
            if not math.isfinite(logit):
                raise GgufError(model, "weights", f"expected finite logits, found {logit} for token {token}")


def take_tolerance(records: Sequence[dict[str, object]], model: Path) -> float:
    """Take the noise out of records; return the tolerance that follows from it, in logits, warning where it is large.

    A model that no rounding should change gets `GOLDEN_TOLERANCE`.
    """
    noises = [float(str(record.pop("noise", 0.0))) for record in records]
    noise = math.sqrt(math.fsum(one * one for one in noises) / max(1, len(noises)))
    if NOISES * noise <= GOLDEN_TOLERANCE:
        return GOLDEN_TOLERANCE
    log.warning(
        "%s: rounding alone moves its logits by %.1f, so golden records prove little: too few bits for its weights?",
        printable(model),
        noise,
    )
    return math.ceil(10 * NOISES * noise) / 10


def check_part(records: Sequence[Mapping[str, Any]], part: PartModel) -> None:
    """Refuse a part whose rows are not finite.

    Raises:
        InputError: they are not; names the file of its weights.
    """
    for number in (number for record in records for row in record["rows"] for _, number in row["top"]):
        if not math.isfinite(number):
            raise part.source.error("weights", f"expected finite numbers of the part {part.name}, found {number}")


def take_part_tolerance(records: Sequence[dict[str, object]], part: PartModel) -> float:
    """Take noise and spread out of a part's records; return the tolerance that follows, as `take_tolerance` for logits.

    Rows of images may be of any size: what they may differ by is a share of what they spread over.
    """
    spreads = [float(str(record.pop("spread"))) for record in records]
    if part.name != VISION_PART:
        return take_tolerance(records, part.source.path)
    noise = max(float(str(record.pop("noise", 0.0))) for record in records)
    return float(f"{max(NOISES * noise, LEAST_OF_SPREAD * max(spreads)):.3g}")


def golden_records(
    layout: Layout,
    weights: Path,
    weights_sha256: str,
    code: bytes,
    prompts: list[list[int]],
    cache: BuildCache,
    make_golden: GoldenMaker,
    part: PartFacts | None = None,
) -> list[dict[str, object]]:
    """Return the records of `prompts`, from the cache where the same weights and code have made them before."""
    of_part = () if part is None else (json.dumps(part, sort_keys=True),)
    key = cache_key(weights_sha256, encode_layout(layout), code, json.dumps(prompts), "noises", *of_part)
    found = cache.get("golden", key)
    if found is not None:
        records: list[dict[str, object]] = json.loads(found)
        return records
    records = make_golden(layout, weights, code, prompts, part)
    cache.put("golden", key, json.dumps(records).encode())
    return records
