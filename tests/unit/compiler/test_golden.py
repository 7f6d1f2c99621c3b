"""Golden records at compile time: made anew wherever weights, layout, code or prompts differ."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rocmforge.artifacts.errors import GgufError
from rocmforge.artifacts.layout import Layout
from rocmforge.artifacts.manifest_entries import PartFacts
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.golden import (
    GOLDEN_TEXTS,
    MAX_ANSWER_TOKENS,
    MAX_PROMPT_TOKENS,
    check_golden,
    golden_prompts,
    golden_records,
    take_tolerance,
)
from rocmforge.compiler.tokenizer import TokenizerArtifact, build_tokenizer
from rocmforge.tests.support.bundle import LAYOUT
from rocmforge.tests.support.tokenizers import tiny

WEIGHTS = Path("weights.bin")
OTHER: dict[str, Any] = {
    "layout": dataclasses.replace(LAYOUT, max_seq_len=LAYOUT.max_seq_len - 1),
    "weights_sha256": "b" * 64,
    "code": b"other code",
    "prompts": [[1, 2], [3, 4]],
}


def test_records_are_made_once_for_all_that_decides_them(tmp_path: Path) -> None:
    made: list[tuple[object, ...]] = []

    def make(
        layout: Layout, weights: Path, code: bytes, prompts: Sequence[Sequence[int]], part: PartFacts | None = None
    ) -> list[dict[str, object]]:
        assert part is None
        made.append((layout, weights, code, prompts))
        return [{"number": len(made)}]

    fields: dict[str, Any] = {"layout": LAYOUT, "weights_sha256": "a" * 64, "code": b"code", "prompts": [[1, 2], [3]]}
    rest: dict[str, Any] = {"weights": WEIGHTS, "cache": BuildCache(tmp_path), "make_golden": make}
    for _ in range(2):
        assert golden_records(**fields, **rest) == [{"number": 1}]
    assert made == [(LAYOUT, WEIGHTS, b"code", [[1, 2], [3]])]
    for number, (name, value) in enumerate(OTHER.items(), 2):
        for _ in range(2):
            assert golden_records(**{**fields, name: value}, **rest) == [{"number": number}], name
    assert golden_records(**fields, **rest) == [{"number": 1}]


def artifact() -> TokenizerArtifact:
    return build_tokenizer(tiny(), Path("model.gguf"))


@pytest.mark.parametrize("max_seq_len", [1, 4, 5, 6, 19, 20, 21, 4096])
def test_prompts_leave_room_for_an_answer(max_seq_len: int) -> None:
    prompts = golden_prompts(artifact(), max_seq_len)
    longest = max(1, min(MAX_PROMPT_TOKENS, max_seq_len - MAX_ANSWER_TOKENS))
    assert [len(prompt) for prompt in prompts] == [longest] * len(GOLDEN_TEXTS)
    assert [prompt[0] for prompt in prompts] != [prompts[0][0]] * len(prompts)


def test_a_prompt_is_never_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rocmforge.compiler.golden.GOLDEN_TEXTS", ("", "a"))
    prompts = golden_prompts(artifact(), 64)
    assert prompts[0] == [0]
    assert len(prompts[1]) == 1


@pytest.mark.parametrize("logit", [math.nan, math.inf, -math.inf])
def test_F76_logits_that_are_not_finite_are_refused(logit: float) -> None:
    check_golden([{"top": [[3, 1.0], [4, -2.0]]}], Path("m.gguf"))
    with pytest.raises(GgufError, match=r"m\.gguf: weights: expected finite logits, found .* for token 4"):
        check_golden([{"top": [[3, 1.0]]}, {"top": [[3, 1.0], [4, logit]]}], Path("m.gguf"))


@pytest.mark.parametrize(
    "noises,tolerance", [((), 1.0), ((0.1, 0.2), 1.0), ((0.2, 0.2), 1.0), ((0.3, 0.4), 1.8), ((1.0,), 5.0)]
)
def test_the_tolerance_follows_from_what_roundings_change(
    noises: tuple[float, ...], tolerance: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Five times the root mean square, in tenths, and never less than what a calm model has."""
    records: list[dict[str, object]] = [{"top": [], "noise": noise} for noise in noises] or [{"top": []}]
    assert take_tolerance(records, Path("m.gguf")) == tolerance
    assert all(record == {"top": []} for record in records)
    assert bool(caplog.records) == (tolerance > 1)
