"""Long texts tokenized in pieces: the same ids as in one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
import tokenizers
from gguf import GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.artifacts.pre_tokenizers import PRE_TOKENIZERS
from rocmforge.artifacts.token_table import NORMAL
from rocmforge.compiler.tokenizer import build_tokenizer
from rocmforge.runtime.text import text_pieces
from rocmforge.runtime.text.text_pieces import Cuts, can_cut, pieces
from rocmforge.runtime.text.token_models.library import LibraryModel
from rocmforge.runtime.text.tokenizer import Tokenizer, TooManyTokensError
from rocmforge.tools.generate.fixtures import vocabulary

# What the expressions tell apart: letters, digits, white space of several kinds, apostrophes, punctuation, marks.
ALPHABET = st.sampled_from(
    [*"aZséÉ字٣1²9 \t\n\r\x85\u3000'.!$_|<😀\u0301\x1c\0", "'s", "  ", "12", "ab cd", "'LL", "\r\n", "\t\tb", "\t\t!"]
)
TEXTS = st.lists(ALPHABET, max_size=60).map("".join)


def library_of(one: Tokenizer) -> tokenizers.Tokenizer:
    return cast(LibraryModel, one._model).library


def made(pre: str) -> Tokenizer:
    tokens, types, merges = vocabulary(700)
    for pair in ("Ġ Ġ", "ĉ ĉ", "Ċ Ċ", "ĉ Ġ", "Ġ ĉ", "1 2", "9 1"):  # so that it shows where white space was parted
        if (text := pair.replace(" ", "")) not in tokens:
            tokens.append(text)
            types.append(NORMAL)
            merges.append(pair)
    artifact = build_tokenizer(
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre,
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.merges": merges,
            "tokenizer.ggml.bos_token_id": 0,
            "tokenizer.ggml.eos_token_id": 1,
        },
        Path("tiny.gguf"),
    )
    return Tokenizer(artifact.json, artifact.config)


@pytest.fixture(scope="session")
def real(smollm2_gguf: Path) -> Tokenizer:
    reader = GGUFReader(str(smollm2_gguf))
    artifact = build_tokenizer({k: f.contents() for k, f in reader.fields.items()}, smollm2_gguf)
    return Tokenizer(artifact.json, artifact.config)


def holds(one: Tokenizer, monkeypatch: pytest.MonkeyPatch, examples: int = 400) -> None:
    """Tokens in pieces are those of the whole, whatever the size of a piece."""
    library = library_of(one)
    cuts = can_cut(library)
    assert cuts is not None

    @settings(max_examples=examples)
    @given(TEXTS, st.integers(5, 24))
    def equal(text: str, size: int) -> None:
        whole = library.encode(text, add_special_tokens=False).ids
        with monkeypatch.context() as patch:
            patch.setattr(text_pieces, "PIECE_CHARS", size)
            found = list(pieces(library, text, cuts))
            assert "".join(found) == text
            assert [i for piece in found for i in library.encode(piece, add_special_tokens=False).ids] == whole

    equal()


RULES = {rule.splits: name for name, rule in PRE_TOKENIZERS.items()}  # a name of each


@pytest.mark.slow
@pytest.mark.parametrize("pre", sorted(RULES.values()))
def test_tokens_of_the_pieces_are_those_of_the_whole(pre: str, monkeypatch: pytest.MonkeyPatch) -> None:
    holds(made(pre), monkeypatch, 100)


def test_tokens_of_the_pieces_are_those_of_the_whole_with_a_real_vocabulary(
    real: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds(real, monkeypatch)


def changed(one: Tokenizer, **changes: Any) -> Tokenizer:
    """The same with other parts of `tokenizer.json`."""
    return Tokenizer(json.dumps(json.loads(library_of(one).to_str()) | changes), one.config)


UNCUT = {
    "another expression": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": r"(?<=a)b|\w+"}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
    ]}},
    "a space before": {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True,
                                         "use_regex": True}},
    "normalizer": {"normalizer": {"type": "NFC"}},
    "no pre-tokenizer": {"pre_tokenizer": None},
    "a sequence of none": {"pre_tokenizer": {"type": "Sequence", "pretokenizers": []}},
    "another kind": {"pre_tokenizer": {"type": "WhitespaceSplit"}},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("changes", UNCUT.values(), ids=UNCUT.keys())
def test_what_is_not_known_is_not_cut(changes: dict[str, Any]) -> None:
    other = changed(made("gpt-2"), **changes)
    assert not can_cut(library_of(other))
    text = "ab 12  cd\n" * 20_000
    assert other.encode(text, parse_special=False) == library_of(other).encode(text, add_special_tokens=False).ids


def test_plain_words_are_parted_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the last space of the second half of a piece."""
    monkeypatch.setattr(text_pieces, "PIECE_CHARS", 10)
    none = cast(tokenizers.Tokenizer, None)
    assert list(pieces(none, "ab cd ef gh ij kl mn", Cuts())) == ["ab cd ef", " gh ij", " kl mn"]
    assert list(pieces(none, "a b c d e f", Cuts())) == ["a b c d", " e f"]


def test_a_word_of_any_length_stays_whole_and_is_refused_by_its_length() -> None:
    one = made("gpt-2")
    text = "b" * 300_000 + " a"
    assert one.encode(text) == library_of(one).encode(text, add_special_tokens=False).ids
    with pytest.raises(TooManyTokensError) as caught:
        one.encode(text, most=100)
    assert caught.value.count > 300_000 // 32  # bytes of the longest token


@pytest.mark.slow
@pytest.mark.parametrize("pre", ["chameleon", "default", "llama-bpe", "qwen2", "smollm", "superbpe", "tekken"])
def test_F91_no_more_is_tokenized_than_was_asked_for(pre: str) -> None:
    one = made(pre)
    text = "12 ab. " * 20_000  # many pieces
    whole = one.encode(text)
    assert one.encode(text, most=len(whole)) == whole
    with pytest.raises(TooManyTokensError) as caught:
        one.encode(text, most=5000)
    found = caught.value
    assert 5000 < found.count == len(found.ids) < 5000 + text_pieces.PIECE_CHARS
    assert found.ids == whole[: found.count]


def test_F91_who_has_left_is_not_waited_for() -> None:
    class LeftError(Exception):
        pass

    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 3:
            raise LeftError

    with pytest.raises(LeftError):
        made("smollm").encode("1" * 10_000_000, look=look)
    assert looks == 3


MEMORY = """
import resource, sys, threading
from pathlib import Path
from rocmforge.artifacts.tokenizer_config import TokenizerConfig
from rocmforge.runtime.text.token_models.library import LibraryModel
from rocmforge.runtime.text.tokenizer import Tokenizer, TooManyTokensError
text, found = Path(sys.argv[1]).read_text(), []
one = Tokenizer(text, TokenizerConfig(None, (), False, False, "", "", 1 << 20))
digits = "1" * 4_000_000
one.encode(digits[:20_000])
held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
def encode():
    try:
        one.encode(digits, most=60_000)
    except TooManyTokensError as error:
        found.append(error.count)
threads = [threading.Thread(target=encode) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
assert len(found) == 8 and min(found) > 60_000, found
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - held >> 10)
"""


@pytest.mark.slow
def test_F91_megabytes_of_digits_for_eight_at_once_take_little_memory(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(library_of(made("smollm")).to_str())
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "tokenizer.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert int(done.stdout) < 200  # MiB; whole, each text takes over a thousand
