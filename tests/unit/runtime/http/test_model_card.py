"""Facts about models, for lists of them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rocmforge.runtime.http.core import model_card
from rocmforge.tests.support.fake_engine import MODEL


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (134_515_008, "134.52M"),
        (8_030_261_248, "8.0B"),
        (7_000_000_000, "7B"),
        (13_015_864_320, "13.0B"),
        (1_000_000_000, "1B"),
        (1_000_000, "1M"),
        (4_096, "4K"),
        (1_000, "1K"),
        (999, "999"),
        (12, "12"),
        (0, ""),
    ],
)
def test_parameters_for_people(count: int, text: str) -> None:
    """As `ollama list` of the same models shows them; 0 is a number that nobody knows."""
    assert model_card.parameters_text(replace(MODEL, parameters=count)) == text


def test_bits_per_weight() -> None:
    assert model_card.bits_per_weight(replace(MODEL, parameters=1000, size_bytes=625)) == 5.0
    assert model_card.bits_per_weight(replace(MODEL, parameters=0)) is None


def test_digest() -> None:
    digest = "0123456789abcdef" * 4
    assert model_card.digest(replace(MODEL, fingerprint=f"sha256:{digest}")) == digest
    assert model_card.digest(replace(MODEL, fingerprint="")) == "0" * 64


def test_dates() -> None:
    assert model_card.rfc3339(1700000000.25) == "2023-11-14T22:13:20.250000Z"


def test_a_file_that_says_nothing() -> None:
    bare = replace(MODEL, metadata={"general.architecture": 3, "general.size_label": "8B"}, parameters=0)
    assert (model_card.architecture(bare), model_card.publisher(bare)) == ("unknown", "unknown")
    assert (model_card.display_name(bare), model_card.parameters_text(bare)) == ("org/tiny:q4", "8B")
    assert (model_card.hidden_size(bare), model_card.num_layers(bare)) == (None, None)
    assert model_card.trained_context(bare) == 128
    assert model_card.trained_context(MODEL) == 256
