"""Opens a bundle on the GPU that was asked for, where it fits."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ....artifacts.bundle import Bundle
from ....artifacts.errors import DeviceError
from ....artifacts.hip import KFD_NODES
from ....artifacts.manifest_entries import TargetEntry
from ..memory import KvSize, available_memory, describe_slots
from .api import HipApi, HipError, check, runtime_version
from .capacity import Room, host_weights, place_weights
from .memory import DeviceMemory, Progress
from .placement import WeightPlaces
from .program import HipProgram
from .select import GpuDevice, asked_device, choose_device, find_devices, read_code

log = logging.getLogger(__name__)


def load_hip_program(
    bundle: Bundle,
    api: HipApi,
    kv: KvSize,
    device: str | None = None,
    nodes: Path | None = KFD_NODES,
    targets: tuple[TargetEntry, ...] | None = None,
    report: Callable[[str], object] = log.info,
    progress: Progress | None = None,
) -> HipProgram:
    """Load a bundle on the GPU that was asked for, or the first that it has code for.

    Args:
        bundle: open.
        api: HIP.
        kv: how large the KV cache shall be.
        device: index, arch or PCI address; None: $ROCMFORGE_GPU_DEVICE.
        nodes: the KFD topology that belongs to `api`, if one does.
        targets: of the bundle, to choose from; None: all.
        report: told which GPU is taken, and which are passed over.
        progress: told of the upload.

    Raises:
        DeviceError: no GPU, no code for it, or memory is unavailable.
    """
    devices = find_devices(api, nodes)
    candidates, asked = targets or bundle.manifest.targets, device or asked_device()
    found, target = choose_device(devices, candidates, asked, report, runtime_version(api))
    return open_program(bundle, api, found, target, kv, report, progress)


def open_program(
    bundle: Bundle,
    api: HipApi,
    device: GpuDevice,
    target: TargetEntry,
    kv: KvSize,
    report: Callable[[str], object] = log.info,
    progress: Progress | None = None,
    graphs: str = "auto",
    places: WeightPlaces | None = None,
    beside: HipProgram | None = None,
) -> HipProgram:
    """Load a bundle's code for `target` on `device`; see `load_hip_program` and `HipProgram`. Graphs are not yet
    tested."""
    layout = bundle.layout_of(target)
    code = read_code(bundle, target, device.arch)
    try:
        check(api, api.hipSetDevice(device.index), "choice of the device")
        free, total = DeviceMemory(api).info()
    except HipError as error:
        raise DeviceError(f"{device}: {error}") from None
    room = Room(free, total, available_memory())
    shared = {} if beside is None else beside.tensors_of(layout)
    own = replace(layout, tensors=tuple(one for one in layout.tensors if one.name not in shared))
    host = place_weights(own, kv, room, str(device), places or WeightPlaces())
    if host:
        report(f"{device}: {host_weights(own, host)}")
    weights = bundle.map_weights(target.backend)
    program = HipProgram(api, device, layout, weights, code, kv, progress, graphs=graphs, host=host, beside=beside)
    tokens = program.num_blocks * layout.kv.block_size
    slots = f", {describe_slots(layout, program.num_state_slots)}" if layout.states else ""
    report(f"{device}: {program.facts().runtime}, code for {target.arch}, KV cache of {tokens} tokens{slots}")
    return program
