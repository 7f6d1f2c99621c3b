"""Models that come in other forms than one GGUF file: the bundle is that of the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from rocmforge.artifacts.manifest import Manifest
from rocmforge.compiler.build_cache import BuildCache
from rocmforge.compiler.compile import compile_model
from rocmforge.compiler.model import CompileOptions
from rocmforge.compiler.progress import Silent
from rocmforge.library.compilation import make_golden
from rocmforge.tests.support.hugging_face import write_folder
from rocmforge.tools.generate.fixtures import write_model


def compiled(path: Path, cache: BuildCache) -> Manifest:
    return compile_model(CompileOptions(path, path.with_name(f"{path.name}.rfb")), cache, Silent(), make_golden)


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
