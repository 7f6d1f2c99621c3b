"""Speed of speculative decoding by a draft model, or by a block that the model brings, on the host: with and without
it in turn, on one loaded model each.

    python -m rocmforge.tools.bench.draft_model big.rfb little.rfb --make [--layers 24] [--draft-layers 2]
    python -m rocmforge.tools.bench.draft_model big.rfb little.rfb --make --hybrid [--layers 24] [--draft-layers 4]
    python -m rocmforge.tools.bench.draft_model BUNDLE DRAFT_BUNDLE [--drafts 8] [--rounds 5] [--streams 1]
    python -m rocmforge.tools.bench.draft_model one.rfb --mtp [--make] [--layers 24]

`--make` writes and compiles a pair that agrees: random weights, where the layers of the big model after the first few
have output projections of zeros, and the little model is these first layers alone. So both compute the same logits to
the bit, and the big one takes all its layers' time for it. With `--hybrid` both have recurrent state, of Qwen3.5's
kind: three of four layers. With `--mtp` it is a hybrid (Qwen3.5's) of which only the
last layer with attention adds anything, and whose block (`nextn`) has that layer's weights: see `draft_models.agree`;
matrices are Q8_0, so that both agree but for their roundings. Greedy texts of random weights repeat themselves, so that
the text itself gives drafts too; drawn ones (temperature 1) do not. Prints the tokens a second of both, the median of
the rounds' ratios, the drafts by source, and whether all outputs were equal (exit code 1 where they were not).
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import gguf
import numpy as np

from ...artifacts.bundle import Bundle, open_bundle
from ...artifacts.cache_dir import default_cache_dir
from ...compiler.build_cache import BuildCache
from ...compiler.changes import Changes
from ...compiler.compile import compile_model
from ...compiler.model import CompileOptions
from ...compiler.progress import PlainProgress
from ...library.compilation import make_golden
from ...runtime.device.load import DeviceOptions
from ...runtime.engine.drafts import SOURCES
from ...runtime.engine.engine import EngineLimits
from ...runtime.engine.generation import GenerationRequest, SamplingParams, events_of
from ...runtime.engine.loading import EngineOptions, load_engine, load_tokenizer
from ...runtime.telemetry.metrics import Metrics
from ..generate.architecture_models import write_architecture
from ..generate.draft_models import agree, write_drafting
from ..generate.fixtures import write_model

CONTEXT: Final = 1024
PROMPT_TOKENS: Final = 64
MAX_TOKENS: Final = 256
SAMPLINGS: Final = {"greedy": SamplingParams(0.0), "drawn": SamplingParams(1.0, seed=1)}
_SIZES: Final = {
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_heads": 16,
    "num_kv_heads": 4,
    "head_dim": 64,
    "rope_dim": 16,
    "vocab_size": 8192,
}
_ZEROED: Final = ("attn_output.weight", "ffn_down.weight", "ssm_out.weight")


def write_pair(big: Path, little: Path, layers: int, draft_layers: int, **shape: int) -> None:
    """Write two GGUF files whose models give the same logits to the bit.

    Args:
        big: where the model of all layers goes, of which those after the first few add nothing.
        little: where the model of the first few goes.
        layers: of the big one.
        draft_layers: of the little one.
        shape: sizes, as `write_model` has them.
    """
    for path, count in ((big, layers), (little, draft_layers)):
        write_model(path, num_layers=count, **shape)  # type: ignore[arg-type]
    make_agree(big, little, draft_layers)


def write_hybrids(big: Path, little: Path, layers: int, draft_layers: int) -> None:
    """As `write_pair`, of Qwen3.5's kind and in float32."""
    keys = {"context_length": CONTEXT}
    for path, count in ((big, layers), (little, draft_layers)):
        write_architecture(path, "qwen35", num_layers=count, keys=keys, sizes=_SIZES)
    make_agree(big, little, draft_layers)


def make_agree(big: Path, little: Path, draft_layers: int) -> None:
    """Give the little model the tensors of the big one, whose layers after the little one's add nothing from now on."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(big, "r+").tensors}
    for tensor in gguf.GGUFReader(little, "r+").tensors:
        tensor.data[...] = tensors[tensor.name].data
    for name, tensor in tensors.items():
        _, _, rest = name.partition("blk.")
        number, _, role = rest.partition(".")
        if role in _ZEROED and int(number) >= draft_layers:
            tensor.data.view(np.uint8)[...] = 0  # of every type a block of zero bytes has the scale 0


def make_pair(big: Path, little: Path, layers: int, draft_layers: int, hybrid: bool = False) -> None:
    """Write and compile such a pair, of 170 MB at 24 layers; bundles that are there stay."""
    sources = big.with_suffix(".gguf"), little.with_suffix(".gguf")
    if big.exists() and little.exists():
        return
    if hybrid:
        write_hybrids(*sources, layers, draft_layers)
    else:
        shape = {"hidden_size": 1024, "intermediate_size": 2816, "num_heads": 16, "num_kv_heads": 4}
        write_pair(sources[0], sources[1], layers, draft_layers, **shape, vocab_size=8192, context_length=CONTEXT)
    changes = Changes(quantize="Q8_0") if hybrid else Changes()
    for source, goal in zip(sources, (big, little), strict=True):
        with PlainProgress() as progress:
            options = CompileOptions(source, goal, ("host",), changes=changes)
            compile_model(options, BuildCache(default_cache_dir()), progress, make_golden)


def make_drafting(goal: Path, layers: int) -> None:
    """Write and compile a model whose block agrees, of 250 MB at 24 layers; a bundle that is there stays."""
    if goal.exists():
        return
    source = goal.with_suffix(".gguf")
    agree(write_drafting(source, "qwen35", context=CONTEXT, layers=layers, sizes=_SIZES), sharpness=4)
    options = CompileOptions(source, goal, ("host",), changes=Changes(quantize="Q8_0"))
    with PlainProgress() as progress:
        compile_model(options, BuildCache(default_cache_dir()), progress, make_golden)


class Contender:
    """A model of its own, with a draft model or without, or with its own block."""

    def __init__(
        self, bundle: Bundle, draft: Bundle | None, threads: int, drafts: int, streams: int, mtp: bool = False
    ) -> None:
        self.metrics = Metrics()
        limits = EngineLimits(draft_tokens=drafts if mtp or draft is not None else 0, mtp=mtp)
        device = DeviceOptions("host", threads)
        context = min(CONTEXT, bundle.layout.max_seq_len)
        options = EngineOptions(device, context, streams * context, limits)
        self._engine = load_engine(bundle, options, load_tokenizer(bundle), self.metrics, draft=draft)
        self._vocab_size = bundle.layout.vocab_size
        self._streams = streams

    def __enter__(self) -> Self:
        self._engine.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._engine.stop(5)

    def run(self, sampling: SamplingParams) -> tuple[list[tuple[int, ...]], float]:
        """The outputs, and their tokens a second after the first event."""
        random = np.random.default_rng(7)
        requests = [
            GenerationRequest(
                tuple(random.integers(3, self._vocab_size, PROMPT_TOKENS).tolist()),
                MAX_TOKENS,
                sampling,
                ignore_eos=True,
                cache_space=str(time.monotonic_ns()),
            )
            for _ in range(self._streams)
        ]
        generations = self._engine.submit_all(requests)
        began, count = 0.0, 0
        for _ in events_of(generations):
            began = began or time.perf_counter()
            count += 1
        seconds = time.perf_counter() - began
        return [generation.state().tokens for generation in generations], (count - 1) / seconds

    def drafts(self) -> str:
        """Drafts that were right, of all, by their source."""
        lines = self.metrics.render(self._engine.stats()).decode().splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("rocmforge_drafts"))
        names = (f'_total{{source="{source}"}}' for source in SOURCES)
        counts = [
            (values[f"rocmforge_drafts_accepted{name}"], values[f"rocmforge_drafts_proposed{name}"]) for name in names
        ]
        return ", ".join(
            f"{right} of {made} by {source}" for (right, made), source in zip(counts, SOURCES, strict=True)
        )


def measure(bundle: Bundle, draft: Bundle | None, options: argparse.Namespace) -> bool:
    """Print what was measured; returns whether all outputs were equal."""
    equal, more = True, (options.threads, options.drafts, options.streams)
    with Contender(bundle, None, *more) as without, Contender(bundle, draft, *more, options.mtp) as beside:
        for name, sampling in SAMPLINGS.items():
            rounds = [(without.run(sampling), beside.run(sampling)) for _ in range(options.rounds + 1)][1:]
            same = all(plain[0] == drafted[0] for plain, drafted in rounds)
            equal = equal and same
            speeds = [statistics.median(one[side][1] for one in rounds) for side in (0, 1)]
            ratio = statistics.median(drafted[1] / plain[1] for plain, drafted in rounds)
            print(
                f"{name}: {speeds[0]:.1f} tokens/s without, {speeds[1]:.1f} with drafts: {ratio:.2f} times; "
                f"outputs {'equal' if same else 'DIFFER'}; so far {beside.drafts()} were right"
            )
    return equal


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("draft", type=Path, nargs="?")
    parser.add_argument("--mtp", action="store_true")
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--draft-layers", type=int, help="[default: 2; of hybrids 4]")
    parser.add_argument("--hybrid", action="store_true")
    parser.add_argument("--drafts", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    if options.mtp == (options.draft is not None):
        parser.error("expected a draft model's bundle, or --mtp")
    if options.make and options.mtp:
        make_drafting(options.bundle, options.layers)
    elif options.make:
        draft_layers = options.draft_layers or (4 if options.hybrid else 2)
        make_pair(options.bundle, options.draft, options.layers, draft_layers, options.hybrid)
    with contextlib.ExitStack() as stack:
        bundle = stack.enter_context(open_bundle(options.bundle))
        draft = None if options.draft is None else stack.enter_context(open_bundle(options.draft))
        sys.exit(0 if measure(bundle, draft, options) else 1)


if __name__ == "__main__":
    main()
