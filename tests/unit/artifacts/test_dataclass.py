"""Our `dataclass` beside the standard library's: the same classes by both, and what differs between them is nothing."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from rocmforge.artifacts.dataclass import dataclass as ours

REPOSITORY = Path(__file__).parents[3]


def _classes(dataclass: Any) -> dict[str, Any]:
    @dataclass(frozen=True, slots=True)
    class Point:
        """A point."""

        x: int
        y: float = 2.5
        kinds: ClassVar[int] = 3

        @property
        def sum(self) -> float:
            return self.x + self.y

    @dataclass(frozen=True, slots=True)
    class Named(Point):
        """A point with a name."""

        names: list[str] = dataclasses.field(default_factory=list, repr=False)
        place: str = dataclasses.field(default="here", compare=False)
        last: int = dataclasses.field(default=7, kw_only=True)

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Keys:
        """Its fields are named."""

        a: int
        b: int = 1

        def __post_init__(self) -> None:
            if self.a < 0:
                raise ValueError("a")

    @dataclass(frozen=True, slots=True)
    class Later:
        """Not all of its fields are arguments."""

        a: int = dataclasses.field(init=False)
        b: int
        c: int = dataclasses.field(init=False, default=5)
        d: list[int] = dataclasses.field(init=False, default_factory=list)

        def __post_init__(self) -> None:
            object.__setattr__(self, "a", self.b + 1)

    @dataclass(frozen=True, slots=True, eq=False)
    class Itself:
        """Equal to itself alone."""

        a: int

    @dataclass(frozen=True, slots=True)
    class Own:  # noqa: PLW1641 (what comes of it is the test)
        """It compares in a way of its own."""

        a: int

        def __eq__(self, other: object) -> bool:
            return isinstance(other, Own) and self.a % 10 == other.a % 10

        def __repr__(self) -> str:
            return "own"

    @dataclass(frozen=True, slots=True)
    class Empty:
        """It has no field."""

    @dataclass(slots=True)
    class Open:
        """It can be changed."""

        a: int

    class Child(Point):
        """It has another way to begin."""

        def __init__(self, more: int) -> None:
            super().__init__(more + 1)

    @dataclass(frozen=True, slots=True)
    class Called:
        """It can be called."""

        a: int

        def __call__(self, b: int) -> int:
            return self.a + b

    @dataclass(frozen=True, slots=True)
    class Given:
        """It brings its own `__init__`."""

        a: int

        def __init__(self, b: int, c: int) -> None:
            object.__setattr__(self, "a", b + c)

    classes = Point, Named, Keys, Later, Itself, Own, Empty, Open, Child, Called, Given
    return {cls.__name__: cls for cls in classes}


OURS, THEIRS = _classes(ours), _classes(dataclasses.dataclass)


def _outcome(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize(
    ("name", "action"),
    [
        ("Point", lambda c: repr(c(1))),
        ("Point", lambda c: c(1, 2).sum),
        ("Point", lambda c: (c(1) == c(1), c(1) == c(2), c(1) == 1, hash(c(1)) == hash(c(1, 2.5)))),
        ("Point", lambda c: c()),
        ("Point", lambda c: c(1, 2, 3)),
        ("Point", lambda c: c(1, z=3)),
        ("Point", lambda c: setattr(c(1), "x", 2)),
        ("Point", lambda c: delattr(c(1), "x")),
        ("Point", lambda c: hasattr(c(1), "__dict__")),
        ("Point", lambda c: (c.__match_args__, c.__slots__, c.kinds)),
        ("Point", lambda c: repr(dataclasses.replace(c(1), x=5))),
        ("Point", lambda c: dataclasses.replace(c(1), z=5)),
        ("Point", lambda c: dataclasses.asdict(c(1))),
        ("Point", lambda c: repr(copy.deepcopy(c(1)))),
        ("Point", lambda c: repr(copy.copy(c(1)))),
        ("Point", lambda c: c(1).__getstate__()),
        ("Point", lambda c: [str(one) for one in inspect.signature(c).parameters.values()]),
        ("Child", lambda c: [str(one) for one in inspect.signature(c).parameters.values()]),
        ("Child", lambda c: repr(c(1))),
        ("Called", lambda c: [str(one) for one in inspect.signature(c).parameters.values()]),
        ("Called", lambda c: [str(one) for one in inspect.signature(c(1)).parameters.values()]),
        ("Called", lambda c: c(1)(2)),
        ("Given", lambda c: [str(one) for one in inspect.signature(c).parameters.values()]),
        ("Given", lambda c: repr(c(3, 4))),
        ("Named", lambda c: repr(c(1, 2, ["a"], last=3))),
        ("Named", lambda c: c(1).names is not c(1).names),
        ("Named", lambda c: (c(1) == c(1, place="there"), c(1) == c(1, last=8), c(1) == c(1, names=["x"]))),
        ("Named", lambda c: c(1, 2, [], "here", 7)),
        ("Named", lambda c: [(f.name, f.type, f.kw_only) for f in dataclasses.fields(c)]),
        ("Keys", lambda c: repr(c(a=1))),
        ("Keys", lambda c: c(1)),
        ("Keys", lambda c: c(a=-1)),
        ("Later", lambda c: repr(c(1))),
        ("Later", lambda c: c(b=1, a=2)),
        ("Itself", lambda c: (c(1) == c(1), len({c(1), c(1)}), repr(c(1)))),
        ("Own", lambda c: (c(1) == c(11), c(1) == c(2), hash(c(1)) == hash(c(1)), repr(c(1)))),
        ("Empty", lambda c: (repr(c()), c() == c(), hash(c()) == hash(c()))),
        ("Open", lambda c: repr(c(1))),
    ],
)
def test_the_standard_librarys_meaning(name: str, action: Callable[[Any], Any]) -> None:
    assert _outcome(lambda: action(OURS[name])) == _outcome(lambda: action(THEIRS[name]))


def test_first_instances_of_threads_at_once() -> None:
    """Each may find that the `__init__` is yet to be compiled, and all make the instance that they asked for."""
    for _ in range(20):
        made = _classes(ours)["Named"]
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number, made=made: made(number, last=number), range(16)))
        assert [(one.x, one.last) for one in found] == [(number, number) for number in range(16)]


@ours(frozen=True, slots=True)
class Pickled:
    """A class that a pickle can name."""

    a: int
    b: str = "b"


def test_pickled() -> None:
    assert pickle.loads(pickle.dumps(Pickled(3))) == Pickled(3)


def test_the_product_uses_it() -> None:
    """A class by the standard library's costs each start half a millisecond."""
    theirs = re.compile(r"^from dataclasses import .*\bdataclass\b", re.MULTILINE)
    found = [
        str(path)
        for room in ("artifacts", "runtime", "library", "registry", "compiler", "cli")
        for path in sorted((REPOSITORY / room).rglob("*.py"))
        if theirs.search(path.read_text())
    ]
    assert not found
