"""Which GPU is taken, and which code runs on it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from rocmforge.artifacts.abi import HIP_ABI_VERSION
from rocmforge.artifacts.errors import DeviceError
from rocmforge.artifacts.targets import GENERIC_ARCHES, generic_arch
from rocmforge.compiler.target import TARGETS
from rocmforge.runtime.device.hip.select import (
    DEVICE_VARIABLE,
    GpuDevice,
    asked_device,
    bundle_arches,
    choose_device,
    code_for,
    find_devices,
    read_code,
)
from rocmforge.tests.support.fake_hip import INVALID_VALUE, NO_DEVICE, Device, FakeHip, code_object
from rocmforge.tests.support.hip_bundle import hip_bundle, target

IGPU = GpuDevice(0, "Radeon 890M", "gfx1150", "0000:c5:00.0")
CARD = GpuDevice(1, "RX 7900 XTX", "gfx1100", "0000:03:00.0")
OTHER = GpuDevice(2, "RX 7900 XTX", "gfx1100", "0000:43:00.0")
DEVICES = (IGPU, CARD, OTHER)


def topology(folder: Path, *nodes: dict[str, int]) -> Path:
    for index, fields in enumerate(nodes):
        path = folder / str(index) / "properties"
        path.parent.mkdir()
        path.write_text("".join(f"{name} {value}\n" for name, value in fields.items()))
    return folder


def node(version: int, bus: int, device: int = 0, function: int = 0, domain: int = 0, high: int = 0) -> dict[str, int]:
    location = high << 28 | bus << 8 | device << 3 | function
    return {"simd_count": 4, "domain": domain, "location_id": location, "gfx_target_version": version}


def test_the_arch_is_the_topologys_by_pci_address(tmp_path: Path) -> None:
    cpu = {"cpu_cores_count": 16, "gfx_target_version": 0, "location_id": 0x300, "domain": 0}
    nodes = topology(tmp_path, cpu, node(110501, 0xC5), node(110000, 3), node(90402, 3, domain=1, high=2, function=1))
    devices = find_devices(
        FakeHip(
            Device("gfx803", "card", "0000:03:00.0"),
            Device("gfx803", "integrated", "0000:C5:00.0"),
            Device("gfx803", "partition", "0001:03:00.0"),
            Device("gfx803", "elsewhere", "0002:03:00.0"),
        ),
        nodes,
    )
    # What HIP's own structure says counts only where the topology knows nothing of the address.
    assert [device.arch for device in devices] == ["gfx1100", "gfx1151", "gfx942", "gfx803"]
    assert [device.index for device in devices] == [0, 1, 2, 3]


def test_an_override_of_the_user_counts_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HSA_OVERRIDE_GFX_VERSION: HIP then takes code for another arch than the GPU's, and no code for its own."""
    nodes = topology(tmp_path, node(110003, 3))
    assert find_devices(FakeHip(), nodes)[0].arch == "gfx1103"
    monkeypatch.setenv("HSA_OVERRIDE_GFX_VERSION", "11.0.0")
    assert find_devices(FakeHip(), nodes)[0].arch == "gfx1100"


def test_sources_of_the_arch_where_there_is_no_topology(tmp_path: Path) -> None:
    assert find_devices(FakeHip(Device("gfx90a")), tmp_path)[0].arch == "gfx90a"
    assert find_devices(FakeHip(Device("", "Emulated gfx942")), None)[0].arch == "gfx942"
    unknown = find_devices(FakeHip(Device("", "Radeon")), None)[0]
    assert unknown.arch == ""
    with pytest.raises(DeviceError, match=r"no code for GPU 0 \(unknown arch, Radeon\)"):
        choose_device([unknown], [target("gfx1100")])


def test_F71_no_device() -> None:
    api = FakeHip()
    api.lost = NO_DEVICE
    with pytest.raises(DeviceError, match="no AMD GPU can be used: hipErrorNoDevice"):
        find_devices(api, None)


def test_F71_a_gpu_that_this_user_may_not_open(tmp_path: Path) -> None:
    api = FakeHip()
    api.fail("hipGetDeviceCount", 1, NO_DEVICE)
    with pytest.raises(DeviceError, match="the driver has gfx1100: may this user open /dev/kfd"):
        find_devices(api, topology(tmp_path, node(110000, 3)))


def test_F71_hip_shows_no_gpu(tmp_path: Path) -> None:
    api = FakeHip()
    api.devices = ()
    with pytest.raises(DeviceError) as caught:
        find_devices(api, None)
    assert str(caught.value) == "no AMD GPU can be used: HIP shows none"
    nodes = topology(tmp_path, node(110000, 3), node(90402, 4))
    with pytest.raises(DeviceError) as caught:
        find_devices(api, nodes)
    hint = "may this user open /dev/kfd and /dev/dri (groups render, video)?"
    assert str(caught.value) == f"no AMD GPU can be used: HIP shows none; the driver has gfx1100, gfx942: {hint}"


def test_what_hip_says_of_a_gpu_and_what_it_does_not() -> None:
    api = FakeHip(Device("gfx1100", "a\nb", "0000:AF:00.0"), Device("gfx90a", ""))
    assert find_devices(api, None) == (
        GpuDevice(0, "a\\nb", "gfx1100", "0000:af:00.0"),
        GpuDevice(1, "unnamed", "gfx90a", "0000:03:00.0"),
    )
    api.fail("hipDeviceGetName", 1, INVALID_VALUE)
    api.fail("hipDeviceGetPCIBusId", 2, INVALID_VALUE)
    first, second = find_devices(api, None)
    assert (first.name, first.bus_id, second.name, second.bus_id) == ("unnamed", "0000:af:00.0", "unnamed", "")
    assert str(first) == "GPU 0 (gfx1100, unnamed)"


class OldHip(FakeHip):
    """Its structure is that of ROCm 5, by the plain name; the newer one is there and fails, or is not there."""

    def __init__(self, newer: bool) -> None:
        super().__init__(Device("gfx906"))
        self._newer = FakeHip.hipGetDevicePropertiesR0600.__get__(self)
        self.hipGetDevicePropertiesR0600: Any = (lambda *_: INVALID_VALUE) if newer else None

    def hipGetDeviceProperties(self, properties: Any, device: int) -> int:
        return int(self._newer(properties, device))


@pytest.mark.parametrize("newer", [True, False])
def test_the_arch_of_an_older_structure(newer: bool) -> None:
    assert find_devices(OldHip(newer), None)[0].arch == "gfx906"
    api = FakeHip(Device("gfx906", "card"))
    api.fail("hipGetDevicePropertiesR0600", 1, INVALID_VALUE)
    assert find_devices(api, None)[0].arch == ""


def test_the_last_arch_that_is_named_is_meant() -> None:
    """The name stands before the arch, and may hold another."""
    assert find_devices(FakeHip(Device("gfx90a", "gfx906:x")), None)[0].arch == "gfx90a"
    for name, expected in (("is gfx90a", "gfx90a"), ("gfx90a-x", ""), ("gfx90", ""), ("gfx12345", "gfx12345")):
        assert find_devices(FakeHip(Device("", name)), None)[0].arch == expected, name


@pytest.mark.parametrize(
    "text",
    [
        "gfx_target_version x\nlocation_id 768\ndomain 0\n",
        "gfx_target_version 110000\nlocation_id 768\ndomain 1\n",
        "gfx_target_version 110000\nlocation_id 776\ndomain 0\n",
        "gfx_target_version 110000\nlocation_id 1024\ndomain 0\n",
        "location_id 768\ndomain 0\n",
        "gfx_target_version 0\nlocation_id 768\ndomain 0\n",
        "gfx_target_version 110000\n",
        "\u00e9",
        "",
    ],
)
def test_a_node_that_is_another_or_cannot_be_read(text: str, tmp_path: Path) -> None:
    for number, content in enumerate((text, "three words here\n\ngfx_target_version 110003\nlocation_id 769\n")):
        path = tmp_path / str(number) / "properties"
        path.parent.mkdir()
        path.write_text(content, "utf-8")
    (tmp_path / "00" / "properties").mkdir(parents=True)
    assert find_devices(FakeHip(Device("gfx803")), tmp_path)[0].arch == "gfx1103"


@pytest.mark.parametrize("bus_id", ["", "03:00.0", "0000:03:00", "0000:03:00.0x", "0000:03:00.8"])
def test_an_address_that_is_none(bus_id: str, tmp_path: Path) -> None:
    nodes = topology(tmp_path, node(110000, 3))
    assert find_devices(FakeHip(Device("gfx803", "card", bus_id)), nodes)[0].arch == "gfx803"


def test_what_a_bundle_has_code_for() -> None:
    assert bundle_arches([]) == "nothing"
    assert bundle_arches([target("gfx942"), target("gfx90a"), target("gfx942")]) == "gfx942, gfx90a"


def test_a_gpu_without_an_address() -> None:
    """It is known by its number and arch alone."""
    bare = GpuDevice(0, "card", "gfx1100", "")
    assert choose_device([bare], [target("gfx1100")], " GFX1100 ")[0] == bare
    for asked in ("", " ", "1"):
        with pytest.raises(DeviceError) as caught:
            choose_device([bare], [target("gfx1100")], asked)
        assert str(caught.value) == (f"GPU {asked}: no such GPU; found: GPU 0 (gfx1100, card) at no PCI address")


def test_all_that_are_passed_over_are_told() -> None:
    said: list[str] = []
    assert choose_device(DEVICES[::-1], [target("gfx1150")], None, said.append)[0] == IGPU
    assert said == [f"{gpu} is passed over: the bundle has no code for it" for gpu in (OTHER, CARD)]
    with pytest.raises(DeviceError) as caught:
        choose_device(DEVICES, [target("gfx942")])
    assert str(caught.value) == f"the bundle has no code for {IGPU}, {CARD}, {OTHER}; it has code for gfx942"


def test_F41_code_that_is_not_what_its_label_says(tmp_path: Path) -> None:
    rows = [target("gfx11-generic"), dataclasses.replace(target("gfx1100"), abi=HIP_ABI_VERSION - 1)]
    with hip_bundle(tmp_path, targets=rows) as bundle:
        generic, old = bundle.manifest.targets
        assert read_code(bundle, generic, "gfx1103") == code_object("gfx11-generic")
        for row, arch, problem in (
            (generic, "gfx1200", "code for gfx11-generic does not run on gfx1200"),
            (
                old,
                "gfx1100",
                f"expected ABI version {HIP_ABI_VERSION}, found {HIP_ABI_VERSION - 1}: compile the model again",
            ),
            (
                dataclasses.replace(generic, arch="gfx1100"),
                "gfx1100",
                "expected code for gfx1100, as the manifest says, found gfx11-generic",
            ),
        ):
            with pytest.raises(DeviceError, match=f"^{re.escape(row.file)}: {re.escape(problem)}$"):
                read_code(bundle, row, arch)


def test_the_first_gpu_that_the_bundle_covers() -> None:
    said: list[str] = []
    device, found = choose_device(DEVICES, [target("gfx1100")], None, said.append)
    assert (device, found.arch) == (CARD, "gfx1100")
    assert said == ["GPU 0 (gfx1150, Radeon 890M) is passed over: the bundle has no code for it"]


@pytest.mark.parametrize(
    ("asked", "expected"),
    [("2", OTHER), ("1", CARD), ("gfx1100", CARD), ("GFX1100", CARD), ("0000:43:00.0", OTHER), ("43:00.0", OTHER)],
)
def test_the_gpu_that_was_asked_for(asked: str, expected: GpuDevice) -> None:
    assert choose_device(DEVICES, [target("gfx1100")], asked)[0] == expected


@pytest.mark.parametrize("asked", ["3", "gfx906", "0000:44:00.0", "-1", "١", "x\ny"])
def test_no_such_gpu(asked: str) -> None:
    with pytest.raises(DeviceError, match=r"no such GPU; found: GPU 0 .* at 0000:c5:00.0, GPU 1") as caught:
        choose_device(DEVICES, [target("gfx1100")], asked)
    assert str(caught.value).isprintable()


def test_a_gpu_that_was_asked_for_but_is_not_covered() -> None:
    message = r"no code for GPU 0 \(gfx1150, Radeon 890M\); it has code for gfx1100, gfx942"
    with pytest.raises(DeviceError, match=message):
        choose_device(DEVICES, [target("gfx1100"), target("gfx942")], "0")


def test_exact_code_before_generic_and_nothing_by_its_digits() -> None:
    exact, generic = target("gfx1100"), target("gfx11-generic")
    assert code_for("gfx1100", [generic, exact]) == exact
    assert code_for("gfx1103", [generic, exact]) == generic
    assert code_for("gfx1103", [exact]) is None
    for arch in ("gfx1030", "gfx1200", "gfx1170", "gfx110", "gfx", ""):
        assert code_for(arch, [generic, exact]) is None, arch


def test_F130_generic_code_needs_a_runtime_that_knows_it() -> None:
    exact, generic = target("gfx1100"), target("gfx11-generic")
    assert choose_device([IGPU], [generic], version=(6, 4))[1] == generic
    assert choose_device([CARD], [generic, exact], version=(5, 7))[1] == exact
    for version, found in (((6, 3), "HIP 6.3"), ((5, 7), "HIP 5.7"), (None, "HIP of unknown version")):
        with pytest.raises(DeviceError) as caught:
            choose_device([IGPU], [generic], version=version)
        assert str(caught.value) == (
            "the bundle has no code for GPU 0 (gfx1150, Radeon 890M); it has code for gfx11-generic; that for "
            f"gfx11-generic needs ROCm 6.4 or newer, found {found}: compile with --arch gfx1150"
        )
    said: list[str] = []
    assert choose_device([IGPU, CARD], [generic, exact], None, said.append, (6, 3))[0] == CARD
    assert "needs ROCm 6.4 or newer, found HIP 6.3" in said[0]


def test_every_exact_target_of_a_generic_family_falls_back_to_it() -> None:
    for generic, members in GENERIC_ARCHES.items():
        assert generic in TARGETS
        assert all(generic_arch(member) == generic for member in members)
    assert generic_arch("gfx90a") is None  # gfx9-4-generic is of gfx94x and gfx95x alone


def test_the_variable() -> None:
    assert asked_device({DEVICE_VARIABLE: " 1 "}) == "1"
    assert asked_device({DEVICE_VARIABLE: " "}) is None
    assert asked_device({}) is None
