"""`docs/architectures.md`: what was found of each model, at several seeds."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from rocmforge.compiler.architectures import ARCHITECTURES
from rocmforge.tools.generate.architecture_models import write_architecture

from .judge import Verdict, nmse
from .logits import VECTOR_IDS
from .meaning import Meaning

MOST = 1e-4
"""Normalised mean squared error up to which logits agree."""
VISIBLE = 1e-3
"""From which on a change shows."""
PROGRAMS = ("host", "gfx1100", "gfx942", "gfx1201")

_ROOT = Path(__file__).parents[3]
_VECTORS = _ROOT / "tests/data/architecture_logits.npz"
"""llama.cpp's logits of the models that our own generator writes."""

_HEAD = """# Architectures

Which of llama.cpp's architectures compile, and how far their logits are from llama.cpp's. Written by
`python -m rocmforge.tools.generate.architecture_oracle table`, not by hand.

Each file is a small random model (6 layers, float32 weights) of llama.cpp's own test generator, with the tensors that
published files of the architecture have; `tools/generate/architecture_oracle/make.sh DIR` makes them. Numbers are
normalised mean squared errors of the logits behind 1, 13 and 40 tokens, the largest of all seeds and lengths:
**meaning** of the graph in NumPy float64, **host** and GPUs (emulated, at one seed; empty: not run) of bundles with
keys and values in float16, **itself** of llama.cpp one token at a time, all against llama.cpp all tokens at once (*:
against llama.cpp one token at a time, where it differs from itself; positions of dream and llada see those after them,
which one at a time are not there yet). **Least change**: what doubling the base of the rotary frequencies, halving
ALiBi, dropping the windows, turning one head or the taps of one convolution round or doubling the decays of one scan
does to the meaning, the smallest of these; below {visible:.0e} the file would not show the error, and
`tests/unit/compiler/test_architectures.py` has models of our own that do.

The files as the generator writes them, with every optional tensor and a scale beside each matrix, compile too, but for
hrm_text's, which has scales of layers that it has not. Of the 64 dense ones of the others that llama.cpp can run,
at one seed, 3 agree to {most:.0e} as they are (cohere2, nanbeige, qwen3). The other 61 do without the tensors that
llama.cpp reads and its graph leaves out, and which take part here: scales of feed-forwards in all of them, those of
`attn_qkv` in cogvlm, openelm and plamo3, those of `attn_gate` in muse-glimmer and spark2_5, and the bias of
`attn_output` in ernie4_5.

Latent attention (deepseek2, minicpm3, mistral4) is computed absorbed: the cache has the latent of a token and the
rotated end of its key, once for all heads. The files have one head; models of our own have four, with and without a
rank of queries, with weights that are absorbed already and with those that are turned round when they are packed.

grovemoe's further experts, which several neighbours share, read what the others made and are weighed by the score of
the expert that has their own number, as in llama.cpp. In its file none are shared; in one of our own two share one.

With recurrent state, layers' convolutions and scans are computed token by token, in float32. nemotron_h_moe's file is
that of a dense model; one of our own has experts, of a latent and without gates, and is compared with llama.cpp's
logits too, as are models of our own of all these architectures, in which two heads share one of keys. Blocks that draft
tokens (`nextn_predict_layers`) are programs of their own ([speculation.md](speculation.md)). Older files of qwen3next,
which have `ssm_in` instead of `attn_qkv` and `attn_gate`, are refused.

Where an indexer chooses what positions see (deepseek32, glm-dsa, minimax-m3), it is not computed: models compile for
contexts that are no longer than what it may choose (`attention.indexer.top_k`, of minimax-m3 so many blocks of
`attention.indexer.block_size`), where it chooses all.

Five mixtures are further off. One is minimax-01, at one seed of three: its layers multiply roundings a hundredfold, so
that the meaning itself with keys and values in float16 is 4e-04 off. In the others a choice of experts hangs on less
than rounding. In qwen3moe and qwen3vlmoe (of
the same weights) one token's second and third expert lie 3e-4 apart in one layer, and the host's keys and values in
float16 take the third. smallthinker's router reads the residual stream as it is, so that sigmoids of this file are all
1 in float32. ernie4_5-moe's file says that every second layer has experts, where it has their tensors and no others in
each: published files say every layer.

The generator does not write RWKV's (rwkv6, rwkv6qwen2, rwkv7, arwkv7), which are refused by name.

refact-moe is the generator's own: there is no such model, and llama.cpp's graph of refact leaves experts out.
"""

_WHY_HIDDEN = """
The generator's norms have weights of deviation 0.3 about 0. Where queries and keys have such norms (all of these but
gemma2, gemma3n, jais, kimi-linear and mpt), scores come out near a tenth, so that attention is nearly the mean of the
positions that are seen, wherever they are; gemma2 has them behind each branch, which weakens its part in the logits. In
kimi-linear one layer of six has state. gemma3n, whose file is ours, jais and mpt lie nearer to the bound.
"""


def table(verdicts: Mapping[str, Sequence[Verdict]]) -> str:
    """Return the page.

    Args:
        verdicts: by the name of a model, one a seed.
    """
    lines = [_HEAD.format(visible=VISIBLE, most=MOST)]
    agreeing = [name for name, found in verdicts.items() if all(_agrees(one) for one in found)]
    compiled = [name for name, found in verdicts.items() if all(not one.problem for one in found)]
    seeds = max(map(len, verdicts.values()))
    lines.append(
        f"Of {len(verdicts)} files {len(compiled)} compile; of those {len(agreeing)} are within {MOST:.0e} at "
        f"{seeds} seed{'s' * (seeds > 1)}.\n"
    )
    hidden = [name for name, found in verdicts.items() if 0 < _smallest(found)[0] < VISIBLE]
    lines.append(f"{len(hidden)} files hardly show one of the changes: {', '.join(hidden)}.{_WHY_HIDDEN}")
    columns = ("file", "meaning", *PROGRAMS, "itself", "least change")
    lines += [f"| {' | '.join(columns)} |", f"| {' | '.join('---' for _ in columns)} |"]
    lines += [_line(name, found) for name, found in verdicts.items() if not found[0].problem]
    lines += ["", "These do not compile yet:", "", "| why | files |", "| --- | --- |"]
    refused: dict[str, list[str]] = {}
    for name, found in verdicts.items():
        if found[0].problem:
            refused.setdefault(_why(found[0].problem), []).append(name)
    lines += [f"| {why} | {', '.join(names)} |" for why, names in refused.items()]
    lines += ["", *_without_files(verdicts)]
    return "\n".join(lines) + "\n"


def _without_files(names: Iterable[str]) -> Iterator[str]:
    """Yield a table of the architectures that compile, and of which the generator writes no file."""
    seen = {re.sub("-(dense|moe)$", "", name) for name in names}
    embeddings = (_ROOT / "docs/embeddings.md").read_text()
    yield "Of these, which compile too, the generator writes no file:"
    yield ""
    yield "| architecture | compared by |"
    yield "| --- | --- |"
    with np.load(_VECTORS) as vectors:
        for name in sorted(set(ARCHITECTURES) - seen):
            if name in vectors.files:
                found = f"a file of our own generator: meaning {_distance(name, vectors[name]):.0e}"
            elif f"\n| {name} |" in embeddings:
                found = "vectors of texts: [embeddings.md](embeddings.md)"
            else:
                found = "nothing yet"
            yield f"| {name} | {found} |"


def _distance(name: str, expected: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> float:
    """Return how far the meaning of our own model of an architecture is from llama.cpp's logits of it."""
    with tempfile.TemporaryDirectory() as folder:
        meaning = Meaning.of(write_architecture(Path(folder) / "model.gguf", name=name), len(VECTOR_IDS))
        return nmse(meaning.logits(VECTOR_IDS), expected.astype(np.float64))


def _why(problem: str) -> str:
    """Return what is wrong with a model, without what is of this model alone."""
    key, _, rest = problem.partition(": ")
    if key == "general.architecture":
        _, has, reason = rest.partition(" has ")
        return reason.removesuffix(", which is not supported") if has else "the architecture is not known"
    return "a mixture of experts" if key.endswith("expert_count") else f"{key}: {rest}"


def _agrees(one: Verdict) -> bool:
    """Return whether logits agree: those of the graph's meaning, and of all programs."""
    return one.meaning is not None and max((one.meaning, *(one.programs or {}).values())) <= MOST


def _line(name: str, found: Sequence[Verdict]) -> str:
    def largest(of: Callable[[Verdict], float | None]) -> str:
        values = [value for value in map(of, found) if value is not None]
        return f"{max(values):.0e}" if values else ""

    columns = [
        largest(lambda one: one.meaning) + "*" * any(one.stepwise and (one.own or 0) > MOST for one in found),
        *(largest(partial(_of_program, arch)) for arch in PROGRAMS),
        largest(lambda one: one.own),
        _least_change(found),
    ]
    return f"| {name} | {' | '.join(columns)} |"


def _of_program(arch: str, one: Verdict) -> float | None:
    return (one.programs or {}).get(arch)


def _least_change(found: Sequence[Verdict]) -> str:
    shift, name = _smallest(found)
    return f"{shift:.0e} ({name})" if name else ""


def _smallest(found: Sequence[Verdict]) -> tuple[float, str]:
    """Return the change that shows least, and what it is; (0, "") where none was made."""
    return min(((shift, name) for one in found for name, shift in (one.changes or {}).items()), default=(0.0, ""))
