"""A folder of Hugging Face's as the GGUF file that it would be: metadata by GGUF's keys, tensors by GGUF's names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from gguf import get_tensor_name_map
from gguf.constants import MODEL_ARCH_NAMES

from ...artifacts.dataclass import dataclass
from ...artifacts.errors import InputError, printable
from ..floats import float_rows
from ..ggml_types import GgmlType
from ..model_source import ModelSource, TensorInfo
from ..models.hugging_face import FolderRow
from .config import MAX_LAYERS, folder_row, head_dim, interleaved_order, text_config, translate
from .experts import with_stacked_experts
from .folder_tensor import FolderTensor
from .gguf_names import GgufNames
from .json_file import JsonObject, read_json_object
from .quantized import Matrix, Stored, quantized_matrices
from .rearranged import renamed
from .recurrent import REARRANGED
from .safetensors_file import SafetensorsFile, read_safetensors
from .tokenizer import TOKENIZER_FILES

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_DIMENSIONS = 4
_MAX_FILES = 10_000
_TYPES: Mapping[str, GgmlType] = MappingProxyType({name: GgmlType[name] for name in ("F32", "F16", "BF16")})
# Tensors that older folders have and that nobody reads: they follow from the configuration.
_DERIVED = (".rotary_emb.inv_freq", ".attention.masked_bias")

_LAYER = re.compile(r"model\.layers\.(\d{1,4})\.", re.ASCII)
_IMAGES = ("visual.", "vision_tower.", "vision_model.", "multi_modal_projector.")


@dataclass(frozen=True, slots=True, eq=False)
class HuggingFaceFolder(ModelSource):
    """A folder of Hugging Face's that was checked.

    Attributes:
        path: the folder.
        metadata: by GGUF's keys.
        tensors: by GGUF's names.
        config: config.json.
        translated: what it came to.
        parts: the safetensors files, by name.
        contents: of `tensors`.
    """

    path: Path
    metadata: Mapping[str, object]
    tensors: Mapping[str, TensorInfo]
    config: JsonObject
    translated: GgufNames
    parts: Mapping[str, SafetensorsFile]
    contents: Mapping[str, FolderTensor]

    def files(self) -> tuple[Path, ...]:
        """See `ModelSource`: those that are read, by name."""
        names = {CONFIG, *self.parts, *TOKENIZER_FILES, *(() if WEIGHTS in self.parts else (INDEX,))}
        return tuple(self.path / name for name in sorted(names) if (self.path / name).is_file())

    def facts(self) -> dict[str, object]:
        """See `ModelSource`."""
        return {"format": f"a folder of {len(self.parts)} safetensors"}

    def read_rows(self, name: str, first: int, count: int) -> npt.NDArray[np.uint8]:
        """See `ModelSource`."""
        self.tensor(name)
        return self.contents[name].read(first, count)

    def error(self, key: str, problem: str) -> InputError:
        """See `ModelSource`: by the folder's own names."""
        if key in self.translated.names:
            return self.config.error(self.translated.names[key], problem)
        if key in self.contents:
            return InputError(self.path, self.contents[key].name, problem)
        return InputError(self.path, key, problem)


def open_folder(path: Path) -> HuggingFaceFolder:
    """Read and check a folder's configuration, the headers of its weights, and what it says of its tokenizer.

    Raises:
        InputError: a file is missing or wrong, or the model is not supported.
    """
    config = text_config(read_json_object(path / CONFIG))
    row = folder_row(config)
    translated = translate(config, row)
    parts = _read_parts(path)
    contents: dict[str, FolderTensor] = {}
    for found in _tensors(config, row, parts):
        name = found.info.name
        if name in contents:
            problem = f"expected one tensor for {name}, found this and {printable(contents[name].name)}"
            raise InputError(path, found.name, problem)
        contents[name] = found
    if "output.weight" not in contents and not _tied(config):
        raise InputError(path, "lm_head.weight", "expected this tensor, found none: the head is not tied")
    for name, values in translated.tensors.items():
        contents[name] = _computed(name, values)
    metadata = {
        "general.name": config.text("_name_or_path", "").rstrip("/").rpartition("/")[2] or path.resolve().name,
        **translated.metadata,
    }
    tensors = {name: content.info for name, content in contents.items()}
    return HuggingFaceFolder(
        path, MappingProxyType(metadata), MappingProxyType(tensors), config, translated, parts, contents
    )


def is_folder(path: Path) -> bool:
    """Return whether a path looks like a folder of Hugging Face's."""
    return (path / CONFIG).is_file()


def folder_files(path: Path) -> tuple[Path, ...]:
    """Return the files of a folder that may be read, by name."""
    named = (path / name for name in (CONFIG, INDEX, *TOKENIZER_FILES))
    return tuple(sorted((*(file for file in named if file.exists()), *path.glob("*.safetensors"))))


def _read_parts(path: Path) -> Mapping[str, SafetensorsFile]:
    """Read the headers of all weights' files: one, or those that the index names."""
    if (path / WEIGHTS).exists():
        return {WEIGHTS: read_safetensors(path / WEIGHTS)}
    if not (path / INDEX).exists():
        raise InputError(path, "folder", f"expected {WEIGHTS} or {INDEX}, found neither")
    index = read_json_object(path / INDEX)
    placed = index.part("weight_map")
    names = sorted({placed.text(name) for name in placed.values})
    if len(names) > _MAX_FILES:
        raise placed.error("", f"expected at most {_MAX_FILES} files, found {len(names)}")
    for name in names:
        if not name.endswith(".safetensors") or "/" in name or not name.isprintable():
            raise placed.error("", f"expected names of safetensors files beside it, found {printable(repr(name))}")
    parts = {name: read_safetensors(path / name) for name in names}
    for tensor in placed.values:
        if tensor not in parts[placed.text(tensor)].tensors:
            raise placed.error(tensor, f"expected it in {placed.text(tensor)}, found no such tensor there")
    for part in parts.values():
        for tensor in part.tensors:
            if tensor not in placed.values or placed.text(tensor) != part.path.name:
                raise InputError(part.path, tensor, f"expected it in {INDEX} for this file, found it not")
    return parts


def _tensors(config: JsonObject, row: FolderRow, parts: Mapping[str, SafetensorsFile]) -> Iterator[FolderTensor]:
    """Yield each tensor of the files under GGUF's name."""
    architecture = next(arch for arch, name in MODEL_ARCH_NAMES.items() if name == row.architecture)
    names = get_tensor_name_map(architecture, config.integer("num_hidden_layers", None, 1, MAX_LAYERS))
    stored = {
        name: Stored(part, tensor)
        for part in parts.values()
        for name, tensor in part.tensors.items()
        if not _drafts(config, name)
    }
    matrices = quantized_matrices(config, stored)
    used = {name for matrix in matrices for name in matrix.parts}
    found = [_quantized(matrix) for matrix in matrices]
    passed_over = {*used, *(name for name in stored if name.endswith(_DERIVED) or _of_images(config, name))}
    found += [_plain(one) for name, one in stored.items() if name not in passed_over]
    for tensor in _rearranged(config, row, with_stacked_experts(config.path.parent, found)):
        name = names.get_name(tensor.info.name, (".weight", ".bias"))
        if name is None:
            problem = f"expected a tensor of a {row.architecture} model, found one that it does not have"
            raise InputError(config.path.parent, tensor.name, problem)
        if not name.endswith((".weight", ".bias", ".ssm_a", ".ssm_d")):  # as gpt-oss's sinks
            name += ".weight"
        if name == "output.weight" and _tied(config):
            continue
        shape = tensor.info.shape
        if name.endswith(".shortconv.conv.weight") and shape[1:-1] == (1,):  # of one channel each
            shape = (shape[0], shape[-1])
        named = FolderTensor(TensorInfo(name, shape, tensor.info.ggml_type), tensor.name, tensor.read)
        if row.plus_one and name.endswith("norm.weight") and not name.endswith(".ssm_norm.weight"):
            named = _plus_one(named)
        yield _interleaved(named, config, row) if row.permuted else named


def _rearranged(config: JsonObject, row: FolderRow, found: Iterable[FolderTensor]) -> Iterator[FolderTensor]:
    """Yield what the tensors of a form become."""
    change = REARRANGED.get(row.form)
    for tensor in found:
        plain = renamed(tensor, text_name(tensor.info.name))
        yield from (plain,) if change is None else change(config, plain)


def text_name(name: str) -> str:
    """Return the name that a tensor has in the model of text alone, where this one knows images too."""
    for prefix in ("language_model.model.", "model.language_model."):
        if name.startswith(prefix):
            return f"model.{name.removeprefix(prefix)}"
    return name.removeprefix("language_model.").replace(".e_score_correction_bias", ".e_score_correction.bias")


def _of_images(config: JsonObject, name: str) -> bool:
    return config.has("vision_config") and name.removeprefix("model.").startswith(_IMAGES)


def _drafts(config: JsonObject, name: str) -> bool:
    """Return whether a tensor is of a block that drafts tokens, behind the layers."""
    if name.removeprefix("model.").startswith("mtp."):
        return True
    match = _LAYER.match(name)
    drafting = config.integer("num_nextn_predict_layers", 0, 0, MAX_LAYERS)
    layers = config.integer("num_hidden_layers", None, 1, MAX_LAYERS)
    return match is not None and layers <= int(match[1]) < layers + drafting


def _plus_one(found: FolderTensor) -> FolderTensor:
    """Return a norm with the 1 that GGUF's has, in float32."""

    def read(first: int, count: int) -> npt.NDArray[np.uint8]:
        values = float_rows(found.read(first, count), found.info.ggml_type) + np.float32(1)
        return np.ascontiguousarray(values, np.float32).view(np.uint8)

    info = TensorInfo(found.info.name, found.info.shape, GgmlType.F32)
    return FolderTensor(info, found.name, read)


def _quantized(matrix: Matrix) -> FolderTensor:
    """Return a matrix that is put together from several tensors, by its name in the folder."""
    return FolderTensor(TensorInfo(matrix.name, matrix.shape, matrix.kind), matrix.name, matrix.read)


def _tied(config: JsonObject) -> bool:
    """Return whether the token embedding serves as the output projection too."""
    usual = folder_row(config).defaults.get("tie_word_embeddings") is True
    return config.boolean("tie_embedding", config.boolean("tie_word_embeddings", usual))  # LFM2's own name goes before


def _plain(stored: Stored) -> FolderTensor:
    """Return a tensor of floats as it lies in its file, by its name there."""
    tensor = stored.tensor
    if tensor.dtype not in _TYPES:
        raise stored.error(f"expected a type of {', '.join(_TYPES)}, found {tensor.dtype}")
    if not 1 <= len(tensor.shape) <= MAX_DIMENSIONS or 0 in tensor.shape:
        problem = f"expected 1 to {MAX_DIMENSIONS} dimensions of at least 1, found {list(tensor.shape)}"
        raise stored.error(problem)
    return FolderTensor(TensorInfo(tensor.name, tensor.shape, _TYPES[tensor.dtype]), tensor.name, stored.rows)


def _computed(name: str, values: npt.NDArray[np.float32]) -> FolderTensor:
    """Return a tensor that follows from the configuration."""
    data = np.ascontiguousarray(values).view(np.uint8).reshape(1, -1)
    info = TensorInfo(name, values.shape, GgmlType.F32)
    return FolderTensor(info, name, lambda first, count: data[first : first + count].copy())


def _interleaved(found: FolderTensor, config: JsonObject, row: FolderRow) -> FolderTensor:
    """Return a projection of queries or keys with the rows of each head in GGUF's order; others as they are."""
    role = found.info.name.split(".")[2:3]
    if role not in (["attn_q"], ["attn_k"]):
        return found
    size = head_dim(config, row)
    elements = found.info.shape[0]  # of a matrix rows, of a bias elements
    if size % 2 or elements % size:
        raise InputError(config.path.parent, found.name, f"expected whole heads of {size} rows, found {elements}")
    order = interleaved_order(size)
    if len(found.info.shape) == 1:
        width = found.info.n_bytes // elements

        def read_vector(first: int, count: int) -> npt.NDArray[np.uint8]:
            heads = found.read(first, count).reshape(-1, size, width)
            return heads[:, order].reshape(count, -1)

        return FolderTensor(found.info, found.name, read_vector)

    def read_rows(first: int, count: int) -> npt.NDArray[np.uint8]:
        start, end = first // size * size, -(-(first + count) // size) * size
        heads = found.read(start, end - start).reshape((end - start) // size, size, -1)
        rows = heads[:, order].reshape(end - start, -1)
        return rows[first - start : first - start + count]

    return FolderTensor(found.info, found.name, read_rows)
