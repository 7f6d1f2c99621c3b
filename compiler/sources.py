"""What a path that is given as a model is: a GGUF file, the first of several, or a folder of Hugging Face's."""

from __future__ import annotations

import os
from pathlib import Path

from ..artifacts.errors import InputError
from .gguf_split import open_gguf, part_paths
from .hugging_face.folder import CONFIG, HuggingFaceFolder, folder_files, is_folder, open_folder
from .hugging_face.tokenizer import folder_tokenizer
from .model_source import ModelSource
from .tokenizer import TokenizerArtifact, build_tokenizer, load_tokenizer_json


def open_source(path: Path) -> ModelSource:
    """Read and check all of a model but its weights' values.

    Raises:
        InputError: a file cannot be trusted, is missing, or is not supported.
    """
    if not os.path.isdir(path):
        return open_gguf(path)
    if not is_folder(path):
        raise InputError(path, "folder", f"expected a GGUF file, or a folder with {CONFIG}, found neither")
    return open_folder(path)


def source_tokenizer(source: ModelSource, given: Path | None) -> TokenizerArtifact:
    """Return the tokenizer of a model, or of a tokenizer.json that is given instead.

    Raises:
        InputError: it is not supported, or contradicts itself.
    """
    if isinstance(source, HuggingFaceFolder):
        return folder_tokenizer(source.path, source.config, given)
    if given is not None:
        return load_tokenizer_json(given, source.metadata)
    return build_tokenizer(source.metadata, source.path)


def source_files(path: Path) -> tuple[Path, ...]:
    """Return the files that a model is made of, as far as names tell, without reading any."""
    return folder_files(path) if os.path.isdir(path) else part_paths(path)
