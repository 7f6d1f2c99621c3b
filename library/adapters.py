"""Which of a model's adapters a text is computed with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..artifacts.errors import RequestError, shown
from ..runtime.engine.checks import check_scale
from ..runtime.engine.embeddings import AdapterScales

Adapter = str | Mapping[str, float] | None
"""The name of one, or several by name and what each is multiplied by; None: none."""
Adapters = Adapter | list[Adapter]
"""For all inputs, or one for each of a list of inputs."""


def scales_of(adapters: Adapters, count: int) -> list[AdapterScales]:
    """Return what each of `count` inputs has.

    Raises:
        RequestError: it is none of the forms, a list of another length, or a scale is out of range.
    """
    several = adapters if isinstance(adapters, list) else [adapters] * count
    if len(several) != count:
        raise RequestError("adapter", f"expected {count}, one for each input, found {len(several)}")
    return [_scales(one) for one in several]


def _scales(adapter: Any) -> AdapterScales:
    if adapter is None:
        return ()
    if isinstance(adapter, str):
        return ((adapter, 1.0),)
    if isinstance(adapter, Mapping) and all(_is_pair(*pair) for pair in adapter.items()):
        for scale in adapter.values():
            check_scale(scale)  # here too: the engine is given float64, which some integers exceed
        return tuple((name, float(scale)) for name, scale in adapter.items())
    raise RequestError("adapter", f"expected a name, or scales by name, found {shown(adapter)}")


def _is_pair(name: object, scale: object) -> bool:
    return isinstance(name, str) and isinstance(scale, int | float) and not isinstance(scale, bool)
