"""`dataclass` with the standard library's meaning, whose frozen classes are made in a fifth of the time.

`rfc run` makes more than a hundred such classes before its first token. The standard library compiles six methods for
each, which is a fifth of the start; here `__init__` alone is compiled, when a class has its first instance, which most
never have, and the others are closures.
"""

from __future__ import annotations

import dataclasses
import inspect
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

__all__ = ["dataclass"]

if TYPE_CHECKING:
    from dataclasses import dataclass
else:

    def dataclass(cls: type | None = None, /, **options: bool) -> Any:
        """Make a class, or return the decorator that makes it, with the options of `dataclasses.dataclass`."""
        if cls is None and options.get("frozen") and options.get("slots") and options.keys() <= _KNOWN:
            return lambda made: _frozen(made, options.get("eq", True), options.get("kw_only", False))
        return dataclasses.dataclass(cls, **options)


_KNOWN: Final = {"frozen", "slots", "eq", "kw_only"}


def _frozen(cls: type, eq: bool, kw_only: bool) -> type:
    # A class that says nothing of itself would get its signature for that, as a text, which takes 2 ms.
    cls.__doc__ = cls.__doc__ or cls.__name__
    # Asked for none of its methods, the library finds the fields and makes the slots, and compiles nothing.
    made: Any = dataclasses.dataclass(init=False, repr=False, eq=False, slots=True, kw_only=kw_only)(cls)
    fields = dataclasses.fields(made)
    methods = {
        "__init__": _late_init(made),
        "__repr__": _repr([field.name for field in fields if field.repr]),
        **(_comparisons([field.name for field in fields if field.compare]) if eq else {}),
        **_copies([field.name for field in fields]),
    }
    own = vars(cls)
    for name, method in methods.items():
        if own.get(name) is None:  # a class with an __eq__ of its own has None for a hash
            method.__qualname__ = f"{cls.__qualname__}.{name}"
            setattr(made, name, method)
    if "__init__" not in own:
        made.__signature__ = _Signature(made)
    made.__setattr__, made.__delattr__ = _set, _delete
    result: type = made
    return result


def _late_init(made: Any) -> Callable[..., None]:
    """Return an `__init__` that puts the compiled one in its place when it is first called."""

    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        init = _init(made)
        init.__qualname__ = f"{made.__qualname__}.__init__"
        made.__init__ = init
        init(self, *args, **kwargs)

    return __init__


class _Signature:
    """A class's signature as `inspect` asks for it, which an `__init__` that is yet to be compiled does not tell."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def __get__(self, instance: object, owner: Any) -> inspect.Signature:
        if instance is not None:  # which has another where it can be called
            raise AttributeError("__signature__")
        init = _init(self._made) if owner.__init__ is self._made.__init__ else owner.__init__
        _, *others = inspect.signature(init).parameters.values()
        return inspect.Signature(others)


def _init(made: type) -> Callable[..., None]:
    """Compile the method that sets each slot to an argument, a default or what a factory makes."""
    fields = dataclasses.fields(made)
    values: dict[str, Any] = {"missing": dataclasses.MISSING}
    places: list[str] = []
    named: list[str] = []
    lines: list[str] = []
    for number, field in enumerate(fields):
        name = field.name
        values[f"set{number}"] = getattr(made, name).__set__
        argument, value = name, name if field.init else ""
        if field.default is not dataclasses.MISSING:
            values[f"default{number}"] = field.default
            argument, value = f"{name}=default{number}", value or f"default{number}"
        elif field.default_factory is not dataclasses.MISSING:
            values[f"make{number}"] = field.default_factory
            argument = f"{name}=missing"
            value = f"make{number}() if {name} is missing else {name}" if field.init else f"make{number}()"
        if field.init:
            (named if field.kw_only else places).append(argument)
        if value:  # else __post_init__ sets it
            lines.append(f"  set{number}(self, {value})")
    if hasattr(made, "__post_init__"):
        lines.append("  self.__post_init__()")
    arguments = ", ".join(["self", *places, *(["*", *named] if named else [])])
    body = "\n".join(lines or ["  pass"])
    scope: dict[str, Any] = {}
    exec(f"def make({', '.join(values)}):\n def __init__({arguments}):\n{body}\n return __init__", scope)
    init: Callable[..., None] = scope["make"](**values)
    init.__annotations__ = {field.name: field.type for field in fields if field.init} | {"return": None}
    return init


def _repr(names: list[str]) -> Callable[[Any], str]:
    def __repr__(self: Any) -> str:
        return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    return __repr__


def _comparisons(names: list[str]) -> dict[str, Callable[..., Any]]:
    values: Callable[[Any], Any] = operator.attrgetter(*names) if names else lambda _: ()

    def __eq__(self: Any, other: object) -> Any:
        return values(self) == values(other) if type(other) is type(self) else NotImplemented

    def __hash__(self: Any) -> int:
        return hash(values(self))

    return {"__eq__": __eq__, "__hash__": __hash__}


def _copies(names: list[str]) -> dict[str, Callable[..., Any]]:
    """Return what `copy` and `pickle` call, for they cannot set what is frozen."""

    def __getstate__(self: Any) -> list[Any]:
        return [getattr(self, name) for name in names]

    def __setstate__(self: Any, state: list[Any]) -> None:
        for name, value in zip(names, state, strict=True):
            object.__setattr__(self, name, value)

    return {"__getstate__": __getstate__, "__setstate__": __setstate__}


def _set(self: Any, name: str, value: object) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot assign to field {name!r}")


def _delete(self: Any, name: str) -> NoReturn:
    raise dataclasses.FrozenInstanceError(f"cannot delete field {name!r}")
