"""Additions to the product, written into a copy of it: what they cost is the files that they touch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def copy_package(goal: Path, *folders: str) -> Path:
    """A copy of some folders of the package, which Python finds as `rocmforge` from `goal`."""
    copy = goal / "rocmforge"
    for folder in folders:
        shutil.copytree(ROOT / folder, copy / folder)  # with what Python compiled of it: it stays of use
    for name in ("__init__.py", "tests/__init__.py", "pyproject.toml"):
        (copy / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, copy / name)
    return copy


def edit(path: Path, *changes: tuple[str, str]) -> None:
    """Replace texts, each of which stands in the file once."""
    text = path.read_text()
    for before, after in changes:
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    path.write_text(text)


def keep_portable(package: Path) -> None:
    """Have the copy build for the host its portable level alone, little optimized: it holds for all, and others take as
    long each."""
    path = package / "compiler/target.py"
    few = '"host": {"portable": ("-O1",)},'
    text = path.read_text()
    if few not in text:
        start = text.index('"host": {')
        edit(path, (text[start : text.index("},", start) + 2], few))


def changed(package: Path) -> set[str]:
    """Files that are not those of the package copied; a new folder counts as one."""
    found = [path.relative_to(package) for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    new = [
        path
        for path in found
        if not (ROOT / path).is_file() or (package / path).read_bytes() != (ROOT / path).read_bytes()
    ]
    return {(path if (ROOT / path.parent).is_dir() else path.parent).as_posix() for path in new}


def python(package: Path, *arguments: str | Path) -> str:
    """What a program of the copy prints."""
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=package.parent, env=environment)
    assert not done.returncode, done.stderr
    return done.stdout


def recipe(title: str) -> set[str]:
    """The files that a recipe of docs/add.md lists."""
    text = (ROOT / "docs/add.md").read_text()
    _, _, rest = text.partition(f"\n## {title}\n")
    section = rest.partition("\n## ")[0]
    files = re.findall(r"^\d+\. `([\w./]+)`", section, re.MULTILINE)
    assert files, title
    return set(files)
