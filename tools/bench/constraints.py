"""Speed of constrained decoding with masks computed before each step, and beside the device's work, on the host.

    python -m rocmforge.tools.bench.constraints BUNDLE [--streams 8] [--rounds 9] [--threads 2]

Each round generates under the schemas of structured_output.py, so many streams at once, in both ways in turn.
Prints the tokens a second of both and the median of the rounds' ratios; exit code 1 where the outputs were not equal.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from pathlib import Path

from ...artifacts.bundle import Bundle, open_bundle
from ...runtime.device.host import load_host_program
from ...runtime.device.token_masks import MaskSource, PendingMask, TokenMasks
from ...runtime.engine.engine import Engine
from ...runtime.engine.generation import GenerationRequest, SamplingParams
from ...runtime.engine.loading import load_tokenizer
from ...runtime.telemetry.metrics import Metrics
from ...runtime.text.constraints import ConstraintCompiler, ConstraintSpec
from ...runtime.text.tokenizer import Tokenizer
from .structured_output import MAX_TOKENS, SCHEMAS

CONTEXT = 1024


class WaitingMasks(TokenMasks):
    """Masks that are there before the next step begins."""

    def begin(self, source: MaskSource) -> PendingMask:
        """See `TokenMasks.begin`."""
        mask = super().begin(source)
        mask.wait()
        return mask


class Contender:
    """A loaded model with one way to compute masks."""

    def __init__(
        self, bundle: Bundle, tokenizer: Tokenizer, masks: type[TokenMasks], threads: int, streams: int
    ) -> None:
        blocks = streams * CONTEXT // bundle.layout.kv.block_size
        self._tokenizer = tokenizer
        self._compiler = ConstraintCompiler(tokenizer)
        self.engine = Engine(load_host_program(bundle, blocks, threads), tokenizer, CONTEXT, Metrics())
        self.engine._requests.masks = masks(bundle.layout.vocab_size)
        self.engine.start()

    def run(self, first_seed: int, streams: int) -> tuple[list[tuple[int, ...]], float]:
        """The outputs' tokens, and how many a second that were."""
        requests = []
        for seed, name in zip(range(first_seed, first_seed + streams), itertools.cycle(SCHEMAS), strict=False):
            text = f"<|im_start|>user\nCall the tool {name}.<|im_end|>\n<|im_start|>assistant\n"
            matcher = self._compiler.compile(ConstraintSpec("json_schema", SCHEMAS[name], "schema"))
            sampling = SamplingParams(1.0, seed=seed)
            prompt = tuple(self._tokenizer.encode(text))
            requests.append(GenerationRequest(prompt, MAX_TOKENS, sampling, constraint=matcher))
        began = time.perf_counter()
        running = self.engine.submit_all(requests)
        left = streams
        while left:
            left -= running[0].inbox.get().finished
        seconds = time.perf_counter() - began
        outputs = [one.state().tokens for one in running]
        return outputs, sum(map(len, outputs)) / seconds


def measure(path: Path, streams: int, rounds: int, threads: int) -> bool:
    """Print what was measured; returns whether all outputs were equal."""
    with open_bundle(path) as bundle:
        tokenizer = load_tokenizer(bundle)
        ways = [Contender(bundle, tokenizer, masks, threads, streams) for masks in (WaitingMasks, TokenMasks)]
        results = []
        for index in range(rounds + 1):
            order = ways if index % 2 else ways[::-1]
            round_of = {way: way.run(index * streams, streams) for way in order}
            results.append([round_of[way] for way in ways])
        for way in ways:
            way.engine.stop(5)
    equal = all(before[0] == beside[0] for before, beside in results)
    results = results[1:]  # the first warms up
    before, beside = (statistics.median(one[side][1] for one in results) for side in (0, 1))
    ratios = sorted(one[1][1] / one[0][1] for one in results)
    print(
        f"masks before the step: {before:.1f} tokens/s, beside it: {beside:.1f}: {statistics.median(ratios):.2f} times"
        f" ({ratios[0]:.2f} to {ratios[-1]:.2f}); outputs {'equal' if equal else 'DIFFER'}"
    )
    return equal


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    sys.exit(0 if measure(options.bundle, options.streams, options.rounds, options.threads) else 1)


if __name__ == "__main__":
    main()
