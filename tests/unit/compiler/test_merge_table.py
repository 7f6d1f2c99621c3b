"""Tables of merges beside the tokenizers library, on all vocabularies that llama.cpp judged."""

from __future__ import annotations

import contextlib
import json
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from gguf import GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.artifacts.errors import BundleError
from rocmforge.compiler.merge_table import merge_table
from rocmforge.compiler.tokenizer import TokenizerArtifact, build_tokenizer
from rocmforge.runtime.text.token_models import looked_up as module
from rocmforge.runtime.text.token_models.library import LibraryModel
from rocmforge.runtime.text.token_models.looked_up import LookedUpMerges, looked_up
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.tokenizers import tiny
from rocmforge.tools.generate.tokenizer_table.vectors import cases

PATH = Path("merges.bin")
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
    model = looked_up(PATH, table.to_bytes(), made.config.vocab_size, library)
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


@pytest.mark.slow
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
        model, theirs = looked_up(PATH, table.to_bytes(), len(vocab) + 1, never), LibraryModel(text, len(vocab) + 1)
        assert model.encode(unmerged) == theirs.encode(unmerged), again
        assert (model.encode(unmerged) == [len(vocab)]) == whole


def test_of_equal_merges_the_last_counts() -> None:
    made = artifact(BYTE_LEVEL[0])
    merges = json.loads(made.json)["model"]["merges"]
    text = changed(made, model={"merges": [*merges, merges[0]]})
    table = merge_table(text)
    assert table is not None
    model, theirs = (
        looked_up(PATH, table.to_bytes(), made.config.vocab_size, never),
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
        looked_up(PATH, table.to_bytes(), made.config.vocab_size, lambda: LibraryModel(text, made.config.vocab_size)),
        LibraryModel,
    )


SMALL = build_tokenizer(tiny(), Path("tiny.gguf"))
TABLE = merge_table(SMALL.json)
assert TABLE is not None
DATA = TABLE.to_bytes()
DAMAGES = st.one_of(
    st.tuples(st.integers(0, len(DATA) - 1), st.just(1), st.binary(min_size=1, max_size=1)),
    st.tuples(st.integers(0, len(DATA) - 1), st.integers(0, 40), st.binary(max_size=40)),
)


@pytest.mark.slow
@settings(max_examples=500)
@given(DAMAGES)
def test_a_damaged_table_is_refused_or_gives_ids_of_the_vocabulary(damage: tuple[int, int, bytes]) -> None:
    at, size, instead = damage
    vocab_size = SMALL.config.vocab_size
    with contextlib.suppress(BundleError):
        model = looked_up(
            PATH, DATA[:at] + instead + DATA[at + size :], vocab_size, lambda: LibraryModel(SMALL.json, vocab_size)
        )
        found = Tokenizer(model, SMALL.config)
        for token_id in range(vocab_size):
            found.token_bytes(token_id)
        assert all(0 <= i < vocab_size for i in found.encode("<s>abc a\0\xe9<|im_end|>\U0001f600"))


def with_fields(**fields: object) -> bytes:
    found: bytes = msgpack.packb(msgpack.unpackb(DATA) | fields)
    return found


def test_what_is_wrong_with_a_table_beside_its_form_is_said_too() -> None:
    size = SMALL.config.vocab_size
    for rules in (" ", "{}", "null", SMALL.json[:-1]):
        with pytest.raises(BundleError, match=r"^merges\.bin: rules: expected a tokenizer, found ."):
            looked_up(PATH, with_fields(rules=rules), size, never)
    with pytest.raises(BundleError, match=rf"^merges\.bin: added: expected ids below {size}, found {size}$"):
        looked_up(PATH, with_fields(added=[["x", size, True, False, False]]), size, never)
    assert TABLE is not None
    unsorted = TABLE.order.tolist()[::-1]
    model = looked_up(PATH, with_fields(order=array("I", unsorted).tobytes()), size, never)
    with pytest.raises(BundleError, match=r"^merges\.bin: order: expected a token 'a', for a byte .*, found none$"):
        model.encode("abc")
