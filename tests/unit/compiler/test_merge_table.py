"""Tables of merges beside the tokenizers library, on all vocabularies that llama.cpp judged."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from gguf import GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.artifacts.merge_table import AddedToken, MergeTable
from rocmforge.compiler.merge_table import merge_table
from rocmforge.compiler.tokenizer import TokenizerArtifact, build_tokenizer
from rocmforge.runtime.text.token_models import looked_up as module
from rocmforge.runtime.text.token_models.library import LibraryModel
from rocmforge.runtime.text.token_models.looked_up import LookedUpMerges, looked_up
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tools.generate.tokenizer_table.vectors import cases

CASES = {name: (metadata, texts) for name, metadata, texts in cases()}
BYTE_LEVEL = [name for name, (metadata, _) in CASES.items() if metadata["tokenizer.ggml.model"] == "gpt2"]
TEXTS = st.lists(
    st.one_of(
        st.sampled_from(["the", " of", "  ", "\n\n", "'s", "don't", "123", "é", "字", "😀", "\0", "."]), st.text()
    ),
    max_size=30,
).map("".join)


def never() -> LibraryModel:
    raise AssertionError("the library was asked for")


def artifact(name: str) -> TokenizerArtifact:
    return build_tokenizer(CASES[name][0], Path("vocabulary.gguf"))


def both(made: TokenizerArtifact, library: Callable[[], LibraryModel] = never) -> tuple[Tokenizer, Tokenizer]:
    """By tables, and by the library."""
    table = merge_table(made.json)
    assert table is not None
    model = looked_up(table.to_bytes(), made.config.vocab_size, library)
    assert isinstance(model, LookedUpMerges)
    return Tokenizer(model, made.config), Tokenizer(made.json, made.config)


def changed(made: TokenizerArtifact, **changes: Any) -> str:
    """A `tokenizer.json` with other fields; those of the model in `model`."""
    document = json.loads(made.json)
    document["model"] |= changes.pop("model", {})
    return json.dumps(document | changes)


@pytest.mark.parametrize("name", BYTE_LEVEL)
def test_ids_and_tokens_are_those_of_the_library(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = artifact(name)
    if merge_table(made.json) is None:
        assert made.json.startswith('{"token_table":'), "a rule that the library does not have"
        return
    monkeypatch.setattr(module, "_CHARS", 1 << 30)
    ours, theirs = both(made)
    for text in CASES[name][1]:
        for special in (False, True):
            assert ours.encode(text, parse_special=special) == theirs.encode(text, parse_special=special)
    for token_id in range(-1, made.config.vocab_size + 2):
        assert ours.token_bytes(token_id) == theirs.token_bytes(token_id)
        assert ours.token_bytes(token_id, False) == theirs.token_bytes(token_id, False)


@pytest.fixture(scope="module")
def real(smollm2_gguf: Path) -> TokenizerArtifact:
    fields = GGUFReader(str(smollm2_gguf)).fields
    return build_tokenizer({name: field.contents() for name, field in fields.items()}, smollm2_gguf)


@pytest.fixture(scope="module")
def of_real(real: TokenizerArtifact) -> tuple[Tokenizer, Tokenizer]:
    return both(real, lambda: LibraryModel(real.json, real.config.vocab_size))


@settings(max_examples=300)
@given(TEXTS)
def test_any_text(of_real: tuple[Tokenizer, Tokenizer], text: str) -> None:
    ours, theirs = of_real
    assert ours.encode(text) == theirs.encode(text)


def test_beyond_the_first_texts_the_library_goes_on(real: TokenizerArtifact) -> None:
    asked = []

    def library() -> LibraryModel:
        asked.append(1)
        return LibraryModel(real.json, real.config.vocab_size)

    ours, theirs = both(real, library)
    text = "It was a bright cold day in April, and the clocks were striking thirteen. " * 100
    for _ in range(4):
        assert ours.encode(text) == theirs.encode(text)
    assert asked == [1]


def test_words_that_are_tokens_may_be_left_whole() -> None:
    made = artifact(BYTE_LEVEL[0])
    vocab = json.loads(made.json)["model"]["vocab"]
    unmerged = "zzqq"  # no merge makes it
    document = changed(made, model={"vocab": vocab | {unmerged: len(vocab)}, "ignore_merges": True})
    for text, whole in ((document, True), (document.replace('"ignore_merges": true', '"ignore_merges": false'), False)):
        again = TokenizerArtifact(text, made.config, None)
        table = merge_table(text)
        assert table is not None
        model, theirs = looked_up(table.to_bytes(), len(vocab) + 1, never), LibraryModel(text, len(vocab) + 1)
        assert model.encode(unmerged) == theirs.encode(unmerged), again
        assert (model.encode(unmerged) == [len(vocab)]) == whole


def test_of_equal_merges_the_last_counts() -> None:
    made = artifact(BYTE_LEVEL[0])
    merges = json.loads(made.json)["model"]["merges"]
    text = changed(made, model={"merges": [*merges, merges[0]]})
    table = merge_table(text)
    assert table is not None
    model, theirs = (
        looked_up(table.to_bytes(), made.config.vocab_size, never),
        LibraryModel(text, made.config.vocab_size),
    )
    for one in CASES[BYTE_LEVEL[0]][1]:
        assert model.encode(one) == theirs.encode(one)


@pytest.mark.parametrize(
    "changes",
    [
        {"normalizer": {"type": "NFC"}},
        {"model": {"dropout": 0.5}},
        {"model": {"byte_fallback": True}},
        {"model": {"end_of_word_suffix": "</w>"}},
        {"decoder": None},
        {"decoder": {"type": "Fuse"}},
    ],
)
def test_what_only_the_library_can_do_has_no_table(changes: dict[str, Any]) -> None:
    assert merge_table(changed(artifact(BYTE_LEVEL[0]), **changes)) is None


def test_rules_that_are_not_known_are_left_to_the_library() -> None:
    made = artifact(BYTE_LEVEL[0])
    text = changed(
        made, pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True, "use_regex": True, "trim_offsets": True}
    )
    table = merge_table(text)
    assert table is not None
    assert isinstance(
        looked_up(table.to_bytes(), made.config.vocab_size, lambda: LibraryModel(text, made.config.vocab_size)),
        LibraryModel,
    )


def test_a_table_is_read_as_it_was_written_on_either_kind_of_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    added = [AddedToken("<s>", 0, True, False, True)]
    table = MergeTable.of("{}", added, {"<s>": 0, "a": 1, "b": 2, "ab": 4}, [("a", "b")])
    assert MergeTable.from_bytes(table.to_bytes()) == table
    assert (table.token(4), table.token(3), table.token(5), table.id_of("ab"), table.id_of("c")) == (
        *(b"ab", b"", b"", 4),
        None,
    )
    assert (table.join(1, 2), table.join(2, 1), table.most_chars) == ((0, 4), None, 3)
    data = table.to_bytes()
    monkeypatch.setattr(sys, "byteorder", "big")
    assert table.to_bytes() != data
    assert MergeTable.from_bytes(table.to_bytes()) == table


@pytest.mark.parametrize("data", [b"", b"\x80", b"\x93\x01\x02\x03", b"\xff" * 20])
def test_another_file_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="expected a table of merges"):
        MergeTable.from_bytes(data)


def test_tables_of_other_sizes_are_refused() -> None:
    fields = msgpack.unpackb(MergeTable.of("{}", (), {"a": 0, "b": 1, "ab": 2}, [("a", "b")]).to_bytes())
    for name, value in (("joins", b""), ("order", bytes(16)), ("texts", b"a"), ("ends", b"\1")):
        with pytest.raises(ValueError, match="expected a table of merges"):
            MergeTable.from_bytes(msgpack.packb(fields | {name: value}))
