"""Choose a GPU, and the one of the bundle's code objects that runs on it."""

from __future__ import annotations

import ctypes
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from ....artifacts.abi import HIP_ABI_VERSION
from ....artifacts.bundle import Bundle
from ....artifacts.code_object import CodeObjectError, read_code_object
from ....artifacts.dataclass import dataclass
from ....artifacts.errors import DeviceError, printable
from ....artifacts.hip import GENERIC_SINCE, KFD_NODES, arch_of_version, installed_arches, version_text
from ....artifacts.manifest_entries import TargetEntry
from ....artifacts.targets import GENERIC_ARCHES, generic_arch
from .api import PROPERTIES, HipApi, check

log = logging.getLogger(__name__)

DEVICE_VARIABLE: Final = "ROCMFORGE_GPU_DEVICE"
_OVERRIDE_VARIABLE: Final = "HSA_OVERRIDE_GFX_VERSION"
_NAME_BYTES: Final = 256
_PROPERTIES_BYTES: Final = 16 << 10  # hipDeviceProp_t has 792 or 1472 bytes
_ARCH: Final = re.compile(rb"gfx[0-9a-f]{3,5}(?=[:\0])")
_BUS_ID: Final = re.compile(r"([0-9a-f]{1,8}):([0-9a-f]{1,2}):([0-9a-f]{1,2})\.([0-7])", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class GpuDevice:
    """One GPU.

    Attributes:
        index: HIP's number of it.
        name: for people.
        arch: as `gfx1100`; empty where it could not be found out.
        bus_id: PCI address as `0000:03:00.0`; empty where there is none.
    """

    index: int
    name: str
    arch: str
    bus_id: str

    def __str__(self) -> str:
        return f"GPU {self.index} ({self.arch or 'unknown arch'}, {self.name})"


def find_devices(api: HipApi, nodes: Path | None = KFD_NODES) -> tuple[GpuDevice, ...]:
    """Return the GPUs that HIP shows; at least one.

    Args:
        api: HIP.
        nodes: the KFD topology; None: there is none that `api` belongs to.

    Raises:
        DeviceError: there is none, or HIP does not start.
    """
    count = ctypes.c_int()
    hint = ""
    if nodes is not None and (arches := installed_arches(nodes)):
        # The driver sees GPUs, so what fails is the way to them.
        hint = f"; the driver has {', '.join(arches)}: may this user open /dev/kfd and /dev/dri (groups render, video)?"
    check(api, api.hipGetDeviceCount(ctypes.byref(count)), f"no AMD GPU can be used{hint}")
    if count.value < 1:
        raise DeviceError(f"no AMD GPU can be used: HIP shows none{hint}")
    return tuple(_describe(api, index, nodes) for index in range(count.value))


def _describe(api: HipApi, index: int, nodes: Path | None) -> GpuDevice:
    name = _read_text(api.hipDeviceGetName, index)
    bus_id = _read_text(api.hipDeviceGetPCIBusId, index)
    # The topology is the kernel's own and keeps its form. HIP's structure says more only where a user has HIP take
    # the GPU for another, or where there is no topology, as under Windows' Linux.
    sources: list[Callable[[], str]] = [
        lambda: "" if nodes is None else _arch_by_bus(nodes, bus_id),
        lambda: _arch_by_properties(api, index),
        lambda: _find_arch(name.encode() + b"\0"),
    ]
    if os.environ.get(_OVERRIDE_VARIABLE):
        sources[:2] = sources[1::-1]
    arch = next((found for source in sources if (found := source())), "")
    return GpuDevice(index, printable(name) or "unnamed", arch, bus_id.lower())


def _read_text(function: Callable[[object, int, int], int], index: int) -> str:
    buffer = ctypes.create_string_buffer(_NAME_BYTES)
    return "" if function(buffer, _NAME_BYTES, index) else buffer.value.decode("utf-8", "replace")


def _find_arch(data: bytes) -> str:
    """Return the last arch named in `data`: hipDeviceProp_t has it behind the name, at an offset that changed."""
    found = _ARCH.findall(data)
    return found[-1].decode("ascii") if found else ""


def _arch_by_properties(api: HipApi, index: int) -> str:
    for name in PROPERTIES:
        function = getattr(api, name, None)
        buffer = ctypes.create_string_buffer(_PROPERTIES_BYTES)
        if function is not None and function(buffer, index) == 0:
            return _find_arch(buffer.raw)
    return ""


def _arch_by_bus(nodes: Path, bus_id: str) -> str:
    """Return the arch of the node at a PCI address; empty where there is none.

    `location_id` is bus << 8 | device << 3 | function; partitions of one GPU differ in the function, and in bits
    above 16, alone. Source: Linux, drivers/gpu/drm/amd/amdkfd/kfd_topology.c.
    """
    match = _BUS_ID.fullmatch(bus_id)
    if match is None:
        return ""
    domain, bus, device = (int(match[i], 16) for i in (1, 2, 3))
    for properties in sorted(nodes.glob("*/properties")):
        try:
            pairs = (line.split() for line in properties.read_text("ascii").splitlines())
            fields = {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2}
        except (OSError, ValueError):
            continue
        version, location = fields.get("gfx_target_version", 0), fields.get("location_id", 0)
        if version and fields.get("domain", 0) == domain and (location & 0xFFFF) >> 3 == bus << 5 | device:
            return arch_of_version(version)
    return ""


def code_for(arch: str, targets: Sequence[TargetEntry], generic: bool = True) -> TargetEntry | None:
    """Return the code object for a GPU: of exactly its arch, else of its family's `generic` one, else none."""
    by_arch = {target.arch: target for target in targets if target.backend == "hip"}
    return by_arch.get(arch) or (by_arch.get(generic_arch(arch) or "") if generic else None)


def choose_device(
    devices: Sequence[GpuDevice],
    targets: Sequence[TargetEntry],
    asked: str | None = None,
    report: Callable[[str], object] = log.info,
    version: tuple[int, int] | None = None,
) -> tuple[GpuDevice, TargetEntry]:
    """Choose a GPU and the code that runs on it: the one asked for, else the first that the bundle has code for.

    Args:
        devices: the GPUs found, in HIP's order.
        targets: of the bundle.
        asked: index, arch or PCI address.
        report: told which GPUs are passed over.
        version: of HIP's runtime; one that is old or unknown runs no generic code.

    Raises:
        DeviceError: none fits; lists what the bundle has and what the GPUs are.
    """
    candidates = devices if asked is None else _matching(devices, asked)
    if not candidates:
        found = ", ".join(f"{device} at {device.bus_id or 'no PCI address'}" for device in devices)
        raise DeviceError(f"GPU {printable(asked)}: no such GPU; found: {found}")
    takes_generic = version is not None and version >= GENERIC_SINCE
    passed: list[GpuDevice] = []
    for device in candidates:
        target = code_for(device.arch, targets, takes_generic)
        if target is not None:
            for other in passed:
                report(f"{other} is passed over: the bundle has no code for it{_too_old(other, targets, version)}")
            return device, target
        passed.append(device)
    old = next((text for device in passed if (text := _too_old(device, targets, version))), "")
    raise DeviceError(
        f"the bundle has no code for {', '.join(map(str, passed))}; it has code for {bundle_arches(targets)}{old}"
    )


def _too_old(device: GpuDevice, targets: Sequence[TargetEntry], version: tuple[int, int] | None) -> str:
    """Return words for it where a newer runtime would run generic code on the device."""
    target = code_for(device.arch, targets)
    if target is None:
        return ""
    since = ".".join(map(str, GENERIC_SINCE))
    found = f"{version_text(version)}: compile with --arch {device.arch}"
    return f"; that for {target.arch} needs ROCm {since} or newer, found {found}"


def _matching(devices: Sequence[GpuDevice], asked: str) -> list[GpuDevice]:
    text = asked.strip().lower()
    if text.isascii() and text.isdigit():
        return [device for device in devices if device.index == int(text)]
    # The domain, 0000 nearly everywhere, may be left out.
    return [device for device in devices if text and text in (device.arch, device.bus_id, device.bus_id[5:])]


def bundle_arches(targets: Sequence[TargetEntry]) -> str:
    """Name what a bundle has code for, for a message."""
    return ", ".join(dict.fromkeys(target.arch for target in targets)) or "nothing"


def asked_device(environment: Mapping[str, str] = os.environ) -> str | None:
    """Return $ROCMFORGE_GPU_DEVICE, if it says anything."""
    return environment.get(DEVICE_VARIABLE, "").strip() or None


def read_code(bundle: Bundle, target: TargetEntry, arch: str) -> bytes:
    """Return a code object, after its own header was held against the label in the manifest and against the GPU.

    Args:
        bundle: that has it.
        target: of the bundle.
        arch: of the GPU.

    Raises:
        DeviceError: it is damaged, for another arch than it should be, or of another ABI.
    """
    if target.abi != HIP_ABI_VERSION:
        expected = f"expected ABI version {HIP_ABI_VERSION}, found {target.abi}"
        raise DeviceError(f"{target.file}: {expected}: compile the model again")
    data = bundle.read(target.file)
    try:
        found = read_code_object(data).arch
    except CodeObjectError as error:
        raise DeviceError(f"{target.file}: {error}") from None
    if found != target.arch:
        raise DeviceError(f"{target.file}: expected code for {target.arch}, as the manifest says, found {found}")
    if arch != found and arch not in GENERIC_ARCHES.get(found, ()):
        raise DeviceError(f"{target.file}: code for {found} does not run on {arch}")
    return data
