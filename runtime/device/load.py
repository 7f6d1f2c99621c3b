"""Host or GPU: which of a bundle's programs is loaded here, as `--device` asks."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...artifacts.bundle import Bundle
from ...artifacts.dataclass import dataclass
from ...artifacts.errors import DeviceError, RocmforgeError, UsageError, printable
from ...artifacts.hip import KFD_NODES
from ...artifacts.layout import Layout
from ...artifacts.manifest_entries import TargetEntry
from ...artifacts.processors import read_processors
from ...artifacts.targets import GENERIC_ARCHES
from .batch import Program, close_program
from .hip.placement import WeightPlaces
from .host import HostProgram, choose_variant, load_host_program
from .memory import KvSize, available_memory, check_memory, describe_slots, host_state_slots, kv_blocks
from .proof import check_shortest, shortest_proof
from .threads import SpeedMemory, choose_threads, try_more

if TYPE_CHECKING:
    from .hip.api import HipApi
    from .hip.program import HipProgram
    from .hip.select import GpuDevice

# ruff: noqa: PLC0415 - what drives GPUs is imported where one is looked for: 8 ms, which a start on the CPU is spared

log = logging.getLogger(__name__)

Report = Callable[[str], object]
EmulatorMaker = Callable[[str], "HipApi"]
"""Makes an emulated GPU of an arch; raises a `RocmforgeError` where it cannot."""

DEVICE_FORMS: Final = "auto, host, hip, hip:INDEX (or an arch, or a PCI address), emulated, emulated:ARCH"
_KINDS: Final = ("auto", "host", "hip", "emulated")
_UPLOAD_REPORTED_BYTES: Final = 1 << 30


def load_hip() -> HipApi:
    """Find HIP on this machine; see `hip.api.load_hip`."""
    from .hip.api import load_hip as find

    return find()


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """What to run on.

    Attributes:
        device: one of `DEVICE_FORMS`.
        threads: of the host; None: as many as are fastest (`threads.py`).
        emulator: from whoever has one; the runtime has none.
        load_hip: finds HIP.
        nodes: the KFD topology of this machine.
        graphs: one of `artifacts.hip.GRAPH_MODES`.
        places: of weights, where it is a GPU.
        state_slots: of recurrent state, where the model has some; None: what fits and is of use.
        prove_with_first_step: on the host, the golden record is replayed within the first step, for somebody who waits
            for its result: weights are read once.
    """

    device: str = "auto"
    threads: int | None = 1
    emulator: EmulatorMaker | None = None
    load_hip: Callable[[], HipApi] = load_hip
    nodes: Path = KFD_NODES
    graphs: str = "auto"
    places: WeightPlaces = field(default_factory=WeightPlaces)
    state_slots: int | None = None
    prove_with_first_step: bool = False

    def parsed(self) -> tuple[str, str | None]:
        """Return the kind of device and which one.

        Raises:
            UsageError: it is none of the forms.
        """
        kind, colon, which = self.device.partition(":")
        if kind not in _KINDS or (colon and (not which or kind in ("auto", "host"))):
            raise UsageError(f"--device: expected {DEVICE_FORMS}; found {printable(self.device)}")
        return kind, which or None


def load_program(bundle: Bundle, options: DeviceOptions, kv: KvSize, report: Report = log.info) -> Program:
    """Load the bundle on the device asked for; `auto`: a GPU that it has code for, else the host.

    It has replayed a golden record and tried its graphs, except on the emulator, which takes seconds for one.

    Args:
        bundle: open.
        options: what to run on.
        kv: how large the KV cache shall be.
        report: told what was chosen, and what was passed over.

    Raises:
        UsageError: `--device` is none of the forms.
        DeviceError: there is no such device, or the bundle has no code for it, or memory is unavailable.
        BundleError: it does not compute what its golden record says.
    """
    kind, which = options.parsed()
    targets = bundle.manifest.targets
    hip_targets = [target for target in targets if target.backend == "hip"]
    if kind == "emulated":
        return _load_emulated(bundle, options, hip_targets, which, kv, report)
    has_host = len(hip_targets) < len(targets)
    if kind == "host" and not has_host:
        raise DeviceError(f"--device host: the bundle has no code for the host; it has code for {_arches(bundle)}")
    if kind == "hip" or (kind == "auto" and hip_targets):
        try:
            api, device, target = _find_gpu(bundle, options, which, report)
        except DeviceError as error:
            if kind == "hip" or not has_host:
                raise
            report(f"no GPU is used: {error}")
        else:
            from .hip.open_program import open_program

            # From here on nothing falls back: a model that does not fit the GPU is not meant for the CPU.
            where = bundle, api, device, target
            program = open_program(*where, kv, report, _UploadReport(report), options.graphs, options.places)
            return _checked(_tried(program), bundle, target)
    return _load_best_host(bundle, options, kv)


def _load_best_host(bundle: Bundle, options: DeviceOptions, kv: KvSize) -> Program:
    """Load the best of the host's programs, on as many threads as were asked for, or are fastest."""
    target = choose_variant(bundle.manifest.targets)
    if options.threads is not None:
        return _proven(_load_host(bundle, options, target, kv, None), bundle, target, options)
    processors = read_processors()
    memory = SpeedMemory(processors, target.level)
    choice = choose_threads(processors, memory)
    later = options.prove_with_first_step and not choice.more  # what tries more threads takes steps
    options = replace(options, threads=choice.count, prove_with_first_step=later)
    program = _proven(_load_host(bundle, options, target, kv, None), bundle, target, options)
    if choice.more:
        with _closed_on_error(program):
            choice = try_more(program, choice, processors, memory)
    log.info("host: %s", choice)
    return program


@contextlib.contextmanager
def _closed_on_error(program: Program) -> Iterator[None]:
    """What is tried on a program leaves nothing on the device where it fails."""
    try:
        yield
    except BaseException:
        close_program(program)
        raise


def _checked(program: Program, bundle: Bundle, target: TargetEntry) -> Program:
    """Return the program, once it has given a known answer."""
    with _closed_on_error(program):
        check_shortest(program, bundle.path, bundle.manifest.golden, target.golden_tolerance)
    return program


def _proven(program: HostProgram, bundle: Bundle, target: TargetEntry, options: DeviceOptions) -> HostProgram:
    """Return the program, once it has given a known answer, or is to give it with its first step."""
    if not options.prove_with_first_step:
        _checked(program, bundle, target)
        return program
    with _closed_on_error(program):
        proof = shortest_proof(program, bundle.path, bundle.manifest.golden, target.golden_tolerance)
        program.prove_with_first_step(proof)
    return program


def _tried(program: HipProgram) -> HipProgram:
    """Return the program, once its graphs have been tried."""
    with _closed_on_error(program):
        program.try_graphs()
    return program


def _find_gpu(
    bundle: Bundle, options: DeviceOptions, which: str | None, report: Report
) -> tuple[HipApi, GpuDevice, TargetEntry]:
    from .hip.api import runtime_version
    from .hip.select import asked_device, choose_device, find_devices

    try:
        api = options.load_hip()
        devices = find_devices(api, options.nodes)
    except DeviceError as error:
        raise DeviceError(f"{error}; the bundle has code for {_arches(bundle)}") from None
    targets, asked = bundle.manifest.targets, which or asked_device()
    return api, *choose_device(devices, targets, asked, report, runtime_version(api))


def _arches(bundle: Bundle) -> str:
    from .hip.select import bundle_arches

    return bundle_arches(bundle.manifest.targets)


def load_target(bundle: Bundle, target: TargetEntry, options: DeviceOptions, kv: KvSize) -> Program | None:
    """Load the program of one target, to verify it; None where `--device` does not ask for its kind.

    Raises:
        RocmforgeError: it does not run here; says why.
    """
    kind, which = options.parsed()
    if target.backend == "host":
        return _load_host(bundle, options, target, kv, target.level) if kind in ("auto", "host") else None
    if kind == "host" or (kind == "emulated" and which not in {None, target.arch}):
        return None
    if kind == "emulated":
        return _load_emulated(bundle, options, [target], which, kv, log.info)
    from .hip.api import runtime_version
    from .hip.open_program import open_program
    from .hip.select import asked_device, choose_device, find_devices

    api = options.load_hip()
    found, version = find_devices(api, options.nodes), runtime_version(api)
    device, _ = choose_device(found, [target], which or asked_device(), version=version)
    return _tried(open_program(bundle, api, device, target, kv, graphs=options.graphs, places=options.places))


def _load_host(
    bundle: Bundle, options: DeviceOptions, target: TargetEntry, kv: KvSize, level: str | None
) -> HostProgram:
    layout, available = bundle.layout_of(target), available_memory()
    num_blocks = _blocks(layout, kv, available)
    num_slots = host_state_slots(layout, kv.state_slots, available)
    check_memory(layout, num_blocks, available, num_slots, kv)
    if num_slots:
        log.info("host: %s", describe_slots(layout, num_slots))
    threads = read_processors().whole if options.threads is None else options.threads
    return load_host_program(bundle, num_blocks, threads, level, num_slots)


def _blocks(layout: Layout, kv: KvSize, available: int | None) -> int:
    """Blocks of a KV cache in this machine's memory."""
    if kv.blocks is not None:
        return kv.blocks
    return kv_blocks(layout, kv.max_context, None, available, kv.bytes_of_block(layout))


def _load_emulated(
    bundle: Bundle,
    options: DeviceOptions,
    targets: Sequence[TargetEntry],
    which: str | None,
    kv: KvSize,
    report: Report,
) -> Program:
    """Load the first of the targets that the emulator has a GPU for, or the one of an arch."""
    if options.emulator is None:
        raise DeviceError("--device emulated: this program was started without an emulator")
    from .hip.open_program import open_program
    from .hip.select import GpuDevice

    wanted = [target for target in targets if which in {None, target.arch}]
    problem = f"the bundle has no code for {printable(which) if which else 'a GPU'}"
    for target in wanted:
        arch = GENERIC_ARCHES.get(target.arch, (target.arch,))[0]
        try:
            api = options.emulator(arch)
        except RocmforgeError as error:
            problem = str(error)
            continue
        layout = bundle.layout_of(target)
        # Its memory is this machine's, so it is as sparing with it as the host is.
        blocks = _blocks(layout, kv, available_memory())
        slots = host_state_slots(layout, kv.state_slots, available_memory()) or None
        device, size = GpuDevice(0, "emulated", arch, ""), replace(kv, blocks=blocks, state_slots=slots)
        where = bundle, api, device, target
        program = open_program(*where, size, report, graphs=options.graphs, places=options.places)
        return _tried(program) if options.graphs == "on" else program
    raise DeviceError(f"--device {printable(options.device)}: {problem}; the bundle has code for {_arches(bundle)}")


class _UploadReport:
    """Says each tenth of an upload that takes a while."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._tenths = 0

    def __call__(self, done: int, total: int) -> None:
        tenths = 10 * done // max(total, 1)
        if total >= _UPLOAD_REPORTED_BYTES and tenths > self._tenths:
            self._tenths = tenths
            self._report(f"weights: {done / 2**30:.1f} of {total / 2**30:.1f} GiB are on the GPU")
