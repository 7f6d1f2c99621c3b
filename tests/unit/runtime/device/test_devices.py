"""`--device`: which program is loaded, and what is said where it is none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from rocmforge.artifacts.abi import HOST_ABI_VERSION
from rocmforge.artifacts.bundle import Bundle
from rocmforge.artifacts.errors import BundleError, DeviceError, ToolchainError, UsageError
from rocmforge.runtime.device import load as devices
from rocmforge.runtime.device.golden import checked_prompt
from rocmforge.runtime.device.hip.api import HipApi
from rocmforge.runtime.device.hip.program import HipProgram
from rocmforge.runtime.device.hip.select import DEVICE_VARIABLE
from rocmforge.runtime.device.host import HostProgram
from rocmforge.runtime.device.load import DeviceOptions, load_program, load_target
from rocmforge.runtime.device.memory import KvSize
from rocmforge.tests.support.fake_hip import NO_DEVICE, Device, FakeHip
from rocmforge.tests.support.hip_bundle import LAYOUT, hip_bundle, target

KV = KvSize(8, 128)
HOST = dataclasses.replace(
    target("gfx1100"), arch="host", backend="host", level="portable", file="code/host.so", abi=HOST_ABI_VERSION
)


def options(
    api: FakeHip | None, device: str = "auto", emulator: Callable[[str], HipApi] | None = None
) -> DeviceOptions:
    """`api` None: a machine without HIP."""

    def load() -> HipApi:
        if api is None:
            raise DeviceError("no HIP library could be loaded")
        return api

    return DeviceOptions(device, 1, emulator, load, Path("/nonexistent"))


def refused(bundle: Bundle, what: DeviceOptions) -> str:
    with pytest.raises(DeviceError) as caught:
        load_program(bundle, what, KV)
    assert caught.value.exit_code == 4
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize("device", ["", "gpu", "hip:", "host:0", "auto:1", "HIP", "cuda", "emulated:", "a\nb"])
def test_other_forms_are_wrong_usage(device: str) -> None:
    with pytest.raises(UsageError, match="--device: expected auto, host, hip") as caught:
        DeviceOptions(device).parsed()
    assert str(caught.value).isprintable()


def test_forms() -> None:
    forms = ("auto", "host", "hip", "hip:1", "hip:gfx1100", "hip:0000:03:00.0", "emulated:gfx942")
    which = [DeviceOptions(device).parsed()[1] for device in forms]
    assert which == [None, None, None, "1", "gfx1100", "0000:03:00.0", "gfx942"]


def test_auto_takes_a_gpu_that_is_covered(tmp_path: Path) -> None:
    api, said = FakeHip(Device("gfx1030", "small"), Device("gfx1101")), list[str]()
    with hip_bundle(tmp_path, targets=[HOST, target("gfx11-generic")], code_of_host=b"x") as bundle:
        program = load_program(bundle, options(api), KV, said.append)
    assert isinstance(program, HipProgram)
    assert (program.device.index, program.device.arch) == (1, "gfx1101")
    assert any("GPU 0 (gfx1030, small) is passed over" in line for line in said)
    assert any("HIP 7.2, code for gfx11-generic, KV cache of 128 tokens" in line for line in said)
    program.close()


def test_auto_without_a_fitting_gpu_takes_the_host_and_says_why(smollm2: Bundle, tmp_path: Path) -> None:
    said: list[str] = []
    program = load_program(smollm2, options(None), KV, said.append)
    assert isinstance(program, HostProgram)
    assert said == []  # nothing for a GPU is in it, so none was looked for
    program.close()
    for api, why in ((None, "no HIP library"), (FakeHip(Device("gfx1030")), "no code for GPU 0 (gfx1030")):
        # The host's code is none, so that it was come to shows in the error.
        bundle = hip_bundle(tmp_path, targets=[target("gfx1100"), HOST], code_of_host=b"x")
        with bundle, pytest.raises(DeviceError, match=r"code/host\.so: expected a 64-bit"):
            load_program(bundle, options(api), KV, said.append)
        line = said.pop()
        assert line.startswith("no GPU is used: ")
        assert why in line


def test_nothing_that_fits_lists_what_the_bundle_has_and_what_is_here(tmp_path: Path) -> None:
    with hip_bundle(tmp_path, "gfx1100", "gfx942") as bundle:
        assert "no HIP library could be loaded; the bundle has code for gfx1100, gfx942" in refused(
            bundle, options(None)
        )
        message = refused(bundle, options(FakeHip(Device("gfx1030", "card"))))
        assert "no code for GPU 0 (gfx1030, card)" in message
        assert "gfx1100, gfx942" in message
        assert "--device host: the bundle has no code for the host; it has code for gfx1100" in refused(
            bundle, options(FakeHip(), "host")
        )
        lost = FakeHip()
        lost.lost = NO_DEVICE
        assert "hipErrorNoDevice" in refused(bundle, options(lost, "hip"))


def test_which_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeHip(Device("gfx1100"), Device("gfx1100", "second", "0000:43:00.0"))
    with hip_bundle(tmp_path) as bundle:
        for device, variable, index in (
            ("hip:1", "0", 1),
            ("hip", "1", 1),
            ("auto", "0000:43:00.0", 1),
            ("hip", "", 0),
            ("hip:0000:43:00.0", "", 1),
        ):
            monkeypatch.setenv(DEVICE_VARIABLE, variable)
            program = load_program(bundle, options(api, device), KV)
            assert isinstance(program, HipProgram)
            assert program.device.index == index
            program.close()
        monkeypatch.setenv(DEVICE_VARIABLE, "7")
        assert "GPU 7: no such GPU" in refused(bundle, options(api))
    assert api.held() == 0


def test_a_gpu_out_of_memory_does_not_fall_back(tmp_path: Path) -> None:
    with hip_bundle(tmp_path, targets=[target("gfx1100"), HOST], code_of_host=b"x") as bundle:
        assert "MiB too few" in refused(bundle, options(FakeHip(memory_bytes=1000)))


def emulator(arch: str) -> HipApi:
    if arch != "gfx942":
        raise ToolchainError(f"{arch}: not emulated")
    return FakeHip(Device(arch))


def test_emulated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DEVICE_VARIABLE, "3")  # of real GPUs
    with hip_bundle(tmp_path, "gfx1100", "gfx942") as bundle:
        for device in ("emulated", "emulated:gfx942"):
            program = load_program(bundle, options(None, device, emulator), KvSize(None, 128))
            assert isinstance(program, HipProgram)
            assert program.device.arch == "gfx942"
            assert program.num_blocks == 4 * 128 // LAYOUT.kv.block_size  # as sparing as the host
            program.close()
        assert "gfx1100: not emulated" in refused(bundle, options(None, "emulated:gfx1100", emulator))
        assert "no code for gfx906" in refused(bundle, options(None, "emulated:gfx906", emulator))
        assert "without an emulator" in refused(bundle, options(None, "emulated"))


def test_each_target_for_verify(tmp_path: Path) -> None:
    api = FakeHip(Device("gfx942"), Device("gfx1100"))
    with hip_bundle(tmp_path, targets=[target("gfx1100"), target("gfx90a"), HOST], code_of_host=b"x") as bundle:
        first, second, host = bundle.manifest.targets
        for device in ("auto", "hip"):
            program = load_target(bundle, first, options(api, device), KV)
            assert isinstance(program, HipProgram)
            assert program.device.index == 1
            program.close()
            with pytest.raises(DeviceError, match="no code for GPU 0"):
                load_target(bundle, second, options(api, device), KV)
        with pytest.raises(DeviceError, match="64-bit"):
            load_target(bundle, host, options(None), KV)
        for device, target_row in (("hip", host), ("emulated", host), ("host", first), ("emulated:gfx906", first)):
            assert load_target(bundle, target_row, options(api, device, emulator), KV) is None
        with pytest.raises(DeviceError, match="gfx1100: not emulated"):
            load_target(bundle, first, options(api, "emulated", emulator), KV)


@pytest.mark.parametrize(
    "top,problem",
    [
        ([[3, 5.0], [7, 4.0]], "token 3: expected 5.0000, found 0.0000: weights, code"),
        ([["x"]], "records as rocmforge writes them"),
        (None, "records as rocmforge writes them"),
    ],
    ids=["F80-another-answer", "F80-malformed", "F80-none"],
)
def test_a_program_that_answers_otherwise_is_not_served(tmp_path: Path, top: object, problem: str) -> None:
    api = FakeHip(Device("gfx1100"))
    golden: tuple[dict[str, object], ...] = ({"prompt": [1, 2, 3], "top": []}, {"prompt": [1, 2], "top": top})
    with hip_bundle(tmp_path, golden=golden) as bundle:
        with pytest.raises(BundleError) as caught:
            load_program(bundle, options(api), KV)
        assert problem in str(caught.value)
        assert str(caught.value).startswith(f"{bundle.path}: golden: ")
        assert api.held() == 0
    with hip_bundle(tmp_path, golden=({"prompt": [1], "top": [[3, 0.25]]},)) as bundle:
        load_program(bundle, options(api), KV).close()


@pytest.mark.parametrize(
    "batch,context,block,longest",
    [(32, 128, 16, 28), (128, 24, 16, 20), (128, 128, 8, 28), (64, 64, 16, 60), (128, 3, 16, 1)],
    ids=["a step", "the context", "the blocks", "all the same", "none for an answer"],
)
def test_F80_a_golden_prompt_has_room(batch: int, context: int, block: int, longest: int) -> None:
    """In a step, the context and the blocks, whichever is least, with its answer."""
    kv = dataclasses.replace(LAYOUT.kv, block_size=block)
    layout = dataclasses.replace(LAYOUT, max_batch_tokens=batch, max_seq_len=context, kv=kv)
    prompt = [LAYOUT.vocab_size - 1] * (longest + 1)
    assert checked_prompt(Path("b"), {"prompt": prompt[1:]}, layout) == prompt[1:]
    for bad in (prompt, [], None, [LAYOUT.vocab_size], [-1], [True]):
        with pytest.raises(BundleError, match=r"b: golden\.prompt: expected"):
            checked_prompt(Path("b"), {"prompt": bad}, layout)


@pytest.mark.parametrize("size", [2**30, 5 * 2**30])
def test_a_long_upload_tells_each_tenth_once(size: int) -> None:
    said = list[str]()
    report = devices._UploadReport(said.append)
    for part in range(101):
        report(size * part // 100, size)
    tenths = [f"weights: {size * tenth // 10 / 2**30:.1f} of {size / 2**30:.1f} GiB" for tenth in range(1, 11)]
    assert [line.removesuffix(" are on the GPU") for line in said] == tenths


def test_a_short_upload_tells_nothing() -> None:
    said = list[str]()
    report = devices._UploadReport(said.append)
    for total in (0, 2**30 - 1):
        report(0, total)
        report(total, total)
    assert said == []
