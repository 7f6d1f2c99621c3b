"""Entries of a manifest: files, targets with their code, and parts, which are programs beside the main one."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, Final

from .checker import Checker
from .dataclass import dataclass

MAX_TEXT: Final = 1 << 16
_MAX_ROWS: Final = 1 << 16
_MAX_PARTS: Final = 16
_PART_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}", re.ASCII)
PartFacts = tuple[str, Mapping[str, object]]
"""The name of a part, and what the runtime has to know to use it."""
_BACKENDS: Final = ("hip", "host")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """Size in bytes and hex SHA-256 of one file."""

    n_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class TargetEntry:
    """One variant of the code.

    Args:
        arch: as `gfx1100` or `host`.
        backend: `hip` or `host`.
        level: ISA level, as `x86_64_v4`; empty where the arch says it all.
        file: name of the code object in the bundle.
        layout: name of the layout that the code was made for; several targets may share one.
        entry: symbol of the entry point; may be empty.
        flags: the compiler flags that matter.
        abi: version of the calling convention between runtime and code.
        determinism: the determinism class that this variant is tested to hold.
        golden_tolerance: largest allowed difference of a logit from the golden records.
    """

    arch: str
    backend: str
    level: str
    file: str
    layout: str
    entry: str
    toolchain: str
    toolchain_version: str
    flags: tuple[str, ...]
    abi: int
    determinism: str
    golden_tolerance: float


@dataclass(frozen=True, slots=True)
class PartEntry:
    """A program of its own in a bundle, as the encoder of images: its code and layouts lie in the folder of its name.

    Its tensors lie in the bundle's one weights.bin; those whose bytes another layout names too are shared.

    Args:
        targets: variants of its code.
        memory: its memory contract of each arch, in bytes.
        kernels: its kernel table.
        facts: what the runtime has to know to use it.
        golden: its golden records; from format 1.8 on, and absent where there are none.
    """

    targets: tuple[TargetEntry, ...]
    memory: Mapping[str, Mapping[str, int]]
    kernels: tuple[Mapping[str, object], ...]
    facts: Mapping[str, object]
    golden: tuple[Mapping[str, object], ...] = ()


def read_table(check: Checker, value: object, at: str) -> dict[str, Any]:
    """Return `value` if it is an object."""
    if not isinstance(value, dict):
        check.fail(at, f"expected an object, found {type(value).__name__}")
    return value


def read_contract(check: Checker, value: object, at: str) -> dict[str, int]:
    """Return the memory contract of one arch."""
    return {key: check.integer(n_bytes, f"{at}.{key}") for key, n_bytes in read_table(check, value, at).items()}


def exact_keys(check: Checker, table: Mapping[str, object], kind: Any, at: str) -> None:
    """Require exactly the fields of the dataclass `kind`."""
    expected = {f.name for f in dataclasses.fields(kind)}
    for key in sorted(expected ^ table.keys()):
        found = "none" if key in expected else "one"
        check.fail(f"{at}{key}", f"expected {'a value' if found == 'none' else 'no such field'}, found {found}")


def read_rows(check: Checker, value: object, at: str) -> tuple[Mapping[str, object], ...]:
    """Return rows of a free-form table."""
    rows = check.array(value, at, 0, _MAX_ROWS)
    return tuple(read_table(check, row, f"{at}[{i}]") for i, row in enumerate(rows))


def read_target(check: Checker, value: object, at: str, files: Mapping[str, FileEntry]) -> TargetEntry:
    """Return a target whose files are of the bundle."""
    table = read_table(check, value, at)
    exact_keys(check, table, TargetEntry, f"{at}.")
    if table["backend"] not in _BACKENDS:
        check.fail(f"{at}.backend", f"expected one of {', '.join(_BACKENDS)}")
    file = check.text(table["file"], f"{at}.file")
    if file not in files:
        check.fail(f"{at}.file", f"expected a file of the bundle, found {file!r}")
    layout = check.text(table["layout"], f"{at}.layout")
    if layout not in files:
        check.fail(f"{at}.layout", f"expected a file of the bundle, found {layout!r}")
    tolerance = table["golden_tolerance"]
    if not isinstance(tolerance, float) or not math.isfinite(tolerance) or tolerance < 0:
        check.fail(f"{at}.golden_tolerance", "expected a finite number, 0.0 or more")
    flags = check.array(table["flags"], f"{at}.flags", 0, 1024)
    texts = {
        name: check.text(table[name], f"{at}.{name}", empty=name in ("level", "entry"))
        for name in ("arch", "backend", "level", "entry", "toolchain", "toolchain_version", "determinism")
    }
    return TargetEntry(
        file=file,
        layout=layout,
        flags=tuple(check.text(flag, f"{at}.flags[{i}]", MAX_TEXT) for i, flag in enumerate(flags)),
        abi=check.integer(table["abi"], f"{at}.abi", 0, 1 << 31),
        golden_tolerance=tolerance,
        **texts,
    )


def read_parts(check: Checker, value: object, files: Mapping[str, FileEntry]) -> dict[str, PartEntry]:
    """Return the parts; what is one's own lies in its folder.

    Raises:
        BundleError: they are none; names the field.
    """
    table = read_table(check, value, "parts")
    if not 1 <= len(table) <= _MAX_PARTS:
        check.fail("parts", f"expected 1 to {_MAX_PARTS}, found {len(table)}")
    return {name: _part(check, name, row, files) for name, row in table.items()}


def _part(check: Checker, name: str, value: object, files: Mapping[str, FileEntry]) -> PartEntry:
    at = f"parts.{name}"
    if not _PART_NAME.fullmatch(name):
        check.fail(at, "expected a name of small letters and digits")
    table = read_table(check, value, at)
    exact_keys(check, {"golden": [], **table}, PartEntry, f"{at}.")
    if f"{name}/layout.msgpack" not in files:
        check.fail(f"files.{name}/layout.msgpack", f"expected the layout of part {name}, found none")
    rows = check.array(table["targets"], f"{at}.targets", 1, 256)
    targets = tuple(read_target(check, row, f"{at}.targets[{i}]", files) for i, row in enumerate(rows))
    for index, target in enumerate(targets):
        for field, file in (("file", target.file), ("layout", target.layout)):
            if not file.startswith(f"{name}/"):
                check.fail(f"{at}.targets[{index}].{field}", f"expected a file of the folder {name}, found {file!r}")
    memory = read_table(check, table["memory"], f"{at}.memory")
    return PartEntry(
        targets,
        {arch: read_contract(check, row, f"{at}.memory.{arch}") for arch, row in memory.items()},
        read_rows(check, table["kernels"], f"{at}.kernels"),
        read_table(check, table["facts"], f"{at}.facts"),
        _golden(check, table, at),
    )


def _golden(check: Checker, table: Mapping[str, object], at: str) -> tuple[Mapping[str, object], ...]:
    """Return a part's golden records, of which there is one at least where there are any."""
    rows = read_rows(check, table.get("golden", []), f"{at}.golden")
    if "golden" in table and not rows:
        check.fail(f"{at}.golden", "expected at least one record, or no such field, found an empty list")
    return rows
