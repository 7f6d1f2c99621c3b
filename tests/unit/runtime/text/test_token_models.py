"""Tokenizers that are tables: what they decode to, in a stream and whole, and long texts in pieces."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rocmforge.artifacts.token_table import TokenTable, is_token_table
from rocmforge.compiler.tokenizer import build_tokenizer
from rocmforge.runtime.text.token_models import model
from rocmforge.runtime.text.token_models.charsmap import Charsmap
from rocmforge.runtime.text.tokenizer import StreamDecoder, Tokenizer, TooManyTokensError
from rocmforge.tools.generate.tokenizer_table.vocabularies import longest, merged, scored, strings_of_words, worded


def made(metadata: Mapping[str, Any], **changes: Any) -> Tokenizer:
    more = {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    artifact = build_tokenizer({**metadata, **more}, Path("vocabulary.gguf"))
    assert is_token_table(artifact.json)
    return Tokenizer(artifact.json, artifact.config)


# With all bytes as tokens nothing of a text is lost, but for a space that is put first and one that is U+2581, and what
# reads as the token of unknown characters, which PLaMo 2's rule takes for it.
LOSSLESS = {
    "llama": made(scored("llama"), add_space_prefix=False),
    "plamo2": made(scored("plamo2")),
    "gemma4": made(merged("") | {"tokenizer.ggml.model": "gemma4"}),
    "rwkv": made(longest()),
}
ALL = LOSSLESS | {
    "llama, a space first": made(scored("llama")),
    "t5": made(scored("t5")),
    "bert": made(worded(True)),
    "mmbert": made(merged("mmbert")),
    "whitespace": made(merged("whitespace")),
}
WORDS = st.lists(
    st.sampled_from(["the", "ab", " ", "  ", "\n", "é", "日本", "字", "😀", "e\u0301", "12", "a b", "\0"]), max_size=30
)
TEXTS = st.one_of(WORDS.map("".join), st.text(max_size=30))


@pytest.mark.parametrize("name", LOSSLESS)
def test_what_is_encoded_decodes_to_itself(name: str) -> None:
    tokenizer = LOSSLESS[name]

    @settings(max_examples=150)
    @given(TEXTS.map(lambda text: text.replace("\u2581", "").removeprefix("\ufeff")))
    def holds(text: str) -> None:
        assume("<unk>" not in text)
        ids = tokenizer.encode(text, add_special=False, parse_special=False)
        assert tokenizer.decode(ids) == text

    holds()


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_stream_is_the_whole(name: str) -> None:
    tokenizer = ALL[name]

    @settings(max_examples=150)
    @given(st.lists(st.integers(-1, tokenizer.config.vocab_size), max_size=30), st.booleans())
    def holds(ids: list[int], skip_special: bool) -> None:
        stream = StreamDecoder(tokenizer, skip_special)
        assert "".join([*map(stream.push, ids), stream.flush()]) == tokenizer.decode(ids, skip_special)

    holds()


@pytest.mark.parametrize("name", ALL)
def test_pieces_have_the_tokens_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are cut into pieces, and pieces into words that are remembered; the ids are the same without either."""
    tokenizer = ALL[name]
    texts = ["".join(random.Random(seed).choices(strings_of_words(), k=8)) for seed in range(30)]
    found = [tokenizer.encode(text) for text in texts]
    monkeypatch.setattr(model, "PIECE_CHARS", 5)
    assert [tokenizer.encode(text) for text in texts] == found
    monkeypatch.setattr(model, "PIECE_CHARS", 1 << 20)
    monkeypatch.setattr(model, "_WORD_CHARS", 2)
    assert [tokenizer.encode(text) for text in texts] == found


@pytest.mark.parametrize("name", ALL)
def test_F91_no_more_is_tokenized_than_was_asked_for(name: str) -> None:
    text = "the quick 12 brown fox. " * 3000
    with pytest.raises(TooManyTokensError) as caught:
        ALL[name].encode(text, most=4000)
    assert caught.value.count > 4000


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["a" * 200_000, " " * 200_000, "字" * 100_000, "ab" * 100_000], ids=["a", "space", "ideograph", "ab"]
)
@pytest.mark.parametrize("name", ["llama", "t5", "gemma4", "plamo2", "bert"])
def test_a_text_that_cannot_be_cut_takes_time_in_proportion(name: str, text: str) -> None:
    start = time.monotonic()
    ALL[name].encode(text)
    assert time.monotonic() - start < 20  # a rule that looks at each pair of places would take hours


@pytest.mark.parametrize("name", ["llama", "gemma4", "plamo2", "mmbert", "whitespace", "bert"])
def test_F91_who_has_left_is_not_waited_for_without_spaces_either(name: str) -> None:
    looks: list[None] = []
    ALL[name].encode("the字" * 20_000, look=lambda: looks.append(None))
    assert len(looks) > 5


def test_texts_of_special_tokens() -> None:
    tokenizer = ALL["llama, a space first"]
    user, bold, a = 3, tokenizer.config.vocab_size - 2, tokenizer.encode(" a", add_special=False)[1:]
    assert tokenizer.encode("<|user|>") == [1, user]
    assert user not in tokenizer.encode("<|user|>", parse_special=False)
    assert bold in tokenizer.encode("<b>", parse_special=False)
    # A space is put first at the beginning and after a special token, and not between.
    with_space = tokenizer.encode("a", add_special=False)
    assert tokenizer.encode("a<b>a", add_special=False) == [*with_space, bold, *with_space]
    assert tokenizer.decode([1, user, *a]) == "a"
    assert tokenizer.decode([1, user, *a], skip_special=False) == "<s><|user|>a"


def test_tokens_that_take_white_space() -> None:
    """By the model's name, as no key tells: after Phi 3's."""
    tokenizer = made({**scored("llama"), "general.name": "Phi-3-mini"})
    plain = ALL["llama, a space first"]
    assert tokenizer.encode("<|user|> \n\tab") == plain.encode("<|user|>ab")
    assert tokenizer.encode("<|user|>\u3000ab") == plain.encode("<|user|>\u3000ab")  # ASCII's alone
    assert tokenizer.encode("<s> ab") == plain.encode("<s> ab")


def test_rwkv_spells_bytes_with_backslashes() -> None:
    texts = ["<s>", "a\\x0Ab", "\\t\\\\", "\\xZZ", "é\\xff", "\\"]
    metadata = {"tokenizer.ggml.model": "rwkv", "tokenizer.ggml.tokens": texts, "tokenizer.ggml.token_type": [1] * 6}
    tokenizer = made(metadata)
    expected = [b"<s>", b"a\nb", b"\t\\", b"xZZ", "é".encode() + b"\xff", b"\\"]
    assert [tokenizer.token_bytes(i) for i in range(6)] == expected


def test_a_table_in_json() -> None:
    table = TokenTable("unigram", ("a", "\n"), (1, 3), (0.5, -1.0), charsmap=b"\0\xff", strip_left=(1,))
    assert TokenTable.from_json(table.to_json()) == table


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('{"token_table":', '{"table":', "'token_table'"),
        ('"unigram"', '"other"', "Invalid enum value 'other'"),
        ('"types":[1,3]', '"types":[1]', "types and scores of 2 tokens, found 1 and 2"),
        ('"scores":[0.5,-1.0]', '"scores":[0.5]', "types and scores of 2 tokens, found 2 and 1"),
        ('["a","\\n"]', '["a",1]', "Expected `str`, got `int`"),
        ('"types":[1,3]', '"types":[1,"3"]', "Expected `int`, got `str`"),
        ('"charsmap":"AP8="', '"charsmap":"AP8"', "Invalid base64"),
        ('"strip_left":[1]', '"strip_left":[2]', "ids of 2 tokens, found 2"),
        ('"unknown":null', '"unknown":-1', "ids of 2 tokens, found -1"),
        ("}}", "", "truncated"),
    ],
)
def test_what_is_no_table_in_json(old: str, new: str, problem: str) -> None:
    text = TokenTable("unigram", ("a", "\n"), (1, 3), (0.5, -1.0), charsmap=b"\0\xff", strip_left=(1,)).to_json()
    assert text.count(old) == 1
    with pytest.raises(ValueError, match=f"^expected .*{re.escape(problem)}"):
        TokenTable.from_json(text.replace(old, new))


def charsmap(pairs: Mapping[str, str]) -> bytes:
    """A map of characters, whose array has a node a place: of a byte and all before it."""
    texts = b"".join(value.encode() + b"\0" for value in pairs.values())
    starts, at = {}, 0
    for key, value in pairs.items():
        starts[key.encode()] = at
        at += len(value.encode()) + 1
    prefixes = sorted({key[:end] for key in starts for end in range(1, len(key) + 1)})
    # Each node has a base of its own, a multiple of 256, so that no two of their children meet.
    base_of = {prefix: 256 * (number + 1) for number, prefix in enumerate([b"", *prefixes])}
    nodes = np.zeros(256 * (len(base_of) + 2), np.uint32)
    nodes[0] = base_of[b""] << 10
    for prefix in prefixes:
        here = base_of[prefix[:-1]] ^ prefix[-1]
        nodes[here] = (here ^ base_of[prefix]) << 10 | prefix[-1] | (prefix in starts) << 8
        if prefix in starts:
            nodes[base_of[prefix]] = 1 << 31 | starts[prefix]
    raw = nodes.tobytes()
    return len(raw).to_bytes(4, "little") + raw + texts


def test_a_map_of_characters() -> None:
    """The longest sequence at each place; what is in none stays."""
    found = Charsmap(charsmap({"ﬁ": "fi", "e\u0301": "é", "A": "a", "AB": "x", "\t": " ", "\u00ad": ""}))
    assert found.apply("ﬁx e\u0301e \tABA\u00adC字") == "fix ée  xaC字"
    assert Charsmap(b"").apply("ﬁ") == "ﬁ"


@settings(max_examples=200)
@given(st.binary(max_size=40).map(lambda raw: raw[: len(raw) // 4 * 4]), st.text(max_size=20))
def test_a_hostile_map_of_characters_ends(array: bytes, text: str) -> None:
    Charsmap(len(array).to_bytes(4, "little") + array + b"ab\0c\0").apply(text)


def test_unigram_maps_characters_first() -> None:
    tokenizer = made(scored("t5"), precompiled_charsmap=np.frombuffer(charsmap({"É": "é", "\n": " "}), np.uint8))
    plain = ALL["t5"]
    assert tokenizer.encode("É\nab") == plain.encode("é ab") != plain.encode("É\nab")
