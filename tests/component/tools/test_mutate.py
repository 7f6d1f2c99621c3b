"""Mutations of our own code: each changes one thing, the sample is the same each time, and nothing of it stays."""

from __future__ import annotations

import subprocess
from collections import Counter
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path

import pytest

from rocmforge.tools.mutation.mutate import ROOT, summary
from rocmforge.tools.mutation.mutation import Mutation
from rocmforge.tools.mutation.native import native_mutations
from rocmforge.tools.mutation.nearest import TABLE, nearest_tests
from rocmforge.tools.mutation.python import parses, python_mutations
from rocmforge.tools.mutation.sample import FOLDERS, equivalents, mutations_of, shuffled
from rocmforge.tools.mutation.trial import Copy

PYTHON = [
    ("comparison", "a < b", {"a <= b", "a >= b"}),
    ("comparison", "a not in (b)", {"a in (b)"}),
    ("comparison", "(a) <= b < c", {"(a) < b < c", "(a) > b < c", "(a) <= b <= c", "(a) <= b >= c"}),
    ("and/or", "a and b and c", {"a or b and c", "a and b or c"}),
    ("negation", "x = not a", {"x =  a"}),
    ("negation", "if (a or b): c", {"if (not (a or b)): c"}),
    ("negation", "[a for a in b if c]", {"[a for a in b if not (c)]"}),
    ("arithmetic", "a + b // c", {"a - b // c", "a + b * c"}),
    ("arithmetic", "a -= 1", {"a += 1"}),
    ("arithmetic", "a = 'x' + b", set()),
    ("constant", "a = 0, True, 2.5", {"a = 1, True, 2.5", "a = 0, False, 2.5", "a = 0, True, 5.0"}),
    ("constant", "a = b(7, 4096, 'text')", {"a = b(8, 4096, 'text')", "a = b(6, 4096, 'text')"}),
    ("constant", "LIMIT = 7\n_SECONDS: Final = 2.0", set()),
    ("return", "def f():\n  return a", {"def f():\n  return None"}),
    ("return", "def f():\n  return None", set()),
    ("deleted", "os.fsync(fd)\nlog.info('x')\nraise E\nx = 1\nx.y = 1", {
        "pass\nlog.info('x')\nraise E\nx = 1\nx.y = 1",
        "os.fsync(fd)\nlog.info('x')\npass\nx = 1\nx.y = 1",
        "os.fsync(fd)\nlog.info('x')\nraise E\nx = 1\npass",
    }),
    ("left out", "f(a, b=1, c=2)", {"f(a, c=2)", "f(a, b=1)"}),
    ("left out", "cache_key(a, *b)", {"cache_key(*b)", "cache_key(a)"}),
    ("left out", "x = [a, b]", {"x = [b]", "x = [a]"}),
    ("left out", "x = a, b", set()),
    ("left out", "x = {'a': 1, 'b': 2}", {"x = {'b': 2}", "x = {'a': 1}"}),
    ("left out", "@dataclass(frozen=True, slots=True)\nclass A: ...", set()),
    ("swapped", "f(a, b, c)", {"f(b, a, c)"}),
    ("swapped", "max(a, b)", set()),
    ("any/all", "any(a)", {"all(a)"}),
]  # fmt: skip
C = [
    ("operator", "a[i + 1] = b < c;", {"a[i - 1] = b < c;", "a[i + 1] = b <= c;", "a[i + 1] = b >= c;"}),
    ("operator", "const float *x = &y; /* a < b */", set()),
    ("constant", "float x[16]; y = x[0] * 0.5f;", {"float x[16]; y = x[1] * 0.5f;", "float x[16]; y = x[0] * 1.0f;"}),
    ("constant", '#include "a1.h"\n#define N 2', {'#include "a1.h"\n#define N 3', '#include "a1.h"\n#define N 1'}),
    ("deleted", "  __syncthreads();\n  int a = f();", {"  ;\n  int a = f();"}),
    ("return", "return a + b;", {"return 0;"}),
    ("negation", "if (f(a) && b) c();", {"if (!(f(a) && b)) c();"}),
    ("swapped", "f(a, b);", {"f(b, a);"}),
]


def results(found: list[Mutation], operator: str, source: str) -> set[str]:
    return {one.apply(source.encode()).decode() for one in found if one.operator == operator}


@pytest.mark.parametrize("operator, source, expected", PYTHON)
def test_mutations_of_python(operator: str, source: str, expected: set[str]) -> None:
    found = python_mutations("a.py", source.encode())
    assert results(found, operator, source) == expected
    assert all(parses(one, source.encode()) for one in found if one.operator == operator)


@pytest.mark.parametrize("operator, source, expected", C)
def test_mutations_of_c(operator: str, source: str, expected: set[str]) -> None:
    assert results(native_mutations("a.h", source.encode()), operator, source) == expected


def test_docstrings_annotations_and_messages_are_left_alone() -> None:
    source = b'"""1 < 2"""\ndef f(a: L[1] = b) -> L[2]:\n    """a + b"""\n    raise E(f"{a + 1} < {b}")\n'
    assert [one.operator for one in python_mutations("a.py", source)] == ["deleted"]


@pytest.mark.parametrize("path", ["compiler/planner.py", "runtime/http/transport/rate_limit.py"])
def test_nearly_all_of_a_real_file_parses_and_is_one_change(path: str) -> None:
    source = (ROOT / path).read_bytes()
    found = mutations_of(ROOT, path)
    assert len(found) > 30
    assert sum(parses(one, source) for one in found) > 0.95 * len(found)
    assert len({one.apply(source) for one in found}) > 0.9 * len(found)
    for one in found:
        before, after = one.change(source)
        assert before != after
        assert source.splitlines()[one.line(source) - 1].decode().strip().split()[0] in before


def test_a_sample_is_the_same_for_the_same_seed() -> None:
    first, again, other = (list(islice(shuffled(ROOT, "artifacts", seed), 25)) for seed in (5, 5, 6))
    assert first == again
    assert first != other
    places = [(one.path, one.line((ROOT / one.path).read_bytes())) for one in first]
    assert len(set(places)) == len(places)
    assert min(Counter(one.operator for one in first).values()) >= 2
    assert {one.path for one in islice(shuffled(ROOT, "runtime", 5, "runtime/engine/rate.py"), 3)} == {
        "runtime/engine/rate.py"
    }


def test_every_file_has_tests_near_it() -> None:
    paths = [path for patterns, _ in FOLDERS.values() for pattern in patterns for path in ROOT.glob(pattern)]
    names = [path.relative_to(ROOT).as_posix() for path in paths if path.name != "__init__.py" and path.suffix != ".md"]
    assert [name for name in names if not nearest_tests(ROOT, name)] == []
    assert [pattern for pattern in TABLE if not any(fnmatch(name, pattern) for name in names)] == []
    listed = {test.partition("::")[0] for tests in TABLE.values() for test in tests}
    files = [path.as_posix() for path in (ROOT / "tests").rglob("test_*.py")]
    assert [test for test in listed if sum(file.endswith(f"/{test}") for file in files) != 1] == []


def test_mutations_called_equivalent_are_of_this_tree() -> None:
    stale = [key for key in equivalents() if key[1] not in " ".join((ROOT / key[0]).read_text("utf-8").split())]
    assert stale == []
    assert all(reason for reason in equivalents().values())


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of one module and its tests, called as ours is."""
    root = tmp_path / "work"
    (root / "tests").mkdir(parents=True)
    for name in ("__init__.py", "tests/__init__.py"):
        (root / name).touch()
    (root / "limit.py").write_text("def over(a, b):\n    return a > b\n")
    (root / "tests" / "test_limit.py").write_text(
        "from rocmforge.limit import over\n"
        "def test_over(): assert over(2, 1) and not over(1, 2)\n"
        "def test_broken(): assert False\n"
    )
    (root / "pyproject.toml").write_text('[tool.pytest.ini_options]\naddopts = "--import-mode=importlib"\n')
    subprocess.run(("git", "init", "-q", str(root)), check=True)
    return root


def test_a_mutation_is_tried_on_a_copy_and_is_gone_afterwards(tree: Path, tmp_path: Path) -> None:
    copy = Copy(tree, tmp_path / "copy", tmp_path / "cache")
    source = (tree / "limit.py").read_bytes()
    test = "tests/test_limit.py::test_over"
    kinds = {}
    for one in python_mutations("limit.py", source):
        outcome = copy.try_out(one, [test], 60, 60)
        kinds[one.apply(source).decode().splitlines()[1].strip()] = (outcome.kind, outcome.by)
        assert (copy.root / "limit.py").read_bytes() == (tree / "limit.py").read_bytes() == source
    assert kinds == {
        "return a >= b": ("survived", ""),
        "return a <= b": ("killed", test),
        "return None": ("killed", test),
    }
    assert copy.passes(test)
    assert not copy.passes("tests/test_limit.py::test_broken")


def test_a_mutation_that_hangs_is_ended(tree: Path, tmp_path: Path) -> None:
    source = (tree / "limit.py").read_bytes()
    endless = Mutation("limit.py", "endless", source.index(b"return"), len(source), b"while True: pass")
    copy = Copy(tree, tmp_path / "copy", tmp_path / "cache")
    assert copy.try_out(endless, ["tests/test_limit.py::test_over"], 3, 60).kind == "timeout"


def test_the_score_leaves_out_what_changes_nothing() -> None:
    records = [
        {"folder": "runtime", "path": "a.py", "line": 3, "before": "x", "after": after, "kind": kind}
        for after, kind in (("1", "killed"), ("2", "survived"), ("3", "survived"), ("4", "timeout"))
    ]
    lines = summary(records, {("a.py", "x", "3"): "no reason"}).splitlines()
    assert lines[-1] == "score: 2 of 3, 67 %"
    assert lines[1].split() == ["survived:", "a.py:3", "x", "->", "2"]
