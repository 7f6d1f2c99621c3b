"""What a path that is given as a model is: a GGUF file, the first of several, or a folder of Hugging Face's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ..artifacts.errors import InputError
from .gguf_split import open_gguf, part_paths
from .model_source import ModelSource

if TYPE_CHECKING:
    from .tokenizer import TokenizerArtifact


def open_source(path: Path) -> ModelSource:
    """Read and check all of a model but its weights' values.

    Raises:
        InputError: a file cannot be trusted, is missing, or is not supported.
    """
    if not os.path.isdir(path):
        return open_gguf(path)
    from .hugging_face.folder import CONFIG, is_folder, open_folder  # noqa: PLC0415 - a GGUF file needs none of it

    if not is_folder(path):
        raise InputError(path, "folder", f"expected a GGUF file, or a folder with {CONFIG}, found neither")
    return open_folder(path)


def source_tokenizer(source: ModelSource, given: Path | None) -> TokenizerArtifact:
    """Return the tokenizer of a model, or of a tokenizer.json that is given instead.

    Raises:
        InputError: it is not supported, or contradicts itself.
    """
    from .hugging_face.folder import HuggingFaceFolder  # noqa: PLC0415 - as above
    from .hugging_face.tokenizer import folder_tokenizer  # noqa: PLC0415
    from .tokenizer import build_tokenizer, load_tokenizer_json  # noqa: PLC0415

    if isinstance(source, HuggingFaceFolder):
        return folder_tokenizer(source.path, source.config, given)
    if given is not None:
        return load_tokenizer_json(given, source.metadata)
    return build_tokenizer(source.metadata, source.path)


def source_files(path: Path) -> tuple[Path, ...]:
    """Return the files that a model is made of, as far as names tell, without reading any."""
    if not os.path.isdir(path):
        return part_paths(path)
    from .hugging_face.folder import folder_files  # noqa: PLC0415 - as above

    return folder_files(path)
