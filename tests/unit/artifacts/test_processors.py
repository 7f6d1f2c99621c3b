"""Which CPUs a process may use, by files of systems that are made up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocmforge.artifacts.processors import Processors, cpu_model, read_processors, usable_cpus
from rocmforge.tests.support.systems import machine, write_below


@pytest.mark.parametrize(
    ("siblings", "allowed", "cores"),
    [
        (["0", "1"], {0, 1}, ((0,), (1,))),
        (["0,4", "1,5", "2,6", "3,7"] * 2, range(8), ((0, 4), (1, 5), (2, 6), (3, 7))),
        (["0-1", "0-1", "2-3", "2-3"], range(4), ((0, 1), (2, 3))),
        (["0-3"] * 4, {0, 1, 2, 3}, ((0, 1, 2, 3),)),
        (["0-1", "0-1", "2", "3"], range(4), ((0, 1), (2,), (3,))),  # cores of two kinds
        (["0-1", "0-1", "2-3", "2-3"], {1, 2, 3}, ((1,), (2, 3))),  # the mask has one of a pair
        (["0-1", "0-1", "2-3", "2-3"], {0, 2}, ((0,), (2,))),
        (["", "rubbish", "3-2", "9999999-0"], range(4), ((0,), (1,), (2,), (3,))),
        (["0-9999999", "1"], {0, 1}, ((0,), (1,))),
        (["0-1", "1-2", "2-0"], range(3), ((0, 1), (2,))),  # no partition
        ([], {0, 5}, ((0,), (5,))),  # no such files
    ],
)
def test_cores(tmp_path: Path, siblings: list[str], allowed: set[int], cores: tuple[tuple[int, ...], ...]) -> None:
    found = read_processors(allowed, machine(tmp_path, siblings))
    assert (found.cores, found.quota) == (cores, None)
    assert (found.whole, found.most) == (len(cores), len(allowed))


def test_older_systems_have_another_name_for_siblings(tmp_path: Path) -> None:
    for cpu in range(2):
        write_below(tmp_path, f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list", "0-1\n")
    assert read_processors({0, 1}, tmp_path).cores == ((0, 1),)


@pytest.mark.parametrize(
    ("groups", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/a/b\n", {"cpu.max": "max 100000", "a/cpu.max": "150000 100000", "a/b/cpu.max": "max 1000"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "50000 100000"}, 0.5),
        ("0::/../..\n", {"cpu.max": "300000 100000"}, 3.0),  # a group outside of the container
        ("0::/größer\n", {"größer/cpu.max": "300000 100000"}, 3.0),
        ("0::/gone\n", {"cpu.max": "300000 100000"}, 3.0),
        ("3:cpu,cpuacct:/c\n", {"cpu,cpuacct/c/cpu.cfs_quota_us": "5", "cpu,cpuacct/c/cpu.cfs_period_us": "2"}, 2.5),
        ("3:cpuacct,cpu:/c\n", {"cpu/c/cpu.cfs_quota_us": "6", "cpu/c/cpu.cfs_period_us": "2"}, 3.0),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("1:cpu:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "8", "cpu/cpu.cfs_period_us": "2", "cpu.max": "3 1"}, 3.0),
        ("1:cpuset:/\n2:cpuacct:/\n", {"cpu.max": "1 1", "cpuset/cpu.max": "1 1"}, None),
        ("0::/\n", {"cpu.max": "1 0"}, None),
        ("0::/\n", {"cpu.max": "a b c"}, None),
        ("", {"cpu.max": "1 1"}, None),
        ("nothing\n::\n", {}, None),
    ],
)
def test_quota(tmp_path: Path, groups: str, files: dict[str, str], quota: float | None) -> None:
    write_below(tmp_path, "proc/self/cgroup", groups)
    for name, text in files.items():
        write_below(tmp_path, f"sys/fs/cgroup/{name}", text)
    assert read_processors({0}, tmp_path).quota == quota


@pytest.mark.parametrize(
    ("quota", "whole", "most"), [(None, 4, 8), (0.1, 1, 1), (2.9, 2, 2), (5.0, 4, 5), (64.0, 4, 8)]
)
def test_a_quota_limits_threads(quota: float | None, whole: int, most: int) -> None:
    found = Processors(((0, 4), (1, 5), (2, 6), (3, 7)), quota)
    assert (found.whole, found.most) == (whole, most)


def test_two_cpus_of_sixty_four_are_two_threads(tmp_path: Path) -> None:
    root = machine(tmp_path, [f"{cpu % 32},{cpu % 32 + 32}" for cpu in range(64)])
    write_below(root, "proc/self/cgroup", "0::/\n")
    write_below(root, "sys/fs/cgroup/cpu.max", "200000 100000\n")
    assert (read_processors(range(64), root).whole, read_processors(range(64), root).most) == (2, 2)


@pytest.mark.slow
@given(st.data())
def test_cores_part_the_mask(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Whatever a system says: each CPU of the mask is of one core, and nothing else is."""
    count = data.draw(st.integers(1, 8))
    listed = st.lists(st.integers(0, count), min_size=1, max_size=4).map(lambda ids: ",".join(map(str, ids)))
    siblings = data.draw(st.lists(listed | st.sampled_from(["", "-", "0-7"]), min_size=count, max_size=count))
    allowed = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    quota = data.draw(st.none() | st.floats(0.01, 20))
    found = read_processors(allowed, machine(tmp_path_factory.mktemp("root"), siblings))
    assert sorted(cpu for core in found.cores for cpu in core) == sorted(allowed)
    limited = Processors(found.cores, quota)
    assert 1 <= limited.whole <= limited.most <= len(allowed)
    assert limited.whole <= len(found.cores)
    assert quota is None or limited.most <= max(1.0, quota)


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        ("processor\t: 0\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: other\n", "AMD EPYC"),
        ("processor\t: 0\nCPU implementer\t: 0x41\nCPU variant\t: 0x1\nCPU part\t: 0xd0c\n", "0x41 0xd0c"),
        ("", ""),
    ],
)
def test_cpu_model(tmp_path: Path, cpuinfo: str, model: str) -> None:
    write_below(tmp_path, "proc/cpuinfo", cpuinfo)
    assert cpu_model(tmp_path) == model


def test_this_machine() -> None:
    found = read_processors()
    assert {cpu for core in found.cores for cpu in core} == os.sched_getaffinity(0)
    assert 1 <= found.whole <= found.most == usable_cpus() <= len(os.sched_getaffinity(0))
    assert cpu_model(Path("/nowhere")) == ""
