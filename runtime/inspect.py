"""What is in a bundle, and which models lie in a folder."""

from __future__ import annotations

import os
from pathlib import Path

from ..artifacts.bundle import open_bundle
from ..artifacts.errors import InputError, RocmforgeError, printable
from ..artifacts.manifest import MANIFEST_NAME


def inspect_bundle(path: Path, with_kernels: bool = False) -> dict[str, object]:
    """Facts of a bundle, as plain data.

    Raises:
        BundleError: it cannot be trusted.
    """
    with open_bundle(path) as bundle:
        manifest, layout = bundle.manifest, bundle.layout
    facts: dict[str, object] = {
        "bundle": printable(path),
        "digest": manifest.bundle_digest,
        "format_version": manifest.format_version,
        "made_by": f"rocmforge {manifest.generator}",
        "model": printable(manifest.model.name),
        "architecture": manifest.model.architecture,
        "parameters": manifest.model.parameters,
        "quantization": manifest.model.quantization,
        "context": layout.max_seq_len,
        "code": ", ".join(f"{t.arch} {t.level} ({t.toolchain_version})" for t in manifest.targets),
        "kernel_launches_per_step": len(layout.launches),
        **manifest.memory,
    }
    if with_kernels:
        facts["kernels"] = [dict(row) for row in manifest.kernels]
    return facts


def find_models(folder: Path) -> list[dict[str, object]]:
    """GGUF files and bundles below a folder, by path; a bundle that cannot be read says why.

    Raises:
        InputError: there is no such folder.
    """
    if not os.path.isdir(folder):
        raise InputError(folder, "folder", "expected a folder, found none")
    rows: list[dict[str, object]] = []
    for path in sorted(folder.rglob("*")):
        if path.name == MANIFEST_NAME and os.path.isfile(path):
            # What a killed compile left is no bundle, however whole it looks.
            if not path.parent.name.endswith(".partial"):
                rows.append(_bundle_row(path.parent))
        elif path.suffix == ".gguf" and os.path.isfile(path):
            rows.append({"kind": "gguf", "path": printable(path), "size_bytes": path.stat().st_size, "about": ""})
    return rows


def _bundle_row(path: Path) -> dict[str, object]:
    size, about = 0, ""
    try:
        with open_bundle(path) as bundle:
            size = sum(entry.n_bytes for entry in bundle.manifest.files.values())
            about = f"{printable(bundle.manifest.model.name)} ({bundle.manifest.model.quantization})"
    except RocmforgeError as error:
        about = f"unreadable: {error}"
    return {"kind": "bundle", "path": printable(path), "size_bytes": size, "about": about}
