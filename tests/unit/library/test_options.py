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
