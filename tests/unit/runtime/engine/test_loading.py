"""What an engine is loaded with. Whole engines are loaded in test_engine_serving.py."""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.artifacts.errors import BundleError, UsageError
from rocmforge.artifacts.merge_table import MERGES_NAME, MergeTable
from rocmforge.artifacts.writer import BundleWriter
from rocmforge.compiler.merge_table import merge_table
from rocmforge.compiler.tokenizer import build_tokenizer
from rocmforge.runtime.device.batch import DeviceFacts
from rocmforge.runtime.device.load import DeviceOptions
from rocmforge.runtime.device.memory import KvSize
from rocmforge.runtime.engine import loading
from rocmforge.runtime.engine.engine import EngineLimits
from rocmforge.runtime.engine.loading import EngineOptions, chosen_device, kv_size, load_engine, load_tokenizer
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.support.bundle import LAYOUT_DATA, MANIFEST, WEIGHTS, flip
from rocmforge.tests.support.tokenizers import tiny


def stub() -> Any:
    layout = SimpleNamespace(max_seq_len=256, kv=SimpleNamespace(block_size=16), head=None)
    return SimpleNamespace(layout=layout, path=Path("x"), manifest=SimpleNamespace(parts={}))


@pytest.mark.parametrize(
    "max_context, kv_tokens, expected",
    [
        (None, None, KvSize(None, 256)),
        (256, None, KvSize(None, 256)),
        (255, 160, KvSize(10, 255)),
        (None, 161, KvSize(11, 256)),
        (1, 1, KvSize(1, 1)),
    ],
)
def test_how_large_a_cache_is_asked_for(max_context: int | None, kv_tokens: int | None, expected: KvSize) -> None:
    options = EngineOptions(DeviceOptions(), max_context, kv_tokens)
    assert kv_size(stub(), options) == expected


def test_a_context_that_the_bundle_does_not_have() -> None:
    with pytest.raises(UsageError) as caught:
        kv_size(stub(), EngineOptions(DeviceOptions(), 257))
    assert str(caught.value) == "--max-context: expected at most 256 (the bundle's), found 257"


def test_what_is_asked_for_the_next_time() -> None:
    assert [chosen_device("auto", runtime) for runtime in ("", "HIP 6.4")] == ["host", "hip"]
    assert [chosen_device(asked, runtime) for asked, runtime in (("hip:1", ""), ("host", "HIP 6.4"))] == [
        "hip:1",
        "host",
    ]


def test_everything_reaches_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Any] = []
    facts = DeviceFacts("HIP 6.4")
    program: Any = SimpleNamespace(layout=SimpleNamespace(head=None), facts=lambda: facts)

    def load_program(*arguments: Any) -> Any:
        loads.append(arguments)
        return program

    monkeypatch.setattr(loading, "load_program", load_program)
    monkeypatch.setattr(loading, "Engine", lambda *arguments, **named: (arguments, named))
    options = EngineOptions(DeviceOptions("auto", 3), 100, None, EngineLimits(5))
    bundle, observer, ids, report = stub(), object(), iter([1]), print
    other: Any = object()
    made: Any = load_engine(bundle, options, "tokenizer", "metrics", report, observer, ids)  # type: ignore[arg-type]
    arguments, named = made
    assert arguments == (program, "tokenizer", 100, "metrics")
    again = named.pop("make_program")
    assert named == {
        "limits": EngineLimits(5),
        "observer": observer,
        "request_ids": ids,
        "head": None,
        "policy": None,
        "encoder": None,
    }
    assert again() is program
    size = KvSize(None, 100)
    assert loads == [
        (bundle, options.device, size, report),
        (bundle, DeviceOptions("hip", 3), size, report),
    ]
    made = load_engine(bundle, options, "tokenizer", "metrics")  # type: ignore[arg-type]
    assert made[1]["observer"] is made[1]["request_ids"] is None
    assert loads[-1][3] == logging.getLogger(loading.__name__).info
    made = load_engine(bundle, options, "tokenizer", "metrics", make_program=other)  # type: ignore[arg-type]
    assert made[1]["make_program"] is other


SMALL = build_tokenizer(tiny(), Path("tiny.gguf"))
LONG = "a long text abc. " * 2000  # more than the tables are for


def write_small(goal: Path, merges: bytes, tokenizer: str = SMALL.json) -> Path:
    """A bundle with a tokenizer and its tables."""
    files = {"layout.msgpack": LAYOUT_DATA, "weights.bin": WEIGHTS, "code/host.so": b"\x7fELF"}
    with BundleWriter(goal) as writer:
        for name, data in (files | {"tokenizer.json": tokenizer.encode(), MERGES_NAME: merges}).items():
            writer.add_bytes(name, data)
        writer.finish(dataclasses.replace(MANIFEST, tokenizer=SMALL.config.to_json()))
    return goal


def tables() -> MergeTable:
    made = merge_table(SMALL.json)
    assert made is not None
    return made


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_small(tmp_path / "m.rfb", tables().to_bytes())


def replace_it(bundle: Path) -> None:
    write_small(bundle, tables().to_bytes(), SMALL.json + " ")


@pytest.mark.parametrize("change", [replace_it, shutil.rmtree, lambda _: None])
@pytest.mark.parametrize("closed", [True, False])
def test_a_tokenizer_goes_on_without_its_folder(small: Path, change: Callable[[Path], None], closed: bool) -> None:
    with open_bundle(small) as bundle:
        found = load_tokenizer(bundle, at_once=True)
        change(small)
        if not closed:
            assert found.encode(LONG) == Tokenizer(SMALL.json, SMALL.config).encode(LONG)
    assert found.encode(LONG) == Tokenizer(SMALL.json, SMALL.config).encode(LONG)


def test_a_tokenizer_that_is_written_to_meanwhile_is_refused(small: Path) -> None:
    with open_bundle(small) as bundle:
        found = load_tokenizer(bundle, at_once=True)
        flip(small / "tokenizer.json")
        for _ in range(2):
            with pytest.raises(BundleError, match=f"^{small}: tokenizer.json: expected sha256"):
                found.encode(LONG)
        flip(small / "tokenizer.json")
        assert found.encode(LONG) == load_tokenizer(bundle).encode(LONG)


def test_tokenizers_leave_nothing_open(small: Path) -> None:
    gc.collect()  # what other tests left behind
    before = set(os.listdir("/proc/self/fd"))
    for text in ("abc", LONG):
        with open_bundle(small) as bundle:
            load_tokenizer(bundle, at_once=True).encode(text)
    gc.collect()
    assert set(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize(
    "merges, tokenizer, at_once, found",
    [
        (b"\x80", SMALL.json, True, "/merges.bin: added: expected an array, found NoneType"),
        (
            dataclasses.replace(tables(), rules="{}").to_bytes(),
            SMALL.json,
            True,
            "/merges.bin: rules: expected",
        ),
        (tables().to_bytes(), "{}", False, ": tokenizer.json: expected a tokenizer, found"),
        (tables().to_bytes(), "{}", True, ": tokenizer.json: expected a tokenizer, found"),
    ],
    ids=["tables", "their-rules", "tokenizer", "tokenizer-later"],
)
def test_files_that_are_no_tokenizer_are_named(
    tmp_path: Path, merges: bytes, tokenizer: str, at_once: bool, found: str
) -> None:
    with open_bundle(write_small(tmp_path / "m.rfb", merges, tokenizer)) as bundle:
        with pytest.raises(BundleError, match=f"^{bundle.path}{found}") as caught:
            load_tokenizer(bundle, at_once).encode(LONG)
        assert "\n" not in str(caught.value)
