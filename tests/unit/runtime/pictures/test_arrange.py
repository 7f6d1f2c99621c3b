"""What pictures an image becomes, and which texts stand around them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from PIL import Image

from rocmforge.artifacts.errors import RequestError
from rocmforge.artifacts.vision import Vision
from rocmforge.runtime.pictures.arrange import Size, arrange, near_size
from rocmforge.runtime.pictures.patches import RowsOf
from rocmforge.tests.support.pictures import VISION

QWEN = replace(VISION, patch_size=14, min_pixels=8 * 28 * 28, max_pixels=4096 * 28 * 28, max_patches=1 << 16)
IDEFICS = replace(
    VISION,
    resize="idefics3",
    longest_edge=128,
    tile_begin="<{row},{column}>",
    tile_row_end="/",
    overview_begin="(",
    overview_end=")",
)
INTERN = replace(VISION, resize="internvl", min_tiles=1, max_tiles=6, begin="<img>", end="</img>")


@pytest.mark.parametrize(
    "size, expected",
    [
        ((224, 224), (224, 224)),
        ((1000, 750), (1008, 756)),
        ((14, 14), (84, 84)),  # 8 rows at least
        ((42, 4200), (56, 4200)),
        ((8000, 6000), (2044, 1540)),  # 4096 rows at most
    ],
)
def test_sizes_of_its_own_proportions(size: tuple[int, int], expected: tuple[int, int]) -> None:
    """As llama.cpp's program has them: `calc_size_preserved_ratio` of its `mtmd-image.cpp` gave these."""
    assert near_size(*size, 28, QWEN) == Size(*expected)


def told(image: Image.Image, vision: Vision) -> list[str]:
    return [
        one if isinstance(one, str) else f"{one.picture.width}x{one.picture.height}:{one.first}+{one.count}"
        for one in arrange(image, vision, "image")
    ]


def test_one_picture() -> None:
    image = Image.new("RGB", (30, 22))
    assert told(image, VISION) == ["<|vision_start|>", "32x24:0+12", "<|vision_end|>"]
    square = replace(VISION, resize="square", begin="", end="", max_patches=256)
    assert told(image, square) == ["64x64:0+64"]
    ends = replace(VISION, begin="", end="[END]", row_end="[BREAK]")
    assert told(image, ends) == ["32x24:0+4", "[BREAK]", "32x24:4+4", "[BREAK]", "32x24:8+4", "[END]"]


def test_tiles_and_an_overview() -> None:
    many = {"max_patches": 256}
    image = Image.new("RGB", (100, 60))
    tile = "64x64:0+64"
    assert told(image, replace(IDEFICS, **many)) == [  # type: ignore[arg-type]
        *("<1,1>", tile, "<1,2>", tile, "/", "<2,1>", tile, "<2,2>", tile, "/"),
        *("(", tile, ")"),
    ]
    assert told(image, replace(INTERN, **many)) == ["<img>", *[tile] * 3, "</img>"]  # type: ignore[arg-type]
    small = Image.new("RGB", (60, 60))
    assert told(small, replace(INTERN, **many)) == ["<img>", tile, "</img>"]  # type: ignore[arg-type]


def test_pixels_are_kept_where_nothing_is_resized() -> None:
    image = Image.effect_noise((32, 24), 50).convert("RGB")
    (rows,) = [one for one in arrange(image, VISION, "image") if isinstance(one, RowsOf)]
    assert rows.picture.pixels == image.tobytes()
    assert (rows.picture.height, rows.picture.width) == (24, 32)


def test_tiles_are_where_they_were() -> None:
    image = Image.new("RGB", (128, 64), (0, 0, 255))
    image.paste((255, 0, 0), (0, 0, 64, 64))
    vision = replace(INTERN, max_patches=256)
    tiles = [one.picture.pixels[:3] for one in arrange(image, vision, "image") if isinstance(one, RowsOf)]
    assert tiles[:2] == [bytes([255, 0, 0]), bytes([0, 0, 255])]


def test_more_patches_than_the_code_takes() -> None:
    with pytest.raises(RequestError, match=r"^image: expected at most 96 patches of a picture, found 256$"):
        arrange(Image.new("RGB", (64, 64)), replace(VISION, resize="square"), "image")
