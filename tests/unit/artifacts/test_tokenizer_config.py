"""What a manifest says of a tokenizer: round trips, and values that nobody should trust."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rocmforge.artifacts.errors import BundleError
from rocmforge.artifacts.tokenizer_config import InfillTokens, TokenizerConfig

PATH = Path("model.rfb/manifest.json")

CONFIG = TokenizerConfig(1, (2, 5), True, False, "<s>", "</s>", 10, 2)


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        TokenizerConfig(0, (0,), True, True, "<s>", "<s>", 10, 0),
        TokenizerConfig(9, (2, 9), False, False, "</s>", "</s>", 10, 9),
        TokenizerConfig(None, (), False, False, "", "", 1, None),
        TokenizerConfig(1, (2,), True, True, "a", "b", 10, 2, 3, InfillTokens(4, 5, 6, repo=9)),
    ],
)
def test_config_round_trip(config: TokenizerConfig) -> None:
    obj = json.loads(json.dumps(config.to_json()))
    assert TokenizerConfig.from_json(PATH, obj) == config


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bos_token_id", 10),
        ("bos_token_id", None),
        ("bos_token_id", True),
        ("eos_token_ids", [5, 2]),
        ("eos_token_ids", [2, "5"]),
        ("eos_token_ids", 2),
        ("eos_token_ids", [2, 10]),
        ("eos_token_id", 3),
        ("add_bos", 1),
        ("bos_token", None),
        ("bos_token", "x" * 5000),
        ("vocab_size", 0),
        ("vocab_size", 1e9),
        ("unheard_of", 1),
        ("sep_token_id", 10),
        ("infill", []),
        ("infill", {"prefix": 10}),
        ("infill", {"prefix": None}),
        ("infill", {"other": 1}),
    ],
)
def test_bad_config_is_refused(key: str, value: object) -> None:
    with pytest.raises(BundleError):
        TokenizerConfig.from_json(PATH, {**CONFIG.to_json(), key: value})
    with pytest.raises(BundleError):
        TokenizerConfig.from_json(PATH, [])


def test_a_bad_field_of_a_config_is_named() -> None:
    with pytest.raises(BundleError, match=r"eos_token_ids: expected token ids below 10, found 10"):
        TokenizerConfig.from_json(PATH, {**CONFIG.to_json(), "eos_token_ids": [2, 10]})


FIELDS = [
    "add_bos", "add_eos", "bos_token", "bos_token_id", "eos_token", "eos_token_id", "eos_token_ids", "vocab_size"
]  # fmt: skip


def test_the_json_of_a_config() -> None:
    assert CONFIG.to_json() == {
        "add_bos": True,
        "add_eos": False,
        "bos_token": "<s>",
        "bos_token_id": 1,
        "eos_token": "</s>",
        "eos_token_id": 2,
        "eos_token_ids": [2, 5],
        "vocab_size": 10,
    }


@pytest.mark.parametrize(
    "changes, problem",
    [
        ({"vocab_size": 0}, "vocab_size: expected an integer from 1 to 16777216, found 0"),
        ({"vocab_size": (1 << 24) + 1}, "vocab_size: expected an integer from 1 to 16777216, found 16777217"),
        ({"vocab_size": True}, "vocab_size: expected an integer from 1 to 16777216, found True"),
        ({"vocab_size": 10.0}, "vocab_size: expected an integer from 1 to 16777216, found 10.0"),
        ({"bos_token_id": 10}, "bos_token_id: expected an integer from 0 to 9, found 10"),
        ({"bos_token_id": -1}, "bos_token_id: expected an integer from 0 to 9, found -1"),
        ({"bos_token_id": False}, "bos_token_id: expected an integer from 0 to 9, found False"),
        ({"bos_token_id": None}, "add_bos: expected a bos_token_id beside it, found none"),
        ({"eos_token_id": 10}, "eos_token_id: expected an integer from 0 to 9, found 10"),
        ({"eos_token_id": 3}, "eos_token_id: expected one of eos_token_ids"),
        ({"add_eos": True, "eos_token_id": None}, "add_eos: expected an eos_token_id beside it, found none"),
        ({"eos_token_ids": "25"}, "eos_token_ids: expected a list of token ids, found '25'"),
        ({"vocab_size": 6, "eos_token_ids": [0] * 7}, f"eos_token_ids: expected a list of token ids, found {[0] * 7}"),
        ({"eos_token_ids": [2, 10]}, "eos_token_ids: expected token ids below 10, found 10"),
        ({"eos_token_ids": [-1, 2]}, "eos_token_ids: expected token ids below 10, found -1"),
        ({"eos_token_ids": [True, 2]}, "eos_token_ids: expected token ids below 10, found True"),
        ({"eos_token_ids": [2.0]}, "eos_token_ids: expected token ids below 10, found 2.0"),
        ({"eos_token_ids": [5, 2]}, "eos_token_ids: expected ascending token ids without repetition, found [5, 2]"),
        ({"eos_token_ids": [2, 2]}, "eos_token_ids: expected ascending token ids without repetition, found [2, 2]"),
        ({"add_bos": 1}, "add_bos: expected true or false, found 1"),
        ({"add_eos": None}, "add_eos: expected true or false, found None"),
        ({"bos_token": 3}, "bos_token: expected a string of at most 4096 characters, found 3"),
        ({"eos_token": "x" * 4097}, f"eos_token: expected a string of at most 4096 characters, found '{'x' * 79}"),
        ({"more": 1}, f": expected the keys {FIELDS}, found {sorted([*FIELDS, 'more'])}"),
    ],
)
def test_what_is_wrong_with_a_config_is_said(changes: dict[str, object], problem: str) -> None:
    with pytest.raises(BundleError) as caught:
        TokenizerConfig.from_json(PATH, CONFIG.to_json() | changes)
    assert str(caught.value) == f"{PATH}: tokenizer{'' if problem.startswith(':') else '.'}{problem}"


def test_a_config_that_is_no_object_or_lacks_a_key_is_refused() -> None:
    with pytest.raises(BundleError) as caught:
        TokenizerConfig.from_json(PATH, [], field="words")
    assert str(caught.value) == f"{PATH}: words: expected an object, found list"
    fields = CONFIG.to_json()
    del fields["eos_token"]
    with pytest.raises(BundleError) as caught:
        TokenizerConfig.from_json(PATH, fields)
    expected = [name for name in FIELDS if name != "eos_token"]
    assert str(caught.value) == f"{PATH}: tokenizer: expected the keys {FIELDS}, found {expected}"


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": 1 << 24},
        {"bos_token_id": 0},
        {"bos_token_id": 9, "bos_token": "x" * 4096},
        {"vocab_size": 6, "bos_token_id": 5},
        {"eos_token_ids": list(range(10))},
        {"eos_token_ids": [], "eos_token_id": None},
        {"bos_token_id": None, "add_bos": False},
        {"add_eos": True, "eos_token_id": 5},
    ],
)
def test_the_last_values_that_are_taken(changes: dict[str, object]) -> None:
    fields = CONFIG.to_json() | changes
    assert TokenizerConfig.from_json(PATH, fields).to_json() == fields
