"""The step that encodes a picture: the order of its patches, their places, and what is added for these."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rocmforge.runtime.pictures.encode import picture_batch
from rocmforge.runtime.pictures.patches import Patches
from rocmforge.tests.support.vision import FACTS

SMALL = replace(FACTS, patch_size=1, image_size=4, positions="none", window=0)


def picture(height: int, width: int) -> Patches:
    """Whose patches are told by their first value."""
    values = np.zeros((height * width, 3), np.float32)
    values[:, 0] = np.arange(height * width)
    return Patches(values, height, width)


def test_patches_that_become_a_row_are_neighbours() -> None:
    batch = picture_batch(SMALL, None, picture(4, 6), 16)
    assert batch.input_rows is not None
    assert batch.rope_positions is not None
    order = batch.input_rows[:, 0].astype(int)
    assert order[:8].tolist() == [0, 1, 6, 7, 2, 3, 8, 9]
    assert batch.logits_rows.tolist() == [0, 4, 8, 12, 16, 20]
    assert np.array_equal(batch.rope_positions[1] * 6 + batch.rope_positions[2], order)
    assert (batch.rope_positions[0] == 0).all()
    assert (batch.rope_positions[3] == 24).all()
    assert batch.block_table.tolist() == [[0, 1]]


def test_windows_are_computed_one_after_another_and_rows_come_out_in_order() -> None:
    batch = picture_batch(replace(SMALL, window=4), None, picture(6, 10), 16)
    assert batch.input_rows is not None
    assert batch.rope_positions is not None
    first, end = batch.rope_positions[0], batch.rope_positions[3]
    sizes = [16, 16, 8, 8, 8, 4]  # 4 x 4 patches, cut at the right and below
    stops = np.cumsum(sizes)
    assert first.tolist() == np.repeat(stops - sizes, sizes).tolist()
    assert end.tolist() == np.repeat(stops, sizes).tolist()
    rows, columns = batch.rope_positions[1], batch.rope_positions[2]
    assert np.array_equal(rows * 10 + columns, batch.input_rows[:, 0].astype(int))
    windows = rows // 4 * 3 + columns // 4
    assert windows.tolist() == np.repeat(range(6), sizes).tolist()
    corners = [(rows[start], columns[start]) for start in batch.logits_rows]
    assert corners == [(2 * y, 2 * x) for y in range(3) for x in range(5)]


def test_a_table_has_a_row_for_each_patch_and_one_for_a_class_token() -> None:
    table = np.arange(17 * 2, dtype=np.float32).reshape(17, 2)
    vision = replace(SMALL, positions="table")
    batch = picture_batch(vision, table, picture(4, 4), 16)
    assert batch.input_rows is not None
    assert batch.input_rows.shape == (17, 5)
    patches = batch.input_rows[:16]
    assert np.array_equal(patches[:, 3:], table[patches[:, 0].astype(int)])
    assert batch.input_rows[16].tolist() == [0, 0, 0, 32, 33]
    assert batch.rope_positions is not None
    assert (batch.rope_positions[3] == 17).all()
    assert len(picture_batch(vision, table[:16], picture(4, 4), 16).token_ids) == 16


@pytest.mark.parametrize(("height", "width"), [(3, 3), (2, 6), (8, 2)])
def test_a_resized_table_is_in_line_between_its_rows(height: int, width: int) -> None:
    """A table that is linear in row and column stays so, from corner to corner."""
    down, right = np.indices((3, 3)).reshape(2, -1)
    table = np.stack([down, right, down + 2 * right], axis=1).astype(np.float32)
    vision = replace(SMALL, positions="resized", merge=1)
    batch = picture_batch(vision, table, picture(height, width), 16)
    assert batch.input_rows is not None
    rows, columns = np.indices((height, width)).reshape(2, -1)
    wanted = np.stack([rows * (2 / (height - 1)), columns * (2 / (width - 1))], axis=1)
    assert np.abs(batch.input_rows[:, 3:5] - wanted).max() < 1e-6
    assert np.abs(batch.input_rows[:, 5] - wanted @ [1, 2]).max() < 1e-5


def test_a_table_of_axes_has_a_row_for_the_column_and_one_for_the_row() -> None:
    table = np.concatenate([np.arange(8), 100 * np.arange(8)]).astype(np.float32)[:, None]
    batch = picture_batch(replace(SMALL, positions="axes", merge=1), table, picture(3, 5), 16)
    assert batch.input_rows is not None
    rows, columns = np.indices((3, 5)).reshape(2, -1)
    assert np.array_equal(batch.input_rows[:, 3], 100 * rows + columns)
