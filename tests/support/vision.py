"""The facts of an encoder of images."""

from __future__ import annotations

from rocmforge.artifacts.vision import Vision

FACTS = Vision(
    kind="qwen2.5vl_merger",
    image_size=560,
    patch_size=14,
    merge=2,
    width=2048,
    deepstack=0,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    resize="pixels",
    resample="bicubic",
    min_pixels=6272,
    max_pixels=3211264,
    longest_edge=0,
    min_tiles=0,
    max_tiles=0,
    max_patches=16384,
    begin="<|vision_start|>",
    end="<|vision_end|>",
    row_end="",
    tile_begin="",
    tile_row_end="",
    overview_begin="",
    overview_end="",
    both_ways=False,
    m_rope=True,
    positions="none",
    window=8,
)
