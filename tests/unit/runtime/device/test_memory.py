"""The memory contract: what is available, and what is refused before anything is allocated."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import DeviceError
from rocmforge.runtime.device.memory import DEFAULT_KV_BYTES, available_memory, check_memory, kv_blocks
from rocmforge.tests.support.systems import write_below

MEMINFO = "MemTotal:       8000 kB\nMemFree:         100 kB\nMemAvailable:   5000 kB\n"


def system(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        write_below(root, name, text)
    return root


def cgroup(folder: str, limit: str, used: int, cache: int) -> dict[str, str]:
    stat = f"anon 1\nfile 2\ninactive_anon 3\nactive_file {cache - cache // 4}\ninactive_file {cache // 4}\n"
    return {f"{folder}/memory.max": limit, f"{folder}/memory.current": str(used), f"{folder}/memory.stat": stat}


def test_available_is_what_the_kernel_estimates(tmp_path: Path) -> None:
    assert available_memory(system(tmp_path, {"proc/meminfo": MEMINFO})) == 5000 * 1024


def test_a_cgroup_allows_less(tmp_path: Path) -> None:
    """The tightest of the limits on the way up counts; page cache in it is free to be taken."""
    group = "sys/fs/cgroup/system.slice"
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "1:name=x:/\n0::/system.slice/rfc.service\n"}
    files |= cgroup(f"{group}/rfc.service", "max\n", 900, 0)
    files |= cgroup(group, "1000000\n", 700_000, 100_000)
    assert available_memory(system(tmp_path, files)) == 400_000


def test_a_full_cgroup_leaves_nothing(tmp_path: Path) -> None:
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/\n"} | cgroup("sys/fs/cgroup", "1000\n", 2000, 0)
    assert available_memory(system(tmp_path, files)) == 0


def test_a_group_outside_of_the_container(tmp_path: Path) -> None:
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "0::/../..\n"} | cgroup("sys/fs/cgroup", "1000\n", 200, 0)
    assert available_memory(system(tmp_path, files)) == 800


def test_a_control_group_of_version_1(tmp_path: Path) -> None:
    """Its own files are told beside those of the groups below it, which are in the limit too."""
    stat = "active_file 1\ninactive_file 1\ntotal_inactive_file 20\ntotal_active_file 100\n"
    files = {"proc/meminfo": MEMINFO, "proc/self/cgroup": "5:memory:/a/b\n2:cpu:/c\n0::/\n"}
    for name, limit in (("a/b", 9223372036854771712), ("a", 1000), ("c", 10)):
        files |= {
            f"sys/fs/cgroup/memory/{name}/memory.limit_in_bytes": f"{limit}\n",
            f"sys/fs/cgroup/memory/{name}/memory.usage_in_bytes": "300\n",
            f"sys/fs/cgroup/memory/{name}/memory.stat": stat,
        }
    assert available_memory(system(tmp_path, files)) == 1000 - 300 + 120


def test_unknown_where_the_system_does_not_say(tmp_path: Path) -> None:
    assert available_memory(tmp_path) is None
    assert available_memory(system(tmp_path, {"proc/meminfo": "MemTotal: 1 kB\n"})) is None


def test_F72_refused_before_allocation_to_the_byte(smollm2: Bundle) -> None:
    layout = smollm2.layout
    needed = layout.arena_bytes() + 10 * layout.kv.bytes_per_block
    check_memory(layout, 10, needed)
    check_memory(layout, 10**12, None)
    with pytest.raises(DeviceError, match=r"KV cache of 160 tokens .* need (\d+) MiB, \d+ MiB are available"):
        check_memory(layout, 10, needed - 1)


def test_the_refusal_says_how_much_is_missing(smollm2: Bundle) -> None:
    layout = smollm2.layout
    needed = 10 * layout.kv.bytes_per_block + layout.arena_bytes()
    with pytest.raises(DeviceError) as caught:
        check_memory(layout, 10, 3 * 2**20 - 1)
    mebibytes, weights = math.ceil(needed / 2**20), math.ceil(layout.weights_bytes / 2**20)
    assert str(caught.value) == (
        f"host: a KV cache of 160 tokens and the arena need {mebibytes} MiB, 3 MiB are available "
        f"(weights of {weights} MiB are mapped, not counted); --kv-tokens or --max-context ask for less"
    )


def test_default_kv_cache_adapts_to_the_memory(smollm2: Bundle) -> None:
    layout = smollm2.layout
    context = layout.max_seq_len // layout.kv.block_size
    per_block = layout.kv.bytes_per_block
    assert kv_blocks(layout, layout.max_seq_len, None, None) == 4 * context
    assert 4 * context * per_block <= DEFAULT_KV_BYTES
    assert kv_blocks(layout, layout.max_seq_len, None, 4 * context * per_block) == 2 * context
    assert kv_blocks(layout, layout.max_seq_len, None, 0) == context  # one context at least: else refused
    assert kv_blocks(layout, layout.max_seq_len, 17, 0) == 2
    most = DEFAULT_KV_BYTES // per_block  # of a context so long that four are more, whatever there is
    assert most < 4 * 100_000 // layout.kv.block_size
    for available in (None, 1 << 50):
        assert kv_blocks(layout, 100_000, None, available) == max(most, 100_000 // layout.kv.block_size)


def test_q8_0_gives_more_pages_in_the_same_memory(smollm2: Bundle) -> None:
    """64 elements of a head take 64 int8 and two float16 scales: 68 bytes in place of 128."""
    float16 = smollm2.layout
    q8_0 = replace(float16, kv=replace(float16.kv, dtype="q8_0"))
    available = 2 * 300 * float16.kv.bytes_per_block
    assert kv_blocks(float16, 2400, None, available) == 300
    assert kv_blocks(q8_0, 2400, None, available) == 300 * 128 // 68
