"""Speed of speculative decoding by prompt lookup on texts to be edited, greedy, on the host.

    python -m rocmforge.tools.bench.speculation BUNDLE [--drafts 7] [--rounds 5]

Each round runs every prompt without and with drafts, one after the other, on one loaded model each. Prints the tokens a
second of both, the median of the rounds' ratios, and whether all outputs were equal (exit code 1 where they were not).
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from pathlib import Path

from ...artifacts.bundle import Bundle, open_bundle
from ...runtime.device.host import load_host_program
from ...runtime.engine.engine import Engine, EngineLimits
from ...runtime.engine.generation import GenerationRequest, SamplingParams
from ...runtime.engine.loading import load_chat_template, load_tokenizer
from ...runtime.telemetry.metrics import Metrics
from ...runtime.text.tokenizer import Tokenizer

CONTEXT = 2048
MAX_TOKENS = 256

_REPORT = """\
The harbour of Lindholm was built in 1874 to ship granite from the quarries behind the town. A railway of nine
kilometres brought the stone down to the quay, where two cranes lifted it into the ships. In 1931 the last quarry
closed, and the harbour stood empty until the ferry company rented the eastern quay. Today four ferries leave every
day, and in summer small boats from the whole coast lie where the granite once waited."""
_CODE = """\
class Account:
    def __init__(self, owner, balance):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        self.balance = self.balance + amount

    def withdraw(self, amount):
        if amount > self.balance:
            raise ValueError("balance is too small")
        self.balance = self.balance - amount"""

PROMPTS = {
    "report": f"Repeat this text exactly, but write Nordholm instead of Lindholm:\n\n{_REPORT}",
    "code": f"Repeat this code exactly, but rename balance to total:\n\n{_CODE}",
}
"""Edits of one word: what comes is what stands there, but for that word."""


class Contender:
    """A model of its own, with so many drafts."""

    def __init__(self, bundle: Bundle, tokenizer: Tokenizer, threads: int, draft_tokens: int) -> None:
        blocks = CONTEXT // bundle.layout.kv.block_size
        program = load_host_program(bundle, blocks, threads)
        self._limits = EngineLimits(draft_tokens=draft_tokens)
        self.engine = Engine(program, tokenizer, CONTEXT, Metrics(), limits=self._limits)
        self.engine.start()

    def run(self, prompt: tuple[int, ...]) -> tuple[str, float]:
        """The output, and its tokens a second after the first event."""
        generation = self.engine.submit(GenerationRequest(prompt, MAX_TOKENS, SamplingParams(temperature=0.0)))
        began, count = 0.0, 0
        for _ in generation.events():
            began = began or time.perf_counter()
            count += 1
        return generation.state().text, (count - 1) / (time.perf_counter() - began)


def measure(path: Path, draft_tokens: int, rounds: int, threads: int) -> bool:
    """Print what was measured; returns whether all outputs were equal."""
    equal = True
    with open_bundle(path) as bundle, contextlib.closing(load_chat_template(bundle)) as template:
        tokenizer = load_tokenizer(bundle)
        contenders = [Contender(bundle, tokenizer, threads, count) for count in (0, draft_tokens)]
        for name, prompt in PROMPTS.items():
            text = template.render([{"role": "user", "content": prompt}])
            ids = tuple(tokenizer.encode(text))
            results = [[one.run(ids) for one in contenders] for _ in range(rounds + 1)][1:]  # the first warms up
            same = len({output for one in results for output, _ in one}) == 1
            equal = equal and same
            plain, drafted = (statistics.median(one[side][1] for one in results) for side in (0, 1))
            ratio = statistics.median(one[1][1] / one[0][1] for one in results)
            print(
                f"{name}: {plain:.1f} tokens/s without, {drafted:.1f} with {draft_tokens} drafts: {ratio:.2f} times;"
                f" outputs {'equal' if same else 'DIFFER'}"
            )
        stats = contenders[1].engine.stats()
        print(f"of {stats.draft_tokens} drafts {stats.draft_tokens_accepted} were right")
        for one in contenders:
            one.engine.stop(5)
    return equal


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--drafts", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    sys.exit(0 if measure(options.bundle, options.drafts, options.rounds, options.threads) else 1)


if __name__ == "__main__":
    main()
