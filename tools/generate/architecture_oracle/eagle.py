"""llama.cpp's logits of EAGLE 3 heads, and ours as graphs mean them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rocmforge.compiler.eagle import drawn_part, read_eagle
from rocmforge.compiler.read_config import read_config
from rocmforge.compiler.sources import open_source
from rocmforge.compiler.weights import read_floats
from rocmforge.tools.generate.eagle_models import TARGETS, write_pair

from .drafts import write_vectors_of
from .meaning import Meaning

Float64 = npt.NDArray[np.float64]


def write_eagle_vectors(program: Path, goal: Path) -> Iterator[str]:
    """Write what llama.cpp makes of our own small heads, for tests; yield a line a model.

    Of "NAME", and of "NAME|own" where the head lacks nothing: "|logits", float32[tokens - 1 + drafts, vocab_size],
    after each of `IDS` but the first and after each draft, and "|drafts", int32[drafts].
    """
    return write_vectors_of(program, goal, TARGETS, write_pair)


@dataclass(frozen=True, slots=True)
class EagleDrafting:
    """A model and its head, as their graphs mean them."""

    model: Meaning
    head: Meaning

    @classmethod
    def of(cls, path: Path, head: Path, positions: int) -> EagleDrafting:
        """Read a model and a head of it."""
        source = open_source(path)
        config = read_config(source)
        read = read_eagle(head, config)
        part = drawn_part(read, source, config, positions)
        numbers = {role: read_floats(part.source, one).reshape(one.shape) for role, one in part.tensors.items()}
        for role, table in part.tables.items():
            factors = table.factors_role(positions)
            numbers[role] = table.numbers(numbers[factors] if factors else None, positions)
        numbers |= part.made
        doubles = {role: values.astype(np.float64) for role, values in numbers.items()}
        tapped = Meaning.with_config(source, replace(config, taps=read.layers), positions)
        return cls(tapped, Meaning(config, part.graph, doubles))

    def logits(self, token_ids: Sequence[int], drafts: Sequence[int]) -> Float64:
        """Return float64[tokens - 1 + drafts, vocab_size] of the head: beside each token but the first the model's
        hidden states at the one before it, and the head's own for drafts."""
        before = self.model.value("tapped", token_ids)[:-1]
        width = self.head.graph.input_width - before.shape[1]
        rows = np.pad(before, ((0, 0), (0, width)))
        ids = list(token_ids[1:])
        for draft in drafts:
            own = self.head.value("tapped", ids, rows)[-1:]
            rows = np.concatenate([rows, np.pad(own, ((0, 0), (before.shape[1], 0)))])
            ids.append(draft)
        return self.head.value("", ids, rows)
