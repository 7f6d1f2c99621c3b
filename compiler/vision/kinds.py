"""Kinds of encoders of images, a row each: what their files do not say themselves.

Source: llama.cpp 11434, `tools/mtmd`: `clip.cpp`, `mtmd.cpp`, `models/*.cpp`; texts around images are those of the
models' processors in Hugging Face's transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Final

from ...artifacts.dataclass import dataclass

MOST_PATCHES: Final = 8192
"""Of a picture: what a step takes at most, whatever the model would."""

_SCALE: Final = "clip.vision.projector.scale_factor"
_MERGE: Final = "clip.vision.spatial_merge_size"


@dataclass(frozen=True, slots=True)
class Kind:
    """An encoder that GGUF names in `clip.projector_type`.

    Attributes:
        name: GGUF's.
        merge_key: key of how many patches a side become a row.
        merge: where the file has no such key; 0: it has to have it.
        norm: `layer` or `rms`.
        rope: how patches rotate: "": not; `halves`: pairs half a head apart, the first half of them by the row, the
            second by the column; `turns`: pairs of neighbours likewise, of which each axis has every other frequency;
            `quarters`: pairs a quarter of a head apart, the first half of a head by the column, the second by the row.
        theta: base of the frequencies.
        resize: see `Vision`.
        resample: see `Vision`.
        tokens: least and most rows of a picture, where `resize` is `pixels`.
        positions: see `Vision`.
        both_ways: see `Vision`.
        m_rope: see `Vision`.
        frames: two matrices for patches, of two frames that follow each other; a picture is both.
        swapped: files may have the names of the feed-forward's matrices the wrong way round.
        texts: of `Vision`, by their names.
    """

    name: str
    merge_key: str
    merge: int
    norm: str = "layer"
    rope: str = ""
    theta: float = 10000.0
    resize: str = "pixels"
    resample: str = "bicubic"
    tokens: tuple[int, int] = (0, 0)
    positions: str = "none"
    both_ways: bool = False
    m_rope: bool = False
    frames: bool = False
    swapped: bool = False
    texts: Mapping[str, str] = field(default_factory=dict)


_QWEN_TEXTS = {"begin": "<|vision_start|>", "end": "<|vision_end|>"}


def _qwen(name: str, **other: object) -> Kind:
    return Kind(
        name,
        _MERGE,
        2,
        rope="halves",
        tokens=(8, 4096),
        m_rope=True,
        frames=True,
        swapped="3" not in name,
        texts=_QWEN_TEXTS,
        **other,  # type: ignore[arg-type]
    )


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            Kind(
                "gemma3",
                _SCALE,
                4,
                resize="square",
                resample="bilinear",
                positions="table",
                both_ways=True,
                swapped=True,
                texts={"begin": "\n\n<start_of_image>", "end": "<end_of_image>\n\n"},
            ),
            Kind(
                "idefics3",
                _SCALE,
                0,
                resize="idefics3",
                resample="lanczos",
                positions="table",
                swapped=True,
                texts={
                    "begin": "<fake_token_around_image><global-img>",
                    "end": "<fake_token_around_image>",
                    "tile_begin": "<fake_token_around_image><row_{row}_col_{column}>",
                    "tile_row_end": "\n",
                    "overview_begin": "\n<fake_token_around_image><global-img>",
                    "overview_end": "<fake_token_around_image>",
                },
            ),
            _qwen("qwen2vl_merger"),
            _qwen("qwen2.5vl_merger", norm="rms"),
            _qwen("qwen3vl_merger", positions="resized"),
            Kind(
                "pixtral",
                _MERGE,
                1,
                norm="rms",
                rope="turns",
                tokens=(8, 1024),
                texts={"end": "[IMG_END]", "row_end": "[IMG_BREAK]"},
            ),
            Kind(
                "gemma4v",
                _SCALE,
                3,
                norm="rms",
                rope="quarters",
                theta=100.0,
                tokens=(70, 1120),
                positions="axes",
                both_ways=True,
                texts={"begin": "<|image>", "end": "<image|>"},
            ),
            Kind(
                "internvl",
                _SCALE,
                0,
                resize="internvl",
                positions="table",
                texts={"begin": "<img>", "end": "</img>"},
            ),
        )
    }
)
