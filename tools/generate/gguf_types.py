"""Types of tensors that llama.cpp writes and the `gguf` package does not know yet, told to it.

Source: `enum ggml_type` of ggml.h, `block_q2_0` of ggml-common.h.
"""

from __future__ import annotations

import gguf
from gguf import GGMLQuantizationType

_UNKNOWN = (("Q2_0", 42, (64, 18)),)  # name, number, columns and bytes of a block


def _teach(name: str, number: int, sizes: tuple[int, int]) -> None:
    """Add a member to the package's enumeration, so that it reads and writes the type; one that it has stays."""
    if name not in GGMLQuantizationType.__members__:
        kind = int.__new__(GGMLQuantizationType, number)
        kind._name_, kind._value_ = name, number
        GGMLQuantizationType._member_map_[name] = GGMLQuantizationType._value2member_map_[number] = kind
        gguf.GGML_QUANT_SIZES[kind] = sizes


for _row in _UNKNOWN:
    _teach(*_row)
