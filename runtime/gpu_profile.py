"""`rfc profile`: a prompt under AMD's profiler, and what its kernels took, beside the bytes that the plan says.

Two profilers are known: `rocprofv3` of ROCm 6.2 and newer, which traces in one run and counts in another, and its
predecessor `rocprof`, which does both in one. What they write is read by the names of its columns: their order changed.
"""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Final

from ..artifacts.arguments import Argument, TensorRef
from ..artifacts.bundle import open_bundle
from ..artifacts.dataclass import dataclass
from ..artifacts.errors import RocmforgeError, ToolchainError, printable

PROFILERS: Final = ("rocprofv3", "rocprof")
COUNTERS: Final = ("FETCH_SIZE", "WRITE_SIZE")
"""KiB that a kernel's L2 cache reads from memory and writes to it, derived by the profiler for each arch."""

_WHOLE: Final = frozenset({"gemv", "gemm", "norm"})
"""Templates whose launches read the whole of their tensors; others pick rows."""
_NAMES: Final = ("Kernel_Name", "KernelName")
_BEGINS: Final = ("Start_Timestamp", "BeginNs")
_ENDS: Final = ("End_Timestamp", "EndNs")
_LEGACY_COUNTERS: Final = {"FETCH_SIZE": "FetchSize", "WRITE_SIZE": "WriteSize"}

Runner = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


@dataclass(slots=True)
class KernelProfile:
    """One kernel over all its launches.

    Attributes:
        launches: counted by the trace.
        nanoseconds: on the device.
        read: bytes from memory; None: not counted.
        written: bytes to memory; None: not counted.
        planned: weight bytes that its launches have to read; None: the plan does not say.
    """

    name: str
    launches: int = 0
    nanoseconds: int = 0
    read: float | None = None
    written: float | None = None
    planned: int | None = None


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """What to run."""

    bundle: Path
    prompt: str
    max_tokens: int
    device: str
    environment: Mapping[str, str] = field(default_factory=lambda: os.environ)


def find_profiler(environment: Mapping[str, str] = os.environ) -> str:
    """Path of the newest profiler on PATH, below $ROCM_PATH or below /opt/rocm.

    Raises:
        ToolchainError: there is none; says how to get one.
    """
    folders = [environment.get("PATH", ""), str(Path(environment.get("ROCM_PATH") or "/opt/rocm", "bin"))]
    for name in PROFILERS:
        found = shutil.which(name, path=os.pathsep.join([*folders, "/opt/rocm/bin"]))
        if found is not None:
            return found
    raise ToolchainError(
        f"expected {' or '.join(PROFILERS)} on PATH, below $ROCM_PATH or below /opt/rocm, found neither: "
        "AMD's ROCm repository (repo.radeon.com) has them as rocprofiler-sdk and rocprofiler"
    )


def profile(options: ProfileOptions, report: Callable[[str], object], run: Runner | None = None) -> list[KernelProfile]:
    """Run a prompt under the profiler.

    Args:
        options: what to run.
        report: told what goes on, and what could not be counted.
        run: runs a command; for tests.

    Returns:
        the kernels, longest first.
    Raises:
        ToolchainError: there is no profiler, or it failed, or wrote what it should not.
    """
    profiler = find_profiler(options.environment)
    start = run or _run
    planned = planned_bytes(options.bundle)
    command = [sys.executable, "-m", "rocmforge.cli", "run", str(options.bundle), options.prompt]
    command += ["-n", str(options.max_tokens), "--temperature", "0", "--device", options.device]
    report(f"profiler: {profiler}")
    with tempfile.TemporaryDirectory(prefix="rocmforge-profile-") as name:
        folder = Path(name)
        collect = _collect_v3 if Path(profiler).name == "rocprofv3" else _collect_v1
        kernels = collect(profiler, command, folder, start, report)
    for kernel in kernels.values():
        if kernel.name in planned:
            kernel.planned = planned[kernel.name] * kernel.launches
    return sorted(kernels.values(), key=lambda kernel: -kernel.nanoseconds)


def _collect_v3(
    profiler: str, command: Sequence[str], folder: Path, run: Runner, report: Callable[[str], object]
) -> dict[str, KernelProfile]:
    output = ["--output-format", "csv", "--output-directory"]
    _checked(run([profiler, "--kernel-trace", "--marker-trace", *output, str(folder / "times"), "--", *command]))
    kernels = read_times(_files(folder / "times", "*kernel_trace.csv"))
    counted = run([profiler, "--pmc", *COUNTERS, *output, str(folder / "bytes"), "--", *command])
    files = list((folder / "bytes").rglob("*counter_collection.csv"))
    if counted.returncode or not files:
        report(f"bytes were not counted: {_last_line(counted)}")
    else:
        read_counters(files, kernels)
    return kernels


def _collect_v1(
    profiler: str, command: Sequence[str], folder: Path, run: Runner, report: Callable[[str], object]
) -> dict[str, KernelProfile]:
    asked, written = folder / "counters.txt", folder / "results.csv"
    asked.write_text(f"pmc : {' '.join(_LEGACY_COUNTERS.values())}\n", "ascii")
    counting = ["-i", str(asked)]
    done = run([profiler, *counting, "--timestamp", "on", "-o", str(written), *command])
    if done.returncode or not written.exists():
        report(f"bytes were not counted: {_last_line(done)}")
        _checked(run([profiler, "--timestamp", "on", "-o", str(written), *command]))
    files = _files(folder, "results.csv")
    kernels = read_times(files)
    read_counters(files, kernels)
    return kernels


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ToolchainError(f"{printable(command[0])}: {error.strerror}") from None


def _checked(done: subprocess.CompletedProcess[str]) -> None:
    if done.returncode:
        raise ToolchainError(f"{printable(done.args[0])} ended with code {done.returncode}: {_last_line(done)}")


def _last_line(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return printable(lines[-1], 600) if lines else "it said nothing"


def _files(folder: Path, pattern: str) -> list[Path]:
    found = sorted(folder.rglob(pattern))
    if not found:
        raise ToolchainError(f"the profiler wrote no {pattern}: did anything run on a GPU?")
    return found


def read_times(paths: Iterable[Path]) -> dict[str, KernelProfile]:
    """Launches and times by kernel, of `rocprofv3`'s kernel_trace.csv or `rocprof`'s results.csv.

    Raises:
        ToolchainError: a column is missing, or a time is no number.
    """
    kernels: dict[str, KernelProfile] = {}
    for path, row in _rows(paths):
        name = kernel_name(_cell(path, row, _NAMES))
        kernel = kernels.setdefault(name, KernelProfile(name))
        kernel.launches += 1
        kernel.nanoseconds += int(_number(path, row, _ENDS) - _number(path, row, _BEGINS))
    return kernels


def read_counters(paths: Iterable[Path], kernels: Mapping[str, KernelProfile]) -> None:
    """Enter bytes read and written: of `rocprofv3`'s counter_collection.csv, a row for each counter of a launch, or of
    `rocprof`'s results.csv, a column for each.

    Raises:
        ToolchainError: a column is missing, or a count is no number.
    """
    totals: dict[tuple[str, str], float] = defaultdict(float)
    for path, row in _rows(paths):
        name = kernel_name(_cell(path, row, _NAMES))
        if "Counter_Name" in row:
            totals[name, row["Counter_Name"]] += _number(path, row, ("Counter_Value",))
            continue
        for counter, legacy in _LEGACY_COUNTERS.items():
            if counter in row or legacy in row:
                totals[name, counter] += _number(path, row, (counter, legacy))
    for kernel in kernels.values():
        read, written = (totals.get((kernel.name, counter)) for counter in COUNTERS)
        kernel.read = None if read is None else 1024 * read
        kernel.written = None if written is None else 1024 * written


def kernel_name(text: str) -> str:
    """A kernel's symbol, of what a profiler calls it: `norm_5bbc85e6.kd`, `norm_5bbc85e6(void*) [clone .kd]`."""
    return text.partition("(")[0].partition(" [")[0].removesuffix(".kd").strip()


def _rows(paths: Iterable[Path]) -> Iterator[tuple[Path, dict[str, str]]]:
    for path in paths:
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            for row in csv.DictReader(file, restval="", restkey="rest"):
                yield path, row


def _cell(path: Path, row: Mapping[str, str], names: Sequence[str]) -> str:
    for name in names:
        if name in row:
            return row[name]
    found = ", ".join(map(str, row))
    raise ToolchainError(f"{path.name}: expected a column {' or '.join(names)}, found {printable(found, 400)}")


def _number(path: Path, row: Mapping[str, str], names: Sequence[str]) -> float:
    text = _cell(path, row, names)
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise ToolchainError(f"{path.name}: {names[0]}: expected a number, found {printable(text)!r}") from None


def planned_bytes(bundle: Path) -> dict[str, int]:
    """Weight bytes that one launch of a kernel reads at least, for kernels that read whole tensors."""
    with open_bundle(bundle) as opened:
        whole = {row["symbol"] for row in opened.manifest.kernels if row["template"] in _WHOLE}
        layouts = [opened.layout_of(target) for target in opened.manifest.targets if target.backend == "hip"]
    if not layouts:
        raise RocmforgeError(f"{printable(bundle)}: expected code for an AMD GPU, found none: rfc compile --arch")
    found: dict[str, list[int]] = defaultdict(list)
    for layout in layouts:
        sizes: dict[Argument, int] = {TensorRef(tensor.name): tensor.n_bytes for tensor in layout.tensors}
        for launch in layout.launches:
            if launch.kernel in whole:
                found[launch.kernel].append(sum(sizes.get(argument, 0) for argument in launch.arguments))
    return {name: sum(sizes) // len(sizes) for name, sizes in found.items()}


def format_profile(kernels: Sequence[KernelProfile]) -> Iterator[str]:
    """A table for people."""
    total = sum(kernel.nanoseconds for kernel in kernels)
    yield f"{'ms':>9} {'share':>6} {'launches':>8} {'us each':>8} {'MB read':>9} {'planned':>9} {'GB/s':>6}  kernel"
    for kernel in kernels:
        moved = None if kernel.read is None else kernel.read + (kernel.written or 0)
        speed = None if moved is None or not kernel.nanoseconds else moved / kernel.nanoseconds
        yield (
            f"{kernel.nanoseconds / 1e6:>9.3f} {kernel.nanoseconds / max(total, 1):>6.1%} {kernel.launches:>8} "
            f"{kernel.nanoseconds / 1e3 / max(kernel.launches, 1):>8.2f} {_megabytes(kernel.read):>9} "
            f"{_megabytes(kernel.planned):>9} {'-' if speed is None else f'{speed:.0f}':>6}  {printable(kernel.name)}"
        )
    launches = sum(kernel.launches for kernel in kernels)
    yield f"{total / 1e6:>9.3f} {'':>6} {launches:>8} {'':>8} {'':>9} {'':>9} {'':>6}  all"


def _megabytes(n_bytes: float | None) -> str:
    return "-" if n_bytes is None else f"{n_bytes / 1e6:.3f}"
