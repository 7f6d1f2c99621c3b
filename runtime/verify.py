"""`rfc verify`: every digest, and the golden records on every code object that this machine can run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..artifacts.bundle import Bundle, verify_bundle
from ..artifacts.errors import BundleError, DeviceError, RocmforgeError, ToolchainError, printable
from .device.golden import GOLDEN_BLOCKS, checked_prompt, compare_records, record_golden
from .device.load import DeviceOptions, load_target
from .device.memory import LEAST_SLOTS, KvSize


def verify(
    path: Path,
    options: DeviceOptions,
    report: Callable[[str], None],
    check: Callable[[Bundle], None] | None = None,
) -> None:
    """Check a bundle whole, and its code as far as it runs on the devices asked for; `check` first, as of a signature.

    Raises:
        BundleError: a file is not what the manifest says.
        RocmforgeError: the bundle's code does not compute what it should here.
        DeviceError: none of its code runs here.
    """
    with verify_bundle(path) as bundle:
        manifest = bundle.manifest
        if check is not None:
            check(bundle)
            report(f"signature: as asked for, of {manifest.bundle_digest}")
        if not manifest.golden:
            raise BundleError(path, "golden", "expected at least one record, found none")
        prompts = [checked_prompt(path, record, bundle.layout) for record in manifest.golden]
        report(f"digests: {len(manifest.files)} files match {manifest.bundle_digest}")
        runs = 0
        for target in manifest.targets:
            name = f"{target.arch} {target.level}".rstrip()
            try:
                program = load_target(bundle, target, options, KvSize(GOLDEN_BLOCKS, 1, LEAST_SLOTS))
            except (DeviceError, ToolchainError) as error:
                report(f"{name}: not run: {error}")
                continue
            if program is None:
                continue
            try:
                found = record_golden(program, prompts)
            finally:
                program.close()
            runs += 1
            problems = compare_records(path, manifest.golden, found, target.golden_tolerance)
            if problems:
                raise RocmforgeError(f"{name}: {problems[0]} ({len(problems)} differences)")
            pairs = zip(manifest.golden, found, strict=True)
            same = all(want.get("logits_sha256") == have["logits_sha256"] for want, have in pairs)
            exact = "to the bit" if same else f"within {target.golden_tolerance}"
            report(f"{name}: {len(prompts)} golden records replayed, equal {exact}")
        if not runs:
            raise DeviceError(f"{printable(path)}: none of the bundle's code runs on this machine")
