"""An independent forward pass in NumPy float32 on dequantized weights: small, slow, and to be compared with.

It shares no code with the compiler: the `gguf` package reads and dequantizes. Semantics: llama.cpp's `llama`,
`qwen2` and `qwen3` graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from rocmforge.tests.oracles.dequantize import dequantize

Array = npt.NDArray[np.float32]


class ReferenceModel:
    """A model with all its weights in float32.

    Args:
        path: a GGUF file of architecture llama, qwen2 or qwen3.
        q8_0_cache: keys and values go through Q8_0, 32 neighbouring elements of a head a block.
    """

    def __init__(self, path: Path | str, q8_0_cache: bool = False) -> None:
        self._q8_0_cache = q8_0_cache
        reader = gguf.GGUFReader(path)
        self._fields = {name: field.contents() for name, field in reader.fields.items()}
        self._tensors = {tensor.name: tensor for tensor in reader.tensors}
        self._weights: dict[str, Array] = {}
        self.architecture: str = self._fields["general.architecture"]
        if self.architecture not in ("llama", "qwen2", "qwen3"):
            raise ValueError(f"unknown architecture {self.architecture}")
        self.num_layers = int(self._key("block_count"))
        self.num_heads = int(self._key("attention.head_count"))
        self.num_kv_heads = int(self._key("attention.head_count_kv", self.num_heads))
        hidden_size = int(self._key("embedding_length"))
        self.head_dim = int(self._key("attention.key_length", hidden_size // self.num_heads))
        self.rope_dim = int(self._key("rope.dimension_count", self.head_dim))
        self.epsilon = np.float32(self._key("attention.layer_norm_rms_epsilon"))
        self._inverse_frequencies = self._rope_frequencies()

    def forward(self, token_ids: Sequence[int]) -> Array:
        """Run a whole prompt, causally, with no cache.

        Args:
            token_ids: T tokens.

        Returns:
            float32[T, vocab_size] logits.
        """
        output = self.weight("output.weight")
        return self.hidden(token_ids) @ (self._embedding if output is None else output).T

    def hidden(self, token_ids: Sequence[int]) -> Array:
        """Run a whole prompt, causally, up to the final norm.

        Returns:
            float32[T, hidden_size].
        """
        hidden: Array = self._embedding[np.asarray(token_ids)]
        for layer in range(self.num_layers):
            prefix = f"blk.{layer}."
            hidden = hidden + self._attention(prefix, self._norm(hidden, f"{prefix}attn_norm"))
            hidden = hidden + self._feed_forward(prefix, self._norm(hidden, f"{prefix}ffn_norm"))
        return self._norm(hidden, "output_norm")

    @property
    def _embedding(self) -> Array:
        embedding = self.weight("token_embd.weight")
        assert embedding is not None
        return embedding

    def generate(self, token_ids: Sequence[int], count: int) -> list[int]:
        """Return `count` tokens that follow greedily; ties go to the lowest id."""
        ids = list(token_ids)
        for _ in range(count):
            ids.append(int(self.forward(ids)[-1].argmax()))
        return ids[len(token_ids) :]

    def weight(self, name: str) -> Array | None:
        """Return a tensor dequantized, float32 in its NumPy shape; None where the file lacks it."""
        if name not in self._weights:
            if name not in self._tensors:
                return None
            tensor = self._tensors[name]
            values = dequantize(tensor.data, tensor.tensor_type.name)
            shape = [int(size) for size in reversed(tensor.shape)]
            self._weights[name] = np.ascontiguousarray(values, np.float32).reshape(shape)
        return self._weights[name]

    def _key(self, suffix: str, default: Any = None) -> Any:
        key = f"{self.architecture}.{suffix}"
        return self._fields[key] if default is None else self._fields.get(key, default)

    def _rope_frequencies(self) -> Array:
        """float32[rope_dim / 2] radians a position."""
        theta = float(self._key("rope.freq_base", 10000.0))
        frequencies = theta ** (-2.0 * np.arange(self.rope_dim // 2) / self.rope_dim)
        if self._key("rope.scaling.type", "linear") == "linear":
            frequencies /= float(self._key("rope.scaling.factor", 0.0)) or 1.0
        factors = self.weight("rope_freqs.weight")
        return (frequencies if factors is None else frequencies / factors).astype(np.float32)

    def _norm(self, x: Array, name: str) -> Array:
        weight = self.weight(f"{name}.weight")
        assert weight is not None
        mean_square = np.mean(np.square(x), axis=-1, keepdims=True, dtype=np.float32)
        return np.asarray(x / np.sqrt(mean_square + self.epsilon) * weight, np.float32)

    def _linear(self, x: Array, name: str) -> Array:
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        assert weight is not None
        y = x @ weight.T
        return y if bias is None else y + bias

    def _heads(self, x: Array, prefix: str, name: str) -> Array:
        """Project to float32[T, heads, head_dim], normalised a head at a time where the model does that."""
        heads = self._linear(x, f"{prefix}attn_{name}").reshape(len(x), -1, self.head_dim)
        norm = f"{prefix}attn_{name}_norm"
        return heads if f"{norm}.weight" not in self._tensors else self._norm(heads, norm)

    def _rotate(self, x: Array) -> Array:
        """Rotate float32[T, heads, head_dim] by position; elements past rope_dim stay."""
        half = self.rope_dim // 2
        angles = np.arange(len(x), dtype=np.float32)[:, None] * self._inverse_frequencies
        cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
        interleaved = self.architecture == "llama"
        first = slice(0, self.rope_dim, 2) if interleaved else slice(0, half)
        second = slice(1, self.rope_dim, 2) if interleaved else slice(half, self.rope_dim)
        rotated = x.copy()
        rotated[..., first] = x[..., first] * cos - x[..., second] * sin
        rotated[..., second] = x[..., first] * sin + x[..., second] * cos
        return rotated

    def _cached(self, x: Array) -> Array:
        if not self._q8_0_cache:
            return x
        rows, kind = x.reshape(-1, self.head_dim), gguf.GGMLQuantizationType.Q8_0
        return np.asarray(gguf.quants.dequantize(gguf.quants.quantize(rows, kind), kind), np.float32).reshape(x.shape)

    def _attention(self, prefix: str, x: Array) -> Array:
        query = self._rotate(self._heads(x, prefix, "q"))
        key = self._cached(self._rotate(self._heads(x, prefix, "k")))
        value = self._cached(self._heads(x, prefix, "v"))
        group = self.num_heads // self.num_kv_heads
        key, value = (np.repeat(heads, group, axis=1) for heads in (key, value))
        scores = np.einsum("qhd,khd->hqk", query, key) / np.sqrt(np.float32(self.head_dim))
        scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        mixed = np.einsum("hqk,khd->qhd", weights, value)
        return self._linear(mixed.reshape(len(x), -1).astype(np.float32), f"{prefix}attn_output")

    def _feed_forward(self, prefix: str, x: Array) -> Array:
        gate = self._linear(x, f"{prefix}ffn_gate")
        gate = gate / (1 + np.exp(-gate))
        return self._linear(gate * self._linear(x, f"{prefix}ffn_up"), f"{prefix}ffn_down")
