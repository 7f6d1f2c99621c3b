"""What is in a bundle, and which models lie in a folder."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..artifacts.bundle import open_bundle
from ..artifacts.checker import Checker
from ..artifacts.errors import InputError, RocmforgeError, UsageError, printable
from ..artifacts.host import HOST_LEVELS
from ..artifacts.manifest import LAYOUT_NAME, MANIFEST_NAME
from ..artifacts.manifest_entries import PartEntry

# The name of a part of a GGUF model in several files.
_RESOURCES = {"arch", "vgprs", "sgprs", "spills", "scratch_bytes", "lds_bytes", "threads", "waves_per_simd"}
_PART = re.compile(r"(?P<prefix>.*)-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf", re.ASCII | re.DOTALL)


def inspect_bundle(path: Path, with_kernels: bool = False, arch: str | None = None) -> dict[str, object]:
    """Facts of a bundle, as plain data.

    Args:
        with_kernels: with its kernel table,
        arch: of this arch alone.
    Raises:
        BundleError: it cannot be trusted. UsageError: it has no code for `arch`.
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
        **_changes(Checker(path / MANIFEST_NAME), manifest.options),
        "context": layout.max_seq_len,
        "code": ", ".join(
            f"{' '.join(filter(None, (t.arch, t.level)))} ({t.toolchain_version})" for t in manifest.targets
        ),
        "kernel_launches_per_token": sum(entry.grid is None or entry.grid.at_least <= 1 for entry in layout.launches),
        "kv_type": layout.kv.dtype,
        **_memory(manifest.memory),
        **_parts(manifest.parts),
    }
    if arch is not None and arch not in (have := [target.arch for target in manifest.targets]):
        raise UsageError(f"--arch {printable(arch)}: the bundle has code for {', '.join(dict.fromkeys(have))}")
    if with_kernels or arch is not None:
        rows = [_kernel(Checker(path / MANIFEST_NAME), row, i) for i, row in enumerate(manifest.kernels)]
        facts["kernels"] = [row for row in rows if _is_for(row, arch)]
    return facts


def _changes(check: Checker, options: Mapping[str, Any]) -> dict[str, object]:
    """What was done to the model's weights before they were packed, or is kept beside them, where anything is."""
    facts: dict[str, object] = {}
    if "quantize" in options:
        facts["quantized_to"] = options["quantize"]
    if "imatrix" in options:
        facts["importance_matrix"] = f"sha256 {options['imatrix']}"
    try:
        if "lora" in options:
            merged = (f"sha256 {one['sha256']} times {one['scale']}" for one in options["lora"])
            facts["merged_adapters"] = ", ".join(merged)
        if "adapters" in options:
            facts["adapters"] = ", ".join(
                f"{one['name']} (rank {one['rank']}, sha256 {one['sha256']} times {one['scale']})"
                for one in options["adapters"]
            )
    except (KeyError, TypeError):
        check.fail("options", "expected adapters as rocmforge writes them, found others")
    return facts


def _kernel(check: Checker, row: Mapping[str, Any], index: int) -> dict[str, Any]:
    """A row of the kernel table, of which a manifest promises nothing."""
    at = f"kernels[{index}]"
    check.text(row.get("symbol"), f"{at}.symbol")
    check.integer(row.get("launches_per_step"), f"{at}.launches_per_step")
    for found in check.array(row.get("resources"), f"{at}.resources", 0, 256):
        if not isinstance(found, Mapping) or not found.keys() >= _RESOURCES:
            check.fail(f"{at}.resources", f"expected {', '.join(sorted(_RESOURCES))} of each, found otherwise")
    return dict(row)


def _parts(parts: Mapping[str, PartEntry]) -> dict[str, object]:
    """What each part is for, and its memory contract, by its name."""
    facts: dict[str, object] = {}
    for name, part in parts.items():
        code = dict.fromkeys(" ".join(filter(None, (target.arch, target.level))) for target in part.targets)
        facts[f"{name}_code"] = ", ".join(code)
        facts |= {f"{name}_{key}": value for key, value in part.facts.items() if value not in ("", 0, False)}
        facts |= {f"{name}_{key}": value for key, value in _memory(part.memory).items()}
    return facts


def _memory(contract: Mapping[str, Mapping[str, int]]) -> dict[str, object]:
    """The memory contract a line a figure; the arch is named where there are several that differ."""
    if len({tuple(sorted(rows.items())) for rows in contract.values()}) <= 1:
        return dict(next(iter(contract.values()), {}))
    return {f"{arch}_{name}": n_bytes for arch, rows in contract.items() for name, n_bytes in rows.items()}


def format_resources(found: Mapping[str, Any]) -> str:
    """One line of what a kernel takes on one arch."""
    return printable(
        f"{found['arch']}: {found['vgprs']} VGPRs, {found['sgprs']} SGPRs, {found['spills']} spills, "
        f"{found['scratch_bytes']} B scratch, {found['lds_bytes']} B LDS, {found['threads']} threads, "
        f"{found['waves_per_simd'] or '?'} waves a SIMD",
        600,
    )


def _is_for(row: dict[str, Any], arch: str | None) -> bool:
    """Whether a row of the kernel table is a kernel of `arch`; one without resources is the host's."""
    arches = [found["arch"] for found in row["resources"]]
    return arch is None or (arch in arches if arches else arch in HOST_LEVELS)


def find_models(folder: Path) -> list[dict[str, object]]:
    """GGUF files, folders of safetensors and bundles below a folder, by path; a bundle that cannot be read says why.

    Raises:
        InputError: there is no such folder.
    """
    if not os.path.isdir(folder):
        raise InputError(folder, "folder", "expected a folder, found none")
    rows: list[dict[str, object]] = []
    for path in sorted(folder.rglob("*")):
        if path.name == LAYOUT_NAME and os.path.isfile(path.parent / MANIFEST_NAME):
            # What a killed compile left is no bundle, however whole it looks.
            if not path.parent.name.endswith(".partial"):
                rows.append(_bundle_row(path.parent))
        elif path.suffix == ".gguf" and os.path.isfile(path):
            part = _PART.fullmatch(path.name)
            if part is None or int(part["number"]) == 1:
                rows.append(_gguf_row(path, part))
        elif path.name == "config.json" and (files := sorted(path.parent.glob("model*.safetensors"))):
            size = sum(file.stat().st_size for file in files)
            about = f"{len(files)} safetensors"
            rows.append({"kind": "folder", "path": printable(path.parent), "size_bytes": size, "about": about})
    return rows


def _gguf_row(path: Path, part: re.Match[str] | None) -> dict[str, object]:
    """The row of a GGUF file; of the first part of several, that of the whole model."""
    files, about = [path], ""
    if part is not None:
        files = sorted(path.parent.glob(f"{glob.escape(part['prefix'])}-[0-9]*-of-{part['count']}.gguf"))
        about = f"{len(files)} of {int(part['count'])} parts"
    size = sum(file.stat().st_size for file in files)
    return {"kind": "gguf", "path": printable(path), "size_bytes": size, "about": about}


def _bundle_row(path: Path) -> dict[str, object]:
    size, about = 0, ""
    try:
        with open_bundle(path) as bundle:
            size = sum(entry.n_bytes for entry in bundle.manifest.files.values())
            about = f"{printable(bundle.manifest.model.name)} ({printable(bundle.manifest.model.quantization)})"
    except RocmforgeError as error:
        about = f"unreadable: {error}"
    return {"kind": "bundle", "path": printable(path), "size_bytes": size, "about": about}
