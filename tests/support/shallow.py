"""A real model without most of its layers: its tokenizer, template and shapes at a fraction of the work."""

from __future__ import annotations

import re
from pathlib import Path

import gguf

from rocmforge.tools.generate.gguf_writing import finish


def first_layers(path: Path, goal: Path, count: int) -> Path:
    """Write the first layers of a GGUF model, with all that is no layer's; return `goal`."""
    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(goal, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind, *rest = field.types
        value = count if name == f"{architecture}.block_count" else field.contents()
        writer.add_key_value(name, value, kind, rest[-1] if rest else None)
    for tensor in reader.tensors:
        layer = re.match(r"blk\.(\d+)\.", tensor.name)
        if layer is None or int(layer[1]) < count:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    finish(writer)
    return goal
