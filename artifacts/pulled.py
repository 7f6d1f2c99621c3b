"""`pulled.json`: what a copy of a bundle is, that came from a registry without what other machines need."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Final

from .checker import Checker
from .dataclass import dataclass
from .errors import BundleError
from .manifest import WEIGHTS_NAMES, Manifest

_MAX_REFERENCE: Final = 1024


@dataclass(frozen=True, slots=True)
class Pulled:
    """Where a copy of a bundle came from, and what it was not given.

    Args:
        reference: `HOST/REPOSITORY@sha256:…` of the registry's manifest.
        left_out: files of the bundle that other machines need: code, and weights as these pack them.
    """

    reference: str
    left_out: tuple[str, ...]

    def encode(self) -> bytes:
        """As JSON."""
        return (json.dumps({"left_out": list(self.left_out), "reference": self.reference}) + "\n").encode("ascii")


def decode_pulled(path: Path | str, data: bytes) -> Pulled:
    """Decode and check a `pulled.json`.

    Raises:
        BundleError: it is none; names the field.
    """
    check = Checker(path)
    try:
        table = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BundleError(path, "json", f"expected JSON, found otherwise ({error})") from error
    if not isinstance(table, dict) or table.keys() != {"left_out", "reference"}:
        check.fail("json", "expected an object of left_out and reference")
    names = check.array(table["left_out"], "left_out", 0, 256)
    reference = check.text(table["reference"], "reference", _MAX_REFERENCE, empty=True)
    return Pulled(reference, tuple(check.text(name, f"left_out[{i}]") for i, name in enumerate(names)))


def without_left_out(path: Path | str, manifest: Manifest, pulled: Pulled) -> Manifest:
    """The manifest as a copy has it: without the files that it was not given, and the targets of that code.

    Raises:
        BundleError: what is left out is no code of a target and no weights, no target is left, or one without weights.
    """
    optional = {*(target.file for target in manifest.all_targets), *WEIGHTS_NAMES}
    for name in pulled.left_out:
        if name not in optional:
            raise BundleError(path, "left_out", f"expected code of a target or weights, found {name}")
    left_out = frozenset(pulled.left_out)
    targets = tuple(target for target in manifest.targets if target.file not in left_out)
    if manifest.targets and not targets:
        raise BundleError(path, "left_out", "expected at least one target's code to be here, found none")
    parts = {}
    for name, part in manifest.parts.items():
        kept = tuple(target for target in part.targets if target.file not in left_out)
        if not kept:
            raise BundleError(path, "left_out", f"expected at least one target's code of part {name}, found none")
        parts[name] = replace(part, targets=kept)
    for target in (target for target in manifest.all_targets if target.file not in left_out):
        if (weights := manifest.weights_of(target.backend)) in left_out:
            raise BundleError(path, "left_out", f"expected the weights of {target.file} to be here, found {weights}")
    files = {name: entry for name, entry in manifest.files.items() if name not in left_out}
    return replace(manifest, targets=targets, files=files, parts=parts)
