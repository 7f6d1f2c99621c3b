"""What llama.cpp's generator writes, made to look like published files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np

from rocmforge.tools.generate.gguf_writing import finish

# Architectures whose published files have no biases; the generator writes every tensor that llama.cpp would take.
_WITHOUT_BIASES = frozenset(
    (
        *("llama", "mistral3", "qwen3", "qwen3moe", "qwen3vl", "qwen3vlmoe"),
        *("qwen35", "qwen35moe", "qwen3next", "gemma", "gemma2", "gemma3"),
        *("gemma4", "granite", "granitemoe", "granitehybrid", "olmo2", "olmoe"),
        *("smollm3", "exaone4", "minicpm", "lfm2", "lfm2moe", "cohere2"),
        *("command-r", "falcon-h1", "hunyuan-dense", "ernie4_5", "ernie4_5-moe", "llama4"),
        *("mistral4", "deepseek2", "minimax-m2"),
    )
)
_KEPT = re.compile(r"exp_probs_b|ssm_dt|ssm_conv1d")
_UNSET = (0, 4294967295, -1, -1.0, float("-inf"))
_ZERO = ("layer_norm_epsilon", "layer_norm_rms_epsilon", "ssm.group_count")  # llama.cpp asks for them, 0 or not
_GEMMA4_INPUT = 64  # of its embeddings by layer, whose tensors the generator leaves out


def clean(raw: Path, models: Path, name: str) -> Iterator[str]:
    """Write the models of an architecture; yield a line a file."""
    for path in sorted(raw.glob(f"{name}-*.gguf")):
        yield f"{path.name}: {_clean_file(path, models / path.name)} tensors left out"


def _clean_file(source: Path, goal: Path) -> int:
    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(goal, architecture)
    for key, field in reader.fields.items():
        if not key.startswith(("GGUF.", "tokenizer.", "xielu")) and not key.endswith("deepstack_mapping"):
            _copy_key(writer, key, field)
    if architecture == "gemma4":
        writer.add_uint32("gemma4.embedding_length_per_layer_input", _GEMMA4_INPUT)
    _add_tokenizer(writer, next(int(one.shape[1]) for one in reader.tensors if one.name == "token_embd.weight"))
    left_out = 0
    for tensor in reader.tensors:
        if _is_odd(tensor.name, architecture):
            left_out += 1
            continue
        data = np.array(tensor.data)
        if tensor.name.endswith("rope_freqs.weight"):
            data = (1 + 8 * np.abs(data)).astype(np.float32)
        writer.add_tensor(tensor.name, data, raw_dtype=tensor.tensor_type)
    if architecture == "gemma4":
        random = np.random.default_rng(5)
        for tensor_name, shape in (("per_layer_model_proj.weight", (320, 128)), ("per_layer_proj_norm.weight", (64,))):
            writer.add_tensor(tensor_name, random.normal(0, 0.3, shape).astype(np.float32))
    finish(writer)
    return left_out


def _copy_key(writer: gguf.GGUFWriter, key: str, field: gguf.ReaderField) -> None:
    """Add a key, but for one whose value says that it is not set."""
    if key == "general.architecture":
        return
    value, kind = field.contents(), field.types[0]
    if kind == gguf.GGUFValueType.ARRAY:
        unset = not value or (not isinstance(value[0], str) and not any(value))
        of = field.types[-1]
    else:
        unset = not isinstance(value, str | bool) and value in _UNSET and not key.endswith(_ZERO)
        of = None
    if not unset:
        writer.add_key_value(key, value, kind, of)


def _is_odd(name: str, architecture: str) -> bool:
    """Return whether published files of an architecture lack a tensor."""
    if re.search(r"\.(scale|input_scale)$", name) and "altup" not in name and "layer_output_scale" not in name:
        return True
    if name.endswith(".bias") and not _KEPT.search(name) and architecture in _WITHOUT_BIASES:
        return True
    return architecture == "qwen2" and name == "output.bias"


def _add_tokenizer(writer: gguf.GGUFWriter, size: int) -> None:
    """Add a byte-level vocabulary of so many tokens."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = {byte: chr(256 + index) for index, byte in enumerate(one for one in range(256) if one not in printable)}
    tokens = [*(others.get(byte, chr(byte)) for byte in range(32, 31 + min(size, 128))), "ab"]
    tokens += [f"[PAD{index}]" for index in range(size - len(tokens))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(tokens))
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(False)
