"""`rfc verify`: which code is run, what is told of it, and what is no proof."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rocmforge.artifacts.errors import BundleError, DeviceError, RocmforgeError, ToolchainError
from rocmforge.runtime import verify as module
from rocmforge.runtime.device.golden import GOLDEN_BLOCKS
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.runtime.device.memory import LEAST_SLOTS, KvSize
from rocmforge.runtime.verify import verify

PATH = Path("/x/tiny.rfb")
OPTIONS = DeviceOptions("auto", 3)


class Verified:
    """A bundle of three targets, each of which does as a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **does: Callable[[], Any]) -> None:
        self.told: list[str] = []
        self.done: list[Any] = []
        self.golden: Any = ({"prompt": [1], "logits_sha256": "a"}, {"prompt": [2, 3], "logits_sha256": "b"})
        self.found: Any = [{"logits_sha256": "a"}, {"logits_sha256": "b"}]
        self.problems: list[str] = []
        targets = [
            SimpleNamespace(arch="host", level="portable", golden_tolerance=0.0),
            SimpleNamespace(arch="gfx1100", level="", golden_tolerance=0.125),
        ]

        @contextlib.contextmanager
        def verify_bundle(path: Path) -> Iterator[Any]:
            assert path == PATH
            manifest = SimpleNamespace(
                golden=self.golden, files={"a": 1, "b": 2, "c": 3}, bundle_digest="abc", targets=targets, parts={}
            )
            yield SimpleNamespace(manifest=manifest, layout="layout")

        def load_target(bundle: Any, target: Any, options: DeviceOptions, kv: KvSize) -> Any:
            assert (options, kv) == (OPTIONS, KvSize(GOLDEN_BLOCKS, 1, LEAST_SLOTS))
            return does[target.arch]()

        def record_golden(program: Any, prompts: Any) -> Any:
            self.done.append((program.name, prompts))
            if self.found is None:
                raise DeviceError("lost")
            return self.found

        def compare_records(path: Path, golden: Any, found: Any, tolerance: float) -> list[str]:
            assert (path, golden, found) == (PATH, self.golden, self.found)
            self.done.append(tolerance)
            return self.problems

        def checked_prompt(path: Path, record: Any, layout: str) -> Any:
            assert (path, layout) == (PATH, "layout")
            return record["prompt"]

        for function in (verify_bundle, load_target, record_golden, compare_records, checked_prompt):
            monkeypatch.setattr(module, function.__name__, function)

    def program(self, name: str) -> Any:
        return SimpleNamespace(name=name, close=lambda: self.done.append(f"{name} closed"))

    def verify(self) -> None:
        verify(PATH, OPTIONS, self.told.append)


DIGESTS = "digests: 3 files match abc"


def refuse(error: Exception) -> Callable[[], Any]:
    def load() -> Any:
        raise error

    return load


def test_all_code_that_runs_here_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Verified(monkeypatch, host=lambda: one.program("host"), gfx1100=lambda: one.program("gpu"))
    one.found[1]["logits_sha256"] = "c"
    one.verify()
    assert one.told == [
        DIGESTS,
        "host portable: 2 golden records replayed, equal within 0.0",
        "gfx1100: 2 golden records replayed, equal within 0.125",
    ]
    prompts = [[1], [2, 3]]
    assert one.done == [("host", prompts), "host closed", 0.0, ("gpu", prompts), "gpu closed", 0.125]


def test_what_does_not_run_here_is_told_and_what_is_not_asked_for_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Verified(monkeypatch, host=lambda: one.program("host"), gfx1100=refuse(DeviceError("no GPU")))
    one.verify()
    same = "host portable: 2 golden records replayed, equal to the bit"
    assert one.told == [DIGESTS, same, "gfx1100: not run: no GPU"]
    one = Verified(monkeypatch, host=refuse(ToolchainError("no loader")), gfx1100=lambda: one.program("gpu"))
    one.verify()
    assert one.told[1] == "host portable: not run: no loader"
    assert len(one.told) == 3
    one = Verified(monkeypatch, host=lambda: None, gfx1100=lambda: one.program("gpu"))
    one.verify()
    assert one.told == [DIGESTS, "gfx1100: 2 golden records replayed, equal to the bit"]


def test_code_that_computes_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Verified(monkeypatch, host=lambda: one.program("host"), gfx1100=lambda: one.program("gpu"))
    one.problems = ["record 1: token 5", "more"]
    with pytest.raises(RocmforgeError) as caught:
        one.verify()
    assert str(caught.value) == "host portable: record 1: token 5 (2 differences)"
    assert one.done[1] == "host closed"


def test_a_device_that_is_lost_meanwhile_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Verified(monkeypatch, host=lambda: one.program("host"), gfx1100=lambda: None)
    one.found = None
    with pytest.raises(DeviceError, match="lost"):
        one.verify()
    assert one.done[1:] == ["host closed"]


def test_a_bundle_that_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Verified(monkeypatch, host=lambda: None, gfx1100=refuse(DeviceError("no GPU")))
    with pytest.raises(DeviceError) as unproved:
        one.verify()
    assert str(unproved.value) == f"{PATH}: none of the bundle's code runs on this machine"
    one.golden = ()
    with pytest.raises(BundleError) as caught:
        one.verify()
    assert str(caught.value) == f"{PATH}: golden: expected at least one record, found none"
