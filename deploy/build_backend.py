"""The build backend of pyproject.toml: setuptools', whose wheel and sdist are then the same bytes for the same sources.

An archive's members are sorted, belong to nobody, and have one date, $SOURCE_DATE_EPOCH or 1 January 2020, and one of
two modes. What depends on the folder in which it is built stays out of it: `build/` of an earlier build is not used.
"""

import gzip
import io
import os
import stat
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from setuptools import build_meta
from setuptools.build_meta import (
    build_editable,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

DEFAULT_EPOCH = 1577836800  # 2020-01-01; a zip knows no year before 1980


def build_wheel(
    wheel_directory: str, config_settings: dict[str, Any] | None = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel (PEP 517); return its name."""
    with _fresh_build_folder():
        name: str = build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)
    path = Path(wheel_directory, name)
    date = time.gmtime(_epoch())[:6]
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: (archive.read(info), info.external_attr >> 16) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member in sorted(members, key=lambda name: (".dist-info/" in name, name.endswith("/RECORD"), name)):
            content, mode = members[member]
            info = zipfile.ZipInfo(member, date)
            info.create_system = 3
            info.external_attr = (stat.S_IFREG | _mode(mode)) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content, compresslevel=9)
    return name


def build_sdist(sdist_directory: str, config_settings: dict[str, Any] | None = None) -> str:
    """Build a source distribution (PEP 517); return its name."""
    name: str = build_meta.build_sdist(sdist_directory, config_settings)
    path = Path(sdist_directory, name)
    plain = io.BytesIO()
    with tarfile.open(path) as archive, tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as goal:
        for member in sorted(archive.getmembers(), key=lambda one: one.name):
            if not member.isfile() or ".egg-info/" in member.name:
                continue  # setuptools' notes, which differ by what was there before
            info = tarfile.TarInfo(member.name)
            info.size, info.mode, info.mtime = member.size, _mode(member.mode), _epoch()
            goal.addfile(info, archive.extractfile(member))
    with path.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=_epoch()) as packed:
        packed.write(plain.getvalue())
    return name


def _epoch() -> int:
    return int(os.environ.get("SOURCE_DATE_EPOCH", DEFAULT_EPOCH))


def _mode(mode: int) -> int:
    return 0o755 if mode & 0o100 else 0o644


@contextmanager
def _fresh_build_folder() -> Iterator[None]:
    """Have setuptools build in a folder of its own: it packs whatever lies in `build/`, from whenever that is."""
    before = os.environ.get("DIST_EXTRA_CONFIG")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "build.cfg")
        config.write_text(f"[build]\nbuild_base = {folder}/build\n", "utf-8")
        os.environ["DIST_EXTRA_CONFIG"] = str(config)
        try:
            yield
        finally:
            os.environ.pop("DIST_EXTRA_CONFIG")
            if before is not None:
                os.environ["DIST_EXTRA_CONFIG"] = before
