"""Models that come in other forms than one GGUF file: the bundle is that of the file."""

from __future__ import annotations

import hashlib
from pathlib import Path

import gguf
import numpy as np
import pytest

from rocmforge.artifacts.manifest import Manifest
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.changes import NO_CHANGES, Changes, changed_source
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.gguf_reader import read_gguf
from rocmforge.compiler.lora import LoraFile
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.model_source import ModelSource
from rocmforge.compiler.progress import Silent
from rocmforge.library.compilation import make_golden
from rocmforge.runtime.inspect import inspect_bundle
from rocmforge.tests.support.hugging_face import write_folder
from rocmforge.tests.support.programs import building_levels
from rocmforge.tools.generate.fixtures import write_model
from rocmforge.tools.generate.gguf_writing import finish


def compiled(path: Path, cache: BuildCache, changes: Changes = NO_CHANGES) -> Manifest:
    options = CompileOptions(path, path.with_name(f"{path.name}.rfb"), changes=changes)
    with building_levels(("portable",)):
        return compile_model(options, cache, Silent(), make_golden)


def written_again(path: Path, source: ModelSource, goal: Path) -> Path:
    """A GGUF's metadata with other tensors, by the `gguf` package."""
    writer = gguf.GGUFWriter(goal, source.get_str("general.architecture"))
    for field in gguf.GGUFReader(path).fields.values():
        if not field.name.startswith("GGUF.") and field.name != "general.architecture":
            kinds = field.types
            writer.add_key_value(field.name, field.contents(), kinds[0], kinds[-1] if len(kinds) > 1 else None)
    for name, tensor in source.tensors.items():
        data = source.read_tensor(name).reshape(*tensor.shape[:-1], -1)
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType(tensor.ggml_type))
    finish(writer)
    return goal


@pytest.mark.parametrize("architecture,quantization", [("llama", "F16"), ("qwen3", "BF16")])
def test_a_folder_computes_what_its_file_does(
    tmp_path: Path, build_cache: BuildCache, architecture: str, quantization: str
) -> None:
    model = write_model(tmp_path / "m.gguf", architecture, quantization)
    file, folder = compiled(model, build_cache), compiled(write_folder(tmp_path / "m", model, 2), build_cache)
    assert folder.golden == file.golden  # logits, to the bit
    named = {"README.md"}  # has the model's name
    assert {k: v for k, v in folder.files.items() if k not in named} == {
        k: v for k, v in file.files.items() if k not in named
    }


def test_a_model_that_is_changed_computes_what_the_changed_file_does(tmp_path: Path, build_cache: BuildCache) -> None:
    model = write_model(tmp_path / "m.gguf", quantization="F32", hidden_size=256, intermediate_size=512)
    adapter = tmp_path / "adapter.gguf"
    writer = gguf.GGUFWriter(adapter, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    for side, shape in (("a", (2, 512)), ("b", (256, 2))):
        writer.add_tensor(f"blk.1.ffn_down.weight.lora_{side}", np.ones(shape, np.float32) / 16)
    finish(writer)
    changes = Changes((LoraFile(adapter, 0.5),), "Q4_K")
    source, record = changed_source(read_gguf(model), changes)
    found = compiled(model, build_cache, changes)
    assert {key: found.options[key] for key in ("lora", "quantize")} == record
    assert record["lora"] == [{"sha256": hashlib.sha256(adapter.read_bytes()).hexdigest(), "scale": 0.5}]
    assert found.model.quantization == "Q4_K"
    expected = compiled(written_again(model, source, tmp_path / "changed.gguf"), build_cache)
    assert found.golden == expected.golden
    assert found.files == expected.files
    facts = inspect_bundle(tmp_path / "m.gguf.rfb")
    assert facts["quantized_to"] == "Q4_K"
    assert str(facts["merged_adapters"]).endswith(" times 0.5")
