"""The tokenizer built from a GGUF vocabulary, compared with llama.cpp's ids, and its refusals."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from rocmforge.artifacts.errors import GgufError, InputError
from rocmforge.artifacts.pre_tokenizers import PRE_TOKENIZERS
from rocmforge.artifacts.token_table import CONTROL, NORMAL, UNUSED, USER_DEFINED
from rocmforge.artifacts.tokenizer_config import InfillTokens, TokenizerConfig
from rocmforge.compiler.tokenizer import build_tokenizer, byte_to_char, load_tokenizer_json
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.tokenizers import tiny

ROOT = Path(__file__).resolve().parents[3]
DATA = ROOT / "tests" / "data"
PATH = Path("model.gguf")
HARD_STRINGS: list[str] = json.loads((DATA / "hard_strings.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def smollm2_metadata(smollm2_gguf: Path) -> dict[str, object]:
    reader = GGUFReader(str(smollm2_gguf))
    return {name: field.contents() for name, field in reader.fields.items()}


@pytest.fixture(scope="session")
def extended(smollm2_metadata: Mapping[str, object]) -> dict[str, object]:
    """The vocabulary with which the goldens of the other pre-tokenizers were made."""
    metadata = smollm2_metadata
    spec = importlib.util.spec_from_file_location("oracle", ROOT / "tools" / "generate" / "tokenizer_oracle.py")
    assert spec is not None
    assert spec.loader is not None
    oracle = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(oracle)
    keys = [f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "merges")]
    return {**metadata, **dict(zip(keys, oracle.extended(*[metadata[k] for k in keys]), strict=True))}


@pytest.mark.parametrize("pre", ["smollm", "llama-bpe", "qwen2", "gpt-2", "default"])
def test_ids_equal_those_of_llama_cpp(
    smollm2_metadata: Mapping[str, object], extended: Mapping[str, object], pre: str
) -> None:
    metadata = smollm2_metadata
    name = "smollm2"
    if pre != "smollm":
        metadata = {**extended, "tokenizer.ggml.pre": pre}
        name = pre.replace("-", "_")
    golden = json.loads((DATA / f"{name}_token_ids.json").read_text(encoding="utf-8"))
    artifact = build_tokenizer(metadata, PATH)
    tokenizer = Tokenizer(artifact.json, artifact.config)
    assert len(golden) == len(HARD_STRINGS) >= 220
    wrong = [
        (text, ids, ours)
        for text, ids in zip(HARD_STRINGS, golden, strict=True)
        if (ours := tokenizer.encode(text, add_special=False)) != ids
    ]
    assert wrong == []


def test_config_of_smollm2(smollm2_metadata: Mapping[str, object]) -> None:
    artifact = build_tokenizer(smollm2_metadata, PATH)
    # 4 is <reponame>, a fill-in-the-middle separator that llama.cpp also stops at.
    assert artifact.config == TokenizerConfig(1, (0, 2, 4), False, False, "<|im_start|>", "<|im_end|>", 49152, 2)
    assert artifact.chat_template is not None
    assert artifact.json == build_tokenizer(smollm2_metadata, PATH).json


def tiny_tokenizer(**changes: Any) -> Tokenizer:
    artifact = build_tokenizer(tiny(**changes), PATH)
    return Tokenizer(artifact.json, artifact.config)


def test_merges_and_special_tokens() -> None:
    tokenizer = tiny_tokenizer()
    assert tokenizer.encode("abc<|im_end|> a", add_special=False) == [259, 1, 260]
    assert 1 not in tokenizer.encode("abc<|im_end|>", parse_special=False)


def test_a_merge_whose_first_token_begins_with_the_space() -> None:
    """The space that parts the two is not the first character: tokens may hold raw spaces."""
    tokens = ["<s>", "<|im_end|>", *byte_to_char().values(), " ", " a", " a b", " b"]
    artifact = build_tokenizer(
        tiny(tokens=tokens, token_type=[CONTROL] * 2 + [NORMAL] * (len(tokens) - 2), merges=["  a", " a  b"]), PATH
    )
    assert json.loads(artifact.json)["model"]["merges"] == [[" ", "a"], [" a", " b"]]


@pytest.mark.parametrize(
    ("pre", "said", "expected"),
    [
        ("llama-bpe", None, True),
        ("llama3", None, True),
        ("llama-bpe", False, False),
        ("gpt-2", None, False),
        ("qwen2", None, False),
        ("qwen2", True, True),
        ("default", None, False),
    ],
)
def test_add_bos(pre: str, said: bool | None, expected: bool) -> None:
    tokenizer = tiny_tokenizer(pre=pre, add_bos_token=said)
    assert tokenizer.config.add_bos is expected
    assert tokenizer.encode("a")[:1] == ([0] if expected else tokenizer.encode("a", add_special=False))


def test_add_eos() -> None:
    assert tiny_tokenizer(add_eos_token=True).encode("ab") == [258, 1]


def test_absent_pre_is_the_default_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert build_tokenizer(tiny(pre=None), PATH).json == build_tokenizer(tiny(pre="default"), PATH).json
    assert "tokenizer.ggml.pre" in caplog.text


def test_a_name_that_nobody_knows_is_the_default_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    artifact = build_tokenizer(tiny(pre="unheard-of\n"), PATH)
    assert artifact.json == build_tokenizer(tiny(pre="default"), PATH).json
    (record,) = caplog.records
    assert "model.gguf: tokenizer.ggml.pre 'unheard-of\\n' is not known" in record.getMessage()
    assert "--tokenizer tokenizer.json" in record.getMessage()


def test_kimi_may_lack_merges() -> None:
    assert tiny_tokenizer(pre="kimi-k2", merges=None).encode("ab", add_special=False) == [2 + 97, 2 + 98]


def test_a_byte_that_the_vocabulary_lacks_is_dropped_and_parts_its_neighbours() -> None:
    tokens = [t for t in tiny()["tokenizer.ggml.tokens"] if t != "!"]  # type: ignore[attr-defined]
    types = [CONTROL] * 2 + [NORMAL] * (len(tokens) - 2)
    tokenizer = tiny_tokenizer(tokens=tokens, token_type=types, pre="smollm", merges=["a b", "# #", "ab c"][:1])
    ids = tokenizer.encode("#!#", add_special=False)
    assert ids == [tokens.index("#")] * 2


def test_unused_tokens_have_no_bytes_and_are_not_found() -> None:
    metadata = tiny()
    tokens = [*metadata["tokenizer.ggml.tokens"], "[PAD]7"]  # type: ignore[misc]
    tokenizer = tiny_tokenizer(tokens=tokens, token_type=[CONTROL] * 2 + [NORMAL] * (len(tokens) - 3) + [UNUSED])
    assert tokenizer.token_bytes(len(tokens) - 1) == b""
    assert len(tokens) - 1 not in tokenizer.encode("[PAD]7")


def test_user_defined_tokens_are_found_longest_first() -> None:
    tokens = [*tiny()["tokenizer.ggml.tokens"], "<u>ab", "b<long>c"]  # type: ignore[misc]
    tokenizer = tiny_tokenizer(
        tokens=tokens, token_type=[CONTROL] * 2 + [NORMAL] * (len(tokens) - 4) + [USER_DEFINED] * 2
    )
    ids = tokenizer.encode("<u>ab<long>c", parse_special=False)
    assert ids[-1] == len(tokens) - 1
    assert tokenizer.decode(ids) == "<u>ab<long>c"


def with_tokens(*more: str, kind: int = NORMAL, **changes: Any) -> Tokenizer:
    tokens = [*tiny()["tokenizer.ggml.tokens"], *more]  # type: ignore[misc]
    types = [CONTROL] * 2 + [NORMAL] * (len(tokens) - len(more) - 2) + [kind] * len(more)
    return tiny_tokenizer(tokens=tokens, token_type=types, **changes)


@pytest.mark.parametrize("kind", [NORMAL, USER_DEFINED, CONTROL])
def test_a_token_with_the_name_of_an_end_is_a_control_token_whatever_its_type(kind: int) -> None:
    """As llama.cpp has it: the first of Qwen2's files call `</s>` a word."""
    tokenizer = with_tokens("</s>", "<|eot_id|>", "<other>", kind=kind)
    assert tokenizer.config.eos_token_ids == (1, 261, 262)
    assert tokenizer.encode("</s>", add_special=False) == [261]
    assert 261 not in tokenizer.encode("</s>", add_special=False, parse_special=False)
    assert tokenizer.decode([261, 262]) == ""


@pytest.mark.parametrize(
    "names, ends",
    [
        (("<|end|>", "<|return|>"), {"<|end|>", "<|return|>"}),
        (("<|end|>", "<|return|>", "<|call|>"), {"<|return|>", "<|call|>"}),
        (("<|end|>", "<|flush|>", "<|calls|>"), {"<|flush|>", "<|calls|>"}),
        (("</s>", "<eos>"), {"</s>", "<eos>"}),
        (("</s>", "<eos>", "<|tool_response>"), {"<eos>", "<|tool_response>"}),
        (("<fim-pad>", "<|file_sep|>", "<REPO>", "<PRE>"), {"<fim-pad>", "<|file_sep|>", "<REPO>"}),
    ],
)
def test_what_ends_a_generation_by_the_company_it_keeps(names: tuple[str, ...], ends: set[str]) -> None:
    config = with_tokens(*names, kind=CONTROL).config
    assert {names[i - 261] for i in config.eos_token_ids if i > 1} == ends


def test_a_word_that_ends_nothing_stays_text() -> None:
    tokenizer = with_tokens("</s>", "<|tool_response>", kind=CONTROL)
    assert tokenizer.decode([261]) == "</s>"
    assert 261 not in tokenizer.encode("</s>", add_special=False)


def test_tokens_for_filling_in_the_middle() -> None:
    """By name, by key, which comes first, and not where one of the three is missing."""
    names = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<PRE>")
    tokenizer = with_tokens(*names)
    assert tokenizer.config.infill == InfillTokens(261, 262, 263, 264)
    assert tokenizer.encode("<|fim_prefix|>a", add_special=False)[0] == 261
    assert with_tokens(*names, fim_pre_token_id=265).config.infill.prefix == 265
    assert with_tokens(*names, prefix_token_id=258, fim_rep_token_id=259).config.infill == InfillTokens(
        258, 262, 263, 264, 259
    )
    assert with_tokens(*names[:2]).config.infill == InfillTokens()


SCORED: list[dict[str, object]] = [
    {"scores": "1"},
    {"scores": [0.0]},
    {"scores": [float("nan")] * 261},
    {"scores": [[0.0]] * 261},
    {"precompiled_charsmap": "abc"},
    {"precompiled_charsmap": [1.5]},
    {"precompiled_charsmap": np.array([300], np.int32)},
    {"precompiled_charsmap": np.zeros(3, np.uint8)},
    {"precompiled_charsmap": np.array([4, 0, 0, 0, 1, 2, 3, 4], np.uint8)},
    {"precompiled_charsmap": np.array([4, 0, 0, 0, 1, 2, 3, 4, 5], np.uint8)},
    {"add_space_prefix": 1},
    {"remove_extra_whitespaces": "x"},
    {"unknown_token_id": 261},
]

RECORDED = Path(__file__).parents[2] / "data" / "refusals_tokenizer.txt"
BAD = [
    ("model", "hybriddna"),
    ("model", None),
    ("model", 7),
    ("pre", 3),
    ("tokens", None),
    ("tokens", []),
    ("tokens", "abc"),
    ("tokens", ["a", "a"]),
    ("tokens", ["a", 7]),
    ("tokens", ["a", "\ud800"]),
    ("token_type", [1]),
    ("token_type", "1"),
    ("token_type", 5),
    ("token_type", np.zeros((261, 2))),
    ("merges", None),
    ("merges", ["ab"]),
    ("merges", ["a zz"]),
    ("merges", ["b a"]),
    ("merges", [3]),
    ("bos_token_id", 261),
    ("eos_token_id", -1),
    ("eot_token_id", 1 << 40),
    ("bos_token_id", "0"),
    ("bos_token_id", True),
    ("add_bos_token", 1),
]


@pytest.mark.parametrize(("field", "value"), BAD, ids=[f"{f}-{i}" for i, (f, _) in enumerate(BAD)])
def test_bad_vocabulary_is_refused_by_field(field: str, value: object) -> None:
    with pytest.raises(GgufError) as caught:
        build_tokenizer(tiny(**{field: value}), PATH)
    assert caught.value.field == f"tokenizer.ggml.{field}"
    assert "\n" not in str(caught.value)


def refusals() -> list[str]:
    """What is said of each bad vocabulary, whole."""
    cases: list[dict[str, object]] = [{field: value} for field, value in BAD]
    cases += [{"model": "t5", "merges": None, **changes} for changes in SCORED]
    cases += [{f"add_{name}_token": True, f"{name}_token_id": None} for name in ("bos", "eos")]
    found = []
    for changes in cases:
        with pytest.raises(GgufError) as caught:
            build_tokenizer(tiny(**changes), PATH)
        found.append(str(caught.value))
    return found


def test_each_refusal_is_the_recorded_one() -> None:
    """After a change that is meant: `python -m rocmforge.tests.unit.compiler.test_tokenizer` records anew."""
    assert refusals() == RECORDED.read_text("utf-8").splitlines()


def test_other_kinds_are_refused_with_the_way_out() -> None:
    with pytest.raises(GgufError, match=r"'hybriddna'.*--tokenizer tokenizer\.json"):
        build_tokenizer(tiny(model="hybriddna"), PATH)


def test_add_bos_without_bos_is_refused() -> None:
    with pytest.raises(GgufError, match="add_bos_token"):
        build_tokenizer(tiny(add_bos_token=True, bos_token_id=None), PATH)


def test_add_eos_without_eos_is_refused() -> None:
    with pytest.raises(GgufError, match=r"add_eos_token: is true, but there is no tokenizer\.ggml\.eos_token_id"):
        build_tokenizer(tiny(add_eos_token=True, eos_token_id=None), PATH)


@pytest.mark.parametrize("pre", sorted({rule.splits: name for name, rule in PRE_TOKENIZERS.items()}.values()))
def test_round_trip_through_a_file(pre: str, tmp_path: Path) -> None:
    artifact = build_tokenizer(tiny(pre=pre), PATH)
    path = tmp_path / "tokenizer.json"
    path.write_text(artifact.json, encoding="utf-8")
    again = load_tokenizer_json(path, tiny(pre=pre))
    assert again.json == artifact.json
    text = "abc 123<|im_end|>\n é"
    ours = Tokenizer(artifact.json, artifact.config).encode(text, add_special=False)
    assert Tokenizer(again.json, again.config).encode(text, add_special=False) == ours
    assert again.config.eos_token_ids == (1,)


def test_scores_without_end() -> None:
    """Which JSON has no numbers for: a bundle with them could not be read."""
    scores = np.array([-np.inf, *range(259), np.inf], np.float32)
    artifact = build_tokenizer(tiny(model="llama", scores=scores), PATH)
    assert "Infinity" not in artifact.json
    assert Tokenizer(artifact.json, artifact.config).encode("ab", add_special=False)


def test_texts_are_neither_cut_nor_padded_as_in_the_training_that_saved_the_tokenizer(tmp_path: Path) -> None:
    plain = build_tokenizer(tiny(), PATH)
    cut = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    padded = {
        **{"strategy": {"Fixed": 8}, "direction": "Left", "pad_to_multiple_of": None},
        **{"pad_id": 1, "pad_type_id": 0, "pad_token": "<|im_end|>"},
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(plain.json), "truncation": cut, "padding": padded}), encoding="utf-8")
    saved = load_tokenizer_json(path, tiny())
    assert saved.json == plain.json
    assert Tokenizer(saved.json, saved.config).encode("a b c d e f", add_special=False)[3:]


def test_the_end_that_a_tokenizer_adds_itself_ends(tmp_path: Path) -> None:
    """Whatever it is called, and though no GGUF says so."""
    other = json.loads(build_tokenizer(tiny(), PATH).json)
    other["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "abc", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"abc": {"id": "abc", "ids": [259], "tokens": ["abc"]}},
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(other), encoding="utf-8")
    config = load_tokenizer_json(path).config
    assert (config.eos_token_id, config.eos_token, config.add_eos) == (259, "abc", True)
    assert config.eos_token_ids == (1, 259)  # <|im_end|> is an end by its name


def test_the_end_that_the_gguf_names_ends_with_another_tokenizer_too(tmp_path: Path) -> None:
    """Whatever it is called: `ab` is a token like any other but for the key."""
    artifact = build_tokenizer(tiny(eos_token_id=258), PATH)
    path = tmp_path / "tokenizer.json"
    path.write_text(artifact.json, encoding="utf-8")
    config = load_tokenizer_json(path, tiny(eos_token_id=258)).config
    assert (config.eos_token_id, config.eos_token, config.eos_token_ids) == (258, "ab", (1, 258))


@pytest.mark.parametrize("text", ["", "{}", "[]", "\x00", '{"model": {"type": "Nope"}}'])
def test_bad_tokenizer_json_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(InputError):
        load_tokenizer_json(path)
    with pytest.raises(InputError):
        load_tokenizer_json(tmp_path / "absent.json")


def test_an_id_beyond_any_vocabulary_is_refused(tmp_path: Path) -> None:
    """It would be the size of tables."""
    document = json.loads(build_tokenizer(tiny(), PATH).json)
    document["model"]["vocab"]["far"] = 1 << 31
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InputError, match=r"model\.vocab: expected ids below 16777216, found 2147483648"):
        load_tokenizer_json(path)


def test_a_tokenizer_that_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, found in (("fifo", "a folder, a pipe or a device"), (".", "a folder"), ("none", "No such file")):
        with pytest.raises(InputError, match=rf"tokenizer\.json: expected a file of JSON, found:? {found}"):
            load_tokenizer_json(tmp_path / name)


if __name__ == "__main__":
    RECORDED.write_text("".join(f"{line}\n" for line in refusals()), "utf-8")
