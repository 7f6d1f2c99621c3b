"""How deep JSON may be nested that comes from outside: what walks it recurses."""

from __future__ import annotations

from typing import Final

MAX_DEPTH: Final = 100  # lists and objects within one another


def too_deep(value: object, brackets: int) -> bool:
    """Return whether a value is nested deeper than `MAX_DEPTH`, by a walk level by level: a recursion could not tell.

    Args:
        value: of JSON, as Python has it.
        brackets: that open in its text; where they are few it cannot be, and nothing is walked: token ids of a prompt
            are many to look at.
    """
    if brackets <= MAX_DEPTH:
        return False
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[object] = []
        for item in level:
            children = item.values() if isinstance(item, dict) else item if isinstance(item, list | tuple) else ()
            inner += [child for child in children if isinstance(child, dict | list | tuple)]
        if not inner:
            return False
        level = inner
    return True
