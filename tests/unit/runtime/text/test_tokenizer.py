"""Decoding, streaming and stop strings."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import tokenizers
from gguf import GGUFReader
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge.artifacts.tokenizer_config import TokenizerConfig
from rocmforge.compiler.tokenizer import build_tokenizer
from rocmforge.runtime.text.tokenizer import StopMatcher, StreamDecoder, Tokenizer
from rocmforge.tests.support.tokenizers import TINY, byte_tokenizer

TOKEN_IDS = st.lists(st.integers(0, TINY.config.vocab_size - 1), max_size=40)


@given(TOKEN_IDS, st.booleans())
def test_stream_equals_decode(ids: list[int], skip_special: bool) -> None:
    stream = StreamDecoder(TINY, skip_special)
    assert "".join([*map(stream.push, ids), stream.flush()]) == TINY.decode(ids, skip_special)


@given(st.text(max_size=60))
def test_bytes_round_trip(text: str) -> None:
    ids = TINY.encode(text, parse_special=False)
    assert b"".join(map(TINY.token_bytes, ids)) == text.encode()
    stream = StreamDecoder(TINY)
    shown = ""
    for token_id in ids:
        shown += stream.push(token_id)
        assert text.startswith(shown)
    assert shown == text


def test_bytes_of_tokens_in_the_characters_of_gpt_2() -> None:
    expected = {
        "Ġthe": b" the",
        "Ã©": b"\xc3\xa9",
        "é": b"\xe9",  # printable Latin-1 is its own byte
        "ŃÃ": b"\xad\xc3",  # byte 0xAD is not printable: it has another character
        "a b": b"a b",  # what the map leaves out stands for itself, as UTF-8
        "\x80\xa0Ġ": b"\xc2\x80\xc2\xa0 ",
        "\xad": b"\xc2\xad",
        "日Ġ": "日 ".encode(),
    }
    library = tokenizers.Tokenizer(tokenizers.models.BPE({text: i for i, text in enumerate(expected)}, []))
    library.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = Tokenizer(library.to_str(), TokenizerConfig(None, (), False, False, "", "", len(expected), None))
    assert dict(zip(expected, map(tokenizer.token_bytes, range(len(expected))), strict=True)) == expected


def test_bytes_of_a_tokenizer_of_pieces() -> None:
    """SentencePiece's vocabularies have their spaces and bytes spelled out; what only looks like a byte is text."""
    pieces = ["<unk>", "▁the", "<0x0A>", "<0xE2>", "<0xZZ>", "<0x0AB", "▁▁", "a<0x0A>", "lengths"[:6]]
    library = tokenizers.Tokenizer(tokenizers.models.BPE({text: i for i, text in enumerate(pieces)}, []))
    library.decoder = tokenizers.decoders.ByteFallback()
    config = TokenizerConfig(None, (), False, False, "", "", len(pieces), None)
    tokenizer = Tokenizer(library.to_str(), config)
    assert [tokenizer.token_bytes(i) for i in range(1, len(pieces))] == [
        *(b" the", b"\n", b"\xe2", b"<0xZZ>", b"<0x0AB", b"  ", b"a<0x0A>", b"length")
    ]


def test_stream_waits_for_whole_characters_and_no_longer() -> None:
    stream = StreamDecoder(TINY)
    assert [stream.push(2 + byte) for byte in "é€".encode()] == ["", "é", "", "", "€"]
    # 0xE2 waits; "a" shows that it was no character.
    assert stream.push(2 + 0xE2) == ""
    assert stream.push(2 + ord("a")) == "\ufffda"
    assert stream.push(2 + 0xFF) == "\ufffd"
    assert stream.push(2 + 0xF0) == ""
    assert stream.flush() == "\ufffd"


def test_special_tokens_are_looked_for_by_their_length_in_bytes() -> None:
    """As llama.cpp does: two characters of six bytes before four of six or three of five."""
    long, short = "€€", "€ab"
    tokenizer = byte_tokenizer(short, long)
    ids = tokenizer.encode("€€ab", add_special=False)
    assert ids == [tokenizer.encode(long, add_special=False)[0], *tokenizer.encode("ab", add_special=False)]
    assert tokenizer.decode(ids, skip_special=False) == "€€ab"
    assert len(tokenizer.encode(long, add_special=False)) == len(tokenizer.encode(short, add_special=False)) == 1


def test_special_tokens_and_foreign_ids() -> None:
    assert TINY.encode("<s>") == [0]
    assert TINY.decode([0, 2 + 97, 1]) == "a"
    assert TINY.decode([0, 2 + 97, 1], skip_special=False) == "<s>a<|im_end|>"
    assert TINY.token_bytes(-1) == TINY.token_bytes(10**12) == b""
    assert TINY.encode("\ud800") == TINY.encode("\ufffd")
    assert TINY.encode("") == []
    with pytest.raises(ValueError, match="expected a tokenizer, found EOF"):
        Tokenizer("{", TINY.config)


def test_real_vocabulary_streams(smollm2_gguf: Path) -> None:
    reader = GGUFReader(str(smollm2_gguf))
    artifact = build_tokenizer({k: f.contents() for k, f in reader.fields.items()}, smollm2_gguf)
    tokenizer = Tokenizer(artifact.json, artifact.config)

    @settings(max_examples=200)
    @given(st.lists(st.integers(0, tokenizer.config.vocab_size - 1), max_size=30))
    def holds(ids: list[int]) -> None:
        stream = StreamDecoder(tokenizer)
        assert "".join([*map(stream.push, ids), stream.flush()]) == tokenizer.decode(ids)

    holds()


def naive(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    found = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


@pytest.mark.slow
@settings(max_examples=500)
@given(
    st.lists(st.text("abc", max_size=4), max_size=12),
    st.lists(st.text("abc", max_size=5), max_size=4).map(tuple),
)
def test_stop_matcher_equals_a_search_of_the_whole(pieces: list[str], stops: tuple[str, ...]) -> None:
    matcher = StopMatcher(stops)
    shown = ""
    for i, piece in enumerate(pieces):
        text, stopped = matcher.push(piece)
        shown += text
        # Nothing is shown that a later piece could make a part of a stop string.
        assert naive("".join(pieces), stops)[0].startswith(shown)
        if stopped:
            assert naive("".join(pieces[: i + 1]), stops) == (shown, True)
    shown += matcher.flush()
    assert (shown, matcher.stopped) == naive("".join(pieces), stops)


def test_stop_matcher_holds_back_only_what_may_begin_a_stop() -> None:
    matcher = StopMatcher(("</s>", "\n\n"))
    assert matcher.push("hello <") == ("hello ", False)
    assert matcher.push("b>\n") == ("<b>", False)
    assert matcher.push("x\n") == ("\nx", False)
    assert matcher.push("\nmore") == ("", True)
    assert matcher.push("again") == ("", True)
    assert matcher.flush() == ""


@pytest.mark.slow
def test_F47_a_long_text_leaves_other_threads_running() -> None:
    """A server answers others while it tokenizes what one client sent."""
    turns, stop = [0], threading.Event()

    def others() -> None:
        while not stop.wait(0.0005):
            turns[0] += 1

    thread = threading.Thread(target=others)
    thread.start()
    try:
        before = turns[0]
        ids = TINY.encode("a river and the town on its banks. " * 30_000)
        during = turns[0] - before
    finally:
        stop.set()
        thread.join()
    assert len(ids) > 100_000
    assert during > 5  # a library that keeps the interpreter's lock leaves it one, if it comes first
