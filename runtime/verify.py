"""`rfc verify`: every digest, and the golden records on every code object that this machine can run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..artifacts.bundle import Bundle, verify_bundle
from ..artifacts.dataclass import dataclass
from ..artifacts.errors import BundleError, DeviceError, RocmforgeError, ToolchainError, printable
from ..artifacts.manifest import PART_RECORDS_VERSION
from ..artifacts.vision import VISION_PART
from .device.batch import Program
from .device.golden import GOLDEN_BLOCKS, checked_prompt, compare_records, record_golden
from .device.load import DeviceOptions, load_target
from .device.memory import LEAST_SLOTS, KvSize
from .engine.part_records import compare_part, probe_in, record_part


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
        run = _Runs(path, options, report, "", compare_records, "logits_sha256")

        def record(program: Program) -> list[dict[str, Any]]:
            return record_golden(program, prompts)

        size = KvSize(GOLDEN_BLOCKS, 1, LEAST_SLOTS)
        if not run.all_of(bundle, manifest.golden, size, record):
            raise DeviceError(f"{printable(path)}: none of the bundle's code runs on this machine")
        for name in manifest.parts:
            _verify_part(bundle, name, run)


def _verify_part(bundle: Bundle, name: str, run: _Runs) -> None:
    """Replay the records of a part, as those of the model."""
    records = bundle.manifest.parts[name].golden
    if not records:
        run.report(f"{name}: not run: it has no golden records, as bundles of before format {PART_RECORDS_VERSION}")
        return
    probe = probe_in(bundle, name)
    given = [probe.checked(bundle.path, record) for record in records]

    def record(program: Program) -> list[dict[str, Any]]:
        return record_part(probe, program, given)

    # As it is served: without graphs where it encodes images.
    options = replace(run.options, graphs="off") if name == VISION_PART else run.options
    own = replace(run, options=options, name=f"{name} ", compare=compare_part, digest="rows_sha256")
    own.all_of(bundle.part(name), records, KvSize(probe.blocks, 1, LEAST_SLOTS), record)


@dataclass(frozen=True, slots=True)
class _Runs:
    """How records are replayed: of a bundle's model, or of a part.

    Attributes:
        path: of the bundle.
        options: where to.
        report: told of each target.
        name: before a target's in what is told.
        compare: says what differs in records.
        digest: their field that is equal where all is equal to the bit.
    """

    path: Path
    options: DeviceOptions
    report: Callable[[str], None]
    name: str
    compare: Callable[[Path, Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]], float], list[str]]
    digest: str

    def all_of(
        self,
        bundle: Bundle,
        records: Sequence[Mapping[str, Any]],
        size: KvSize,
        record: Callable[[Program], list[dict[str, Any]]],
    ) -> int:
        """Replay records on each code object that runs on the devices asked for; return how many did.

        Raises:
            RocmforgeError: one computes something else.
        """
        runs = 0
        for target in bundle.manifest.targets:
            name = f"{self.name}{target.arch} {target.level}".rstrip()
            try:
                program = load_target(bundle, target, self.options, size)
            except (DeviceError, ToolchainError) as error:
                self.report(f"{name}: not run: {error}")
                continue
            if program is None:
                continue
            try:
                found = record(program)
            finally:
                program.close()
            runs += 1
            problems = self.compare(self.path, records, found, target.golden_tolerance)
            if problems:
                raise RocmforgeError(f"{name}: {problems[0]} ({len(problems)} differences)")
            same = all(one.get(self.digest) == have[self.digest] for one, have in zip(records, found, strict=True))
            exact = "to the bit" if same else f"within {target.golden_tolerance}"
            self.report(f"{name}: {len(found)} golden records replayed, equal {exact}")
        return runs
