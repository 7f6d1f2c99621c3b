"""ROCmForge: compile a GGUF language model into a bundle, run the bundle, serve it.

    import rocmforge

    rocmforge.compile("model.gguf", "model.rfb")
    with rocmforge.load("model.rfb") as model:
        print(model.generate("The capital of France is").text)

What is named here is the library; it is loaded when it is first used. Errors are `RocmforgeError`, of the kinds of
`rocmforge.artifacts.errors`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .artifacts.errors import RequestError, RocmforgeError
    from .library.answers import ChatAnswer, ChatPiece, Completion, Piece, Score
    from .library.compilation import CompiledBundle
    from .library.compilation import compile_bundle as compile
    from .library.loading import load
    from .library.model import Model
    from .library.params import GenerationParams

__version__ = "0.1.0"

__all__ = [
    "ChatAnswer",
    "ChatPiece",
    "CompiledBundle",
    "Completion",
    "GenerationParams",
    "Model",
    "Piece",
    "RequestError",
    "RocmforgeError",
    "Score",
    "compile",
    "load",
]

_PLACES = {
    "artifacts.errors": ("RequestError", "RocmforgeError"),
    "library.answers": ("ChatAnswer", "ChatPiece", "Completion", "Piece", "Score"),
    "library.compilation": ("CompiledBundle", "compile"),
    "library.loading": ("load",),
    "library.model": ("Model",),
    "library.params": ("GenerationParams",),
}


def __getattr__(name: str) -> Any:
    """The library, when it is first asked for: the command line begins without it."""
    place = next((place for place, names in _PLACES.items() if name in names), None)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{place}"), "compile_bundle" if name == "compile" else name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
