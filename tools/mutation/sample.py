"""A sample of all mutations, spread over folders and kinds of mutation: the same for the same seed and tree."""

from __future__ import annotations

import random
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from .mutation import Mutation
from .native import native_mutations
from .python import parses, python_mutations

EQUIVALENT: Final = Path(__file__).with_name("equivalent.toml")
# Patterns of a folder's files, and how many of 200 mutations fall to it.
FOLDERS: Final[Mapping[str, tuple[tuple[str, ...], int]]] = {
    "compiler": (("compiler/*.py", "compiler/*/*.py"), 32),
    "artifacts": (("artifacts/*.py",), 18),
    "runtime": (("runtime/*.py", "runtime/[!h]*/*.py", "runtime/[!h]*/*/*.py"), 48),
    "runtime/http": (("runtime/http/*.py", "runtime/http/*/*.py"), 38),
    "kernels/host": (("kernels/host/*.h", "kernels/shared/*.h"), 18),
    "kernels/hip": (("kernels/hip/*.h",), 18),
    "tools/emulator": (("tools/emulator/*.py", "tools/emulator/native/*"), 18),
    "cli": (("cli/*.py", "library/*.py"), 10),
}


def mutations_of(root: Path, path: str) -> list[Mutation]:
    """All mutations of one file."""
    source = (root / path).read_bytes()
    return python_mutations(path, source) if path.endswith(".py") else native_mutations(path, source)


def shuffled(root: Path, folder: str, seed: int, only: str | None = None) -> Iterator[Mutation]:
    """The mutations of a folder, or of one file of it, in the order of the seed: kinds in turn, each line once."""
    kinds: dict[str, list[Mutation]] = defaultdict(list)
    for path in sorted(path for pattern in FOLDERS[folder][0] for path in root.glob(pattern)):
        name = path.relative_to(root).as_posix()
        if only in (None, name):
            for mutation in mutations_of(root, name):
                kinds[mutation.operator].append(mutation)
    chooser = random.Random(f"{seed} {folder}")
    order = sorted(kinds)
    chooser.shuffle(order)
    for kind in order:
        chooser.shuffle(kinds[kind])
    seen: set[tuple[str, int]] = set()
    while any(kinds.values()):
        for kind in order:
            while kinds[kind]:
                mutation = kinds[kind].pop()
                source = (root / mutation.path).read_bytes()
                place = mutation.path, mutation.line(source)
                if place not in seen and (not mutation.path.endswith(".py") or parses(mutation, source)):
                    seen.add(place)
                    yield mutation
                    break


def equivalents() -> Mapping[tuple[str, str, str], str]:
    """Why a mutation changes nothing that matters, by path, lines before and lines after; kept by hand."""
    entries = tomllib.loads(EQUIVALENT.read_text("utf-8"))["mutation"]
    return {(entry["path"], entry["before"], entry["after"]): entry["reason"] for entry in entries}
