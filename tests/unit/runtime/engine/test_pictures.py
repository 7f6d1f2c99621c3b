"""Where rows of pictures stand in a prompt, by which positions they rotate, and what steps and keys take of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rocmforge.artifacts.errors import EngineBusyError
from rocmforge.runtime.engine.generation import GenerationRequest
from rocmforge.runtime.engine.kv_cache import add_block_keys, root_key
from rocmforge.runtime.engine.picture_encoder import PictureEncoder
from rocmforge.runtime.engine.picture_prompt import picture_prompt, text_of
from rocmforge.runtime.engine.pictures import PICTURE_TOKEN, PromptPictures, picture_arrays, rotary_positions
from rocmforge.runtime.engine.sequence import ActiveSequence
from rocmforge.runtime.engine.worker.wire import decode, encode
from rocmforge.runtime.pictures.patches import Picture, Piece, RowsOf, patches_of
from rocmforge.tests.support.pictures import VISION, encoder_of, picture, placed
from rocmforge.tests.support.scheduler_harness import make, sequence
from rocmforge.tests.support.tokenizers import TINY

TWO = (placed(picture(2, 3), 2), placed(picture(1, 4, 1), 10))
"""Of 6 rows from token 2 on, and of 4 from token 10 on."""


def rows_of(first: float, count: int) -> np.ndarray:
    return np.arange(first, first + count, dtype=np.float32)[:, None] * np.ones(2, np.float32)


def prompt(m_rope: bool = False, both_ways: bool = False) -> PromptPictures:
    return PromptPictures(TWO, [rows_of(10, 6), rows_of(50, 4)], 16, m_rope, both_ways)


def test_rotary_positions_by_hand() -> None:
    """Of 2 x 3 rows the text goes on 3 behind their beginning; of 1 x 4 rows, 4."""
    found = rotary_positions(TWO, 16).tolist()
    assert found[0] == [0, 1, *[2] * 6, 5, 6, *[7] * 4, 11, 12]
    assert found[1] == [0, 1, 2, 2, 2, 3, 3, 3, 5, 6, *[7] * 4, 11, 12]
    assert found[2] == [0, 1, 2, 3, 4, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
    made = prompt(m_rope=True)
    assert made.rotary(14, 4).tolist() == [[11, 12, 13, 14]] * 4
    assert made.rotary(20, 2).tolist() == [[17, 18]] * 4
    assert (np.array(found) <= np.arange(16)).all()  # so there is a row of the table for each


def test_how_far_tokens_see() -> None:
    found = prompt(both_ways=True).rotary(0, 18).tolist()
    assert found[:3] == [list(range(18))] * 3
    assert found[3] == [1, 2, *[8] * 6, 9, 10, *[14] * 4, 15, 16, 17, 18]


def test_what_a_step_takes() -> None:
    made = prompt()
    rows, row_of = made.take(6, 6)
    assert (rows[:, 0].tolist(), row_of.tolist()) == ([14, 15, 50, 51], [0, 1, -1, -1, 2, 3])
    assert made.take(14, 4)[1].tolist() == [-1] * 4
    assert picture_arrays([(None, 0, 3)]) == {}
    assert picture_arrays([(made, 14, 3)]) == {}
    arrays = picture_arrays([(made, 6, 3), (None, 5, 2), (made, 11, 2)])
    assert arrays["input_rows"][:, 0].tolist() == [14, 15, 51, 52]
    assert arrays["row_of"].tolist() == [0, 1, -1, -1, -1, 2, 3]
    assert "rope_positions" not in arrays
    rotary = picture_arrays([(prompt(m_rope=True), 15, 2), (None, 5, 2)])["rope_positions"]
    assert rotary.tolist() == [[12, 13, 5, 6]] * 4
    ahead = picture_arrays([(prompt(both_ways=True), 7, 2), (None, 5, 2)])["rope_positions"]
    assert ahead[3].tolist() == [8, 9, 6, 7]


def test_chunks_end_where_a_picture_does_that_is_computed_at_once() -> None:
    made = prompt(both_ways=True)
    assert [made.chunk_end(0, end, 64) for end in (1, 2, 3, 7, 8, 9, 11)] == [1, 2, 8, 8, 8, 9, 14]
    assert made.chunk_end(0, 5, 7) == 2  # no room for all of it: it is left to the next step
    assert made.chunk_end(2, 5, 5) == 2
    assert made.chunk_end(4, 6, 4) == 8  # what is before it lay in the cache
    assert made.chunk_end(4, 6, 3) == 4
    assert prompt().chunk_end(0, 5, 64) == 5


def test_what_is_left_of_a_picture_waits_for_room() -> None:
    """Two prompts share a picture but not its last block; of the second's little is left, and no room in the step."""
    harness = make(max_tokens=20)
    seen = placed(picture(2, 6), 2)
    for number, more in enumerate((30, 31)):
        ids = (5, 6, *[PICTURE_TOKEN] * 12, more, *range(40, 46))
        rows = PromptPictures([seen], [rows_of(0, 12)], len(ids), False, both_ways=True)
        one = ActiveSequence(number, GenerationRequest(ids, 1, pictures=(seen,)), 0, TINY, pictures=rows)
        harness.add(*[sequence(9, 19, 1)] * number, one)
        if not number:
            assert [(chunk.start, chunk.count) for chunk in harness.step()] == [(0, 20)]
            harness.step()
    assert [(chunk.start, chunk.count) for chunk in harness.step()] == [(0, 19)]
    assert [(chunk.start, chunk.count) for chunk in harness.step()] == [(12, 9)]


def test_keys_of_blocks_have_their_pictures() -> None:
    ids, root = [0] * 16, root_key("")

    def keys(*pictures: object) -> list[bytes]:
        made = PromptPictures(pictures, [rows_of(0, 6)] * len(pictures), 16, False, False)  # type: ignore[arg-type]
        return add_block_keys([], root, ids, 4, 4, made.key)

    plain, one, other = add_block_keys([], root, ids, 4, 4), keys(TWO[0]), keys(placed(picture(2, 3, 9), 2))
    moved = keys(placed(picture(2, 3), 3))
    assert len({*plain, *one, *other, *moved}) == 16
    later = keys(placed(picture(2, 3), 8))
    assert later[:2] == plain[:2]
    assert keys(TWO[0]) == one


def test_tokens_of_rows_are_no_words() -> None:
    ids = [5, 0, *[0] * 6, 7, 8, *[0] * 4, 9, 5]
    assert prompt().words(ids) == [5, 0, 7, 8, 9, 5]


def test_a_prompt_with_images() -> None:
    """Texts around rows are tokenized with their neighbours, and the first is what a prompt begins with."""
    first, second = picture(2, 3), picture(1, 4, 1)
    images: dict[str, list[Piece]] = {
        "<1>": ["[", RowsOf(first, 0, 3), "|", RowsOf(first, 3, 3), "]"],
        "<2>": [RowsOf(second, 0, 4)],
    }
    seen: list[tuple[str, bool]] = []

    def tokens(text: str, begins: bool) -> list[int]:
        seen.append((text, begins))
        return [ord(one) for one in text]

    ids, pictures = picture_prompt("ab<1>c<2>", images, VISION, tokens)
    assert seen == [("ab[", True), ("|", False), ("]c", False)]
    assert ids == (*map(ord, "ab["), 0, 0, 0, ord("|"), 0, 0, 0, *map(ord, "]c"), 0, 0, 0, 0)
    assert [one.runs for one in pictures] == [((3, 3), (7, 3)), ((12, 4),)]
    assert [one.span for one in pictures] == [(3, 10), (12, 16)]
    assert text_of("ab<1>c<2>", images) == "ab[|]c"
    assert picture_prompt("<2>", images, VISION, lambda text, begins: [1] * begins)[0] == (1, 0, 0, 0, 0)
    assert picture_prompt("ab", {}, VISION, tokens) == ((97, 98), ())


def test_pictures_travel_to_a_worker() -> None:
    request = GenerationRequest((0,) * 16, 1, pictures=TWO)
    assert decode(encode(request)) == request


def test_patches_by_hand() -> None:
    """Of 4 x 4 pixels, each channel of a patch row by row."""
    vision = replace(VISION, patch_size=2, merge=1, mean=(0.0, 0.5, 0.0), std=(1.0, 0.5, 1.0))
    pixels = np.arange(4 * 4 * 3, dtype=np.uint8).reshape(4, 4, 3)
    found = patches_of(Picture(4, 4, pixels.tobytes()), vision)
    assert (found.height, found.width, found.values.shape) == (2, 2, (4, 12))
    red, green = found.values[1, :4] * 255, (found.values[1, 4:8] * 0.5 + 0.5) * 255
    assert red == pytest.approx([6, 9, 18, 21])
    assert green == pytest.approx([7, 10, 19, 22])


def test_rows_are_kept_within_a_bound() -> None:
    encoder, rows = encoder_of(VISION)
    of_one = TWO[0].num_rows * VISION.row_width * 4
    bounded = PictureEncoder(VISION, kept_bytes=2 * of_one)
    bounded.attach(rows)
    pictures = [placed(picture(2, 3, seed), 0) for seed in range(3)]
    for one in (0, 1, 0, 2, 0):  # 1 was not used for longest
        bounded.of_prompt(pictures[one : one + 1], 6)
    assert len(rows.encoded) == 3
    bounded.of_prompt(pictures[1:2], 6)
    assert len(rows.encoded) == 4
    assert encoder.of_prompt((), 6) is None
    bounded.close()
    bounded.close()
    assert rows.closed == 1
    with pytest.raises(EngineBusyError):
        bounded.of_prompt([placed(picture(2, 3, 9), 0)], 6)
