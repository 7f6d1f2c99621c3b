"""A bundle of format 1.4 that rocmforge 0.1.0 made, before builds were recorded: what is written now must read it.

tests/data/bundle_1_4.tar.xz is `rfc compile` of `kept_model` at commit 1561611.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

from rocmforge.tools.generate.fixtures import write_model

ARCHIVE = Path(__file__).parents[1] / "data" / "bundle_1_4.tar.xz"


def kept_bundle(folder: Path) -> Path:
    """Unpack the bundle into a folder."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # from Python 3.11.4 on
        archive.extractall(folder)
    return folder / "bundle_1_4.rfb"


def kept_model(folder: Path) -> Path:
    """Write the model of which it was made."""
    return write_model(folder / "bundle_1_4.gguf", num_layers=1, head_dim=32)
