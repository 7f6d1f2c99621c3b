"""`rfc verify`: every digest, and the golden records on every code object that this machine can run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..artifacts.bundle import verify_bundle
from ..artifacts.errors import BundleError, DeviceError
from .golden import compare_golden, record_golden
from .host_device import load_host_program

GOLDEN_BLOCKS = 4


def verify(path: Path, threads: int, report: Callable[[str], None]) -> None:
    """Check a bundle whole.

    Raises:
        BundleError: a file is not what the manifest says.
        DeviceError: the bundle's code does not compute what it should here.
    """
    with verify_bundle(path) as bundle:
        manifest = bundle.manifest
        report(f"digests: {len(manifest.files)} files match {manifest.bundle_digest}")
        if not manifest.golden:
            raise BundleError(path, "golden", "expected at least one record, found none")
        prompts = [_prompt(path, record) for record in manifest.golden]
        for target in manifest.targets:
            try:
                program = load_host_program(bundle, GOLDEN_BLOCKS, threads, target.level)
            except DeviceError as error:
                report(f"{target.arch} {target.level}: not run: {error}")
                continue
            found = record_golden(program, prompts)
            program.close()
            problems = compare_golden(manifest.golden, found, target.golden_tolerance)
            if problems:
                raise DeviceError(f"{target.arch} {target.level}: {problems[0]} ({len(problems)} differences)")
            same = all(a["logits_sha256"] == b["logits_sha256"] for a, b in zip(manifest.golden, found, strict=True))
            exact = "to the bit" if same else f"within {target.golden_tolerance}"
            report(f"{target.arch} {target.level}: {len(prompts)} golden records replayed, equal {exact}")


def _prompt(path: Path, record: object) -> list[int]:
    prompt = record.get("prompt") if isinstance(record, dict) else None
    if not isinstance(prompt, list) or not prompt or not all(isinstance(token, int) for token in prompt):
        raise BundleError(path, "golden.prompt", "expected a list of token ids")
    return prompt
