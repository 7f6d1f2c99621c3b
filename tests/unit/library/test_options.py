"""Options of loading and compiling: what is none is refused before a file is opened, and where a bundle is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import rocmforge
from rocmforge.artifacts.errors import InputError, UsageError
from rocmforge.library.compilation import bundle_path
from rocmforge.library.loading import load

COUNTS: list[Any] = [0, -1, True, 1.5, "8", [], float("nan")]


@pytest.mark.parametrize("name", ["threads", "max_context", "contexts"])
@pytest.mark.parametrize("count", COUNTS, ids=repr)
def test_numbers_to_load_with(tmp_path: Path, name: str, count: Any) -> None:
    options = {name: count}
    with pytest.raises(UsageError) as caught:
        load(tmp_path / "nothing.rfb", **options)
    assert str(caught.value) == f"{name}: expected an integer of at least 1, found {count!r}"


@pytest.mark.parametrize("name", ["max_context", "jobs"])
@pytest.mark.parametrize("count", COUNTS, ids=repr)
def test_numbers_to_compile_with(tmp_path: Path, name: str, count: Any) -> None:
    options = {name: count}
    with pytest.raises(UsageError) as caught:
        rocmforge.compile(tmp_path / "nothing.gguf", **options)
    assert str(caught.value) == f"{name}: expected an integer of at least 1, found {count!r}"


NO_PATHS: list[Any] = [5, b"x", object, [], "a\0b", "\ud800.gguf"]
PATHS = ("model", "output", "tokenizer", "chat_template", "imatrix", "mmproj", "draft_head", "cache_dir")


@pytest.mark.parametrize("given", NO_PATHS, ids=repr)
def test_paths_that_are_none(tmp_path: Path, given: Any) -> None:
    problem = f"expected a path that a file can have, found {given!r}"
    for name in ("bundle", "draft"):
        with pytest.raises(UsageError) as caught:
            load(**{"bundle": tmp_path / "nothing.rfb", name: given})
        assert str(caught.value) == f"{name}: {problem}"
    for name in PATHS:
        with pytest.raises(UsageError) as caught:
            rocmforge.compile(**{"model": tmp_path / "nothing.gguf", "archs": ["host"], name: given})
        assert str(caught.value) == f"{name}: {problem}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [5, b"x", [1], object], ids=repr)
def test_options_of_another_type(tmp_path: Path, given: Any) -> None:
    to_load = {
        "device": "a name such as auto, host or hip",
        "limits": "EngineLimits",
        "report": "a function of a text",
    }
    for name, expected in to_load.items():
        if name == "report" and callable(given):
            continue
        with pytest.raises(UsageError) as caught:
            load(tmp_path / "nothing.rfb", **{name: given})
        assert str(caught.value) == f"{name}: expected {expected}, found {given!r}"
    to_compile = {
        **dict.fromkeys(("archs", "loras", "adapters", "tuning"), "a list of texts"),
        "kv_dtype": "f16 or q8_0",
        "quantize": "the name of a type",
        "toolchain": "the name of a toolchain",
        "progress": "a Progress",
    }
    for name, expected in to_compile.items():
        with pytest.raises(UsageError) as caught:
            rocmforge.compile(tmp_path / "nothing.gguf", **{name: given})
        assert str(caught.value) == f"{name}: expected {expected}, found {given!r}"


def test_one_text_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^archs: expected a list of texts, found 'host'$"):
        rocmforge.compile(tmp_path / "nothing.gguf", archs="host")


def test_a_bundle_is_named_after_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However that was said; a path that has its name stays as it was given."""
    inner = tmp_path / "Tiny-0.6B" / "inner"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    for given, expected in ((".", "Tiny-0.6B/inner.rfb"), ("", "Tiny-0.6B/inner.rfb"), ("..", "Tiny-0.6B.rfb")):
        assert bundle_path(Path(given)) == tmp_path / expected
    assert bundle_path(Path("../../Tiny-0.6B")) == Path("../../Tiny-0.6B.rfb")
    assert bundle_path(tmp_path / "Tiny-0.6B/inner/..") == tmp_path / "Tiny-0.6B.rfb"
    assert bundle_path(Path("m.Q4_0.gguf")) == Path("m.Q4_0.rfb")


@pytest.mark.parametrize("given", [".", "..", ""])
def test_a_folder_that_is_no_model(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    monkeypatch.chdir(inner)
    with pytest.raises(InputError, match=r"^\.{1,2}: folder: expected a GGUF file, or a folder with config.json"):
        rocmforge.compile(given, archs=["host"])
    assert [*tmp_path.iterdir(), *inner.iterdir()] == [inner]


def test_the_root_has_no_name() -> None:
    with pytest.raises(UsageError, match=r"^model: expected a GGUF file, or a folder that has a name, found /$"):
        rocmforge.compile("/")
