"""The driver's sysfs: a folder of small text files, written once for each choice of GPUs and kept in the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..library import cache_folder
from .gpus import Gpu, vram_bytes

_RENDER_MINOR = 128
_HEAP_SYSTEM, _HEAP_PUBLIC = 0, 1
_LINK_PCIE = 2
_CACHE_DATA_GPU = 1 | 8
# Doorbells of 8 bytes that name a packet, memory that the host sees, watch points: true of any of these GPUs.
_CAPABILITY = 0x2807A280
_HOST_BYTES = 16 << 30


def gpu_id_of(index: int) -> int:
    """The driver's name for GPU number `index`; never zero, which is a CPU."""
    return 0x1001 + 0x111 * index


def topology(gpus: Sequence[Gpu]) -> Path:
    """The folder that stands for /sys/devices/virtual/kfd/kfd, with these GPUs."""
    files = dict(_files(gpus))
    digest = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:24]
    goal = cache_folder() / f"kfd-topology-{digest}"
    if goal.exists():
        return goal
    goal.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=goal.parent))
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")
    try:
        folder.rename(goal)  # whole: another process may write the same one
    except OSError:
        shutil.rmtree(folder)
    return goal


def _files(gpus: Sequence[Gpu]) -> list[tuple[str, str]]:
    files = [
        ("topology/generation_id", "1\n"),
        ("topology/system_properties", _lines(platform_oem=0, platform_id=0, platform_rev=0)),
        *_cpu_node(len(gpus)),
    ]
    for index, gpu in enumerate(gpus):
        files += _gpu_node(index, gpu, [other for other in range(len(gpus)) if other != index])
    return files


def _cpu_node(num_gpus: int) -> list[tuple[str, str]]:
    node = "topology/nodes/0"
    properties = _lines(
        cpu_cores_count=os.cpu_count() or 1,
        simd_count=0,
        mem_banks_count=1,
        caches_count=0,
        io_links_count=num_gpus,
        p2p_links_count=0,
        cpu_core_id_base=_first_apic_id(),
        simd_id_base=0,
        max_waves_per_simd=0,
        lds_size_in_kb=0,
        gds_size_in_kb=0,
        wave_front_size=0,
        array_count=0,
        gfx_target_version=0,
        vendor_id=0,
        device_id=0,
        location_id=0,
        domain=0,
        drm_render_minor=0,
        max_engine_clk_ccompute=3000,
    )
    bank = _lines(heap_type=_HEAP_SYSTEM, size_in_bytes=_HOST_BYTES, flags=0, width=64, mem_clk_max=2400)
    links = [(f"{node}/io_links/{index}/properties", _link(0, index + 1)) for index in range(num_gpus)]
    return [
        (f"{node}/gpu_id", "0\n"),
        (f"{node}/name", "\n"),
        (f"{node}/properties", properties),
        (f"{node}/mem_banks/0/properties", bank),
        *links,
    ]


def _gpu_node(index: int, gpu: Gpu, others: Sequence[int]) -> list[tuple[str, str]]:
    node = f"topology/nodes/{index + 1}"
    properties = _lines(
        cpu_cores_count=0,
        simd_count=gpu.compute_units * gpu.kind.simds,
        mem_banks_count=1,
        caches_count=2,
        io_links_count=1,
        p2p_links_count=len(others),
        cpu_core_id_base=0,
        simd_id_base=0x80000000 + 0x1000 * index,
        max_waves_per_simd=gpu.kind.waves,
        lds_size_in_kb=gpu.lds_kib,
        gds_size_in_kb=0,
        num_gws=0,
        wave_front_size=gpu.kind.wave_size,
        array_count=gpu.engines * gpu.kind.arrays,
        simd_arrays_per_engine=gpu.kind.arrays,
        cu_per_simd_array=-(-gpu.compute_units // (gpu.engines * gpu.kind.arrays)),
        simd_per_cu=gpu.kind.simds,
        max_slots_scratch_cu=32,
        gfx_target_version=gpu.target,
        vendor_id=0x1002,
        device_id=gpu.device_id,
        location_id=0x300 + 0x100 * index,
        domain=0,
        drm_render_minor=_RENDER_MINOR + index,
        hive_id=0,
        num_sdma_engines=0,
        num_sdma_xgmi_engines=0,
        num_sdma_queues_per_engine=0,
        num_cp_queues=8,
        max_engine_clk_fcompute=2500,
        max_engine_clk_ccompute=3000,
        local_mem_size=vram_bytes(),
        fw_version=2200,
        capability=_CAPABILITY,
        debug_prop=0,
        sdma_fw_version=20,
        unique_id=0x1002000000000001 + index,
        num_xcc=gpu.kind.xcc,
    )
    bank = _lines(heap_type=_HEAP_PUBLIC, size_in_bytes=vram_bytes(), flags=0, width=384, mem_clk_max=1250)
    caches = [(1, 32), (2, gpu.l2_kib)]
    return [
        (f"{node}/gpu_id", f"{gpu_id_of(index)}\n"),
        (f"{node}/name", f"{gpu.arch}\n"),
        (f"{node}/properties", properties),
        (f"{node}/mem_banks/0/properties", bank),
        (f"{node}/io_links/0/properties", _link(index + 1, 0)),
        # All memory of each is in the reach of the others.
        *((f"{node}/p2p_links/{at}/properties", _link(index + 1, to + 1, 40)) for at, to in enumerate(others)),
        *((f"{node}/caches/{at}/properties", _cache(*cache)) for at, cache in enumerate(caches)),
    ]


def _link(begin: int, end: int, weight: int = 20) -> str:
    return _lines(
        type=_LINK_PCIE,
        version_major=0,
        version_minor=0,
        node_from=begin,
        node_to=end,
        weight=weight,
        min_latency=0,
        max_latency=0,
        min_bandwidth=312,
        max_bandwidth=31504,
        recommended_transfer_size=0,
        flags=1,
    )


def _cache(level: int, kib: int) -> str:
    return _lines(
        processor_id_low=0x80000000,
        level=level,
        size=kib,
        cache_line_size=128,
        cache_lines_per_tag=1,
        association=16,
        latency=0,
        type=_CACHE_DATA_GPU,
        sibling_map=1,
    )


def _lines(**values: int) -> str:
    return "".join(f"{name} {value}\n" for name, value in values.items())


def _first_apic_id() -> int:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("apicid"):
            return int(line.partition(":")[2])
    return 0
