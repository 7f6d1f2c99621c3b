"""docs/faults.md is what the tests say, and every required fault case is held by a test."""

from __future__ import annotations

import pytest

from rocmforge.tools.generate import faults


def collected(session: pytest.Session) -> list[str]:
    """Ids of all tests: those of this session, where it has all, else of another that only collects."""
    option = session.config.option
    files = {path.resolve() for path in {item.path for item in session.items}}
    chosen = option.keyword or option.markexpr or option.deselect or any("::" in name for name in session.config.args)
    if chosen or not files.issuperset((faults.ROOT / "tests").rglob("test_*.py")):
        return faults.collect()
    return [item.nodeid for item in session.items]


@pytest.fixture(scope="module")
def held(request: pytest.FixtureRequest) -> dict[int, set[str]]:
    return faults.holders(collected(request.session))


def test_every_required_case_is_held(held: dict[int, set[str]]) -> None:
    assert sorted(faults.REQUIRED - held.keys()) == []


def test_table_is_up_to_date(held: dict[int, set[str]]) -> None:
    assert faults.TABLE.read_text("utf-8") == faults.table(held), "run python -m rocmforge.tools.generate.faults"


def test_weight_types_are_no_cases() -> None:
    ids = [
        "a.py::test_logits[llama-F32]",
        "a.py::test_rows[F16-x86_64_v4]",
        "a.py::test_rows[F32]",
        "a.py::t[F16-960x576]",
    ]
    assert faults.holders(ids) == {}
    assert faults.holders(["a.py::test_F17_name", "b.py::test_x[F32-symlink]", "b.py::test_x[F32-link]"]) == {
        17: {"a.py::test_F17_name"},
        32: {"b.py::test_x"},
    }
