"""How close a bundle on the host comes to the float32 reference, beside llama.cpp on the same file.

python -m rocmforge.tools.bench.accuracy BUNDLE GGUF [--peer $(tools/bench/build_peer)]
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from rocmforge.artifacts.bundle import open_bundle
from rocmforge.runtime.device.host import HostProgram, load_host_program
from rocmforge.runtime.device.solo import Solo
from rocmforge.runtime.engine.loading import load_tokenizer
from rocmforge.runtime.text.tokenizer import Tokenizer
from rocmforge.tests.oracles.reference import ReferenceModel
from rocmforge.tools.bench.peer import Peer

Logits = npt.NDArray[np.float32]
NUM_BLOCKS = 64
PROMPTS = (
    "The capital of France is",
    "Water boils at a temperature of",
    "The three laws of robotics are",
    "def fibonacci(n):\n",
    "In 1969, the first astronauts",
    "Photosynthesis is the process by which",
    "Once upon a time, in a small village,",
    "SELECT name FROM users WHERE",
    "The largest planet in the solar system",
    "To bake a simple loaf of bread, you",
    "Shakespeare wrote many plays, among them",
    "A prime number is",
    "The difference between TCP and UDP",
    "import numpy as np\n\ndef mean(values):",
    "Dear Sir or Madam,\n",
    "The Great Wall of China was",
    "Gravity is a force that",
    "List of fruits:\n- apple\n- ",
    "The speed of light in vacuum",
    "When the rain stopped, the children",
)


@dataclass(frozen=True, slots=True)
class Divergence:
    """Where greedy text leaves the reference's.

    Attributes:
        prompt: the text before.
        position: index of the generated token.
        chosen: the token taken instead of the reference's best.
        gap: by how much the reference prefers its own, in logits.
    """

    prompt: str
    position: int
    chosen: int
    gap: float


def program_logits(program: HostProgram, token_ids: list[int]) -> Logits:
    """float32[tokens, vocab_size] at every token of a prompt."""
    size = program.layout.max_sequences
    parts, solo = [], Solo(program.layout)
    for start in range(0, len(token_ids), size):
        ids = token_ids[start : start + size]
        program.step(solo.batch(ids, start, program.num_blocks, range(len(ids))))
        parts.append(program.logits(len(ids)))
    return np.concatenate(parts)


def _log_probabilities(logits: Logits) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    result: npt.NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return result


def kl_divergence(reference: Logits, found: Logits) -> npt.NDArray[np.float64]:
    """KL(reference || found) at each position, in nats."""
    expected, other = _log_probabilities(reference), _log_probabilities(found)
    result: npt.NDArray[np.float64] = (np.exp(expected) * (expected - other)).sum(axis=-1)
    return result


def first_divergence(
    reference: ReferenceModel, program: HostProgram, prompt: str, token_ids: list[int], count: int
) -> Divergence | None:
    """The first of `count` greedy tokens that is not the reference's, or None.

    Up to it both texts are equal, so one forward of the reference over ours gives its own choices.
    """
    ids = list(token_ids)
    for _ in range(count):
        ids.append(int(program_logits(program, ids)[-1].argmax()))
    logits = reference.forward(ids[:-1])[len(token_ids) - 1 :]
    for position, row in enumerate(logits):
        chosen = ids[len(token_ids) + position]
        if chosen != int(row.argmax()):
            return Divergence(prompt, position, chosen, float(row.max() - row[chosen]))
    return None


def _report_divergences(reference: ReferenceModel, program: HostProgram, tokenizer: Tokenizer, count: int) -> None:
    places = []
    for prompt in PROMPTS:
        place = first_divergence(reference, program, prompt, tokenizer.encode(prompt), count)
        if place is not None:
            places.append(place)
    click.echo(f"greedy text: {len(PROMPTS) - len(places)} of {len(PROMPTS)} prompts equal for {count} tokens")
    for place in places:
        click.echo(
            f"  {place.prompt!r}: leaves at token {place.position} for {tokenizer.decode([place.chosen])!r}, "
            f"{place.gap:.3f} logits below the reference's best"
        )


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--peer", type=click.Path(exists=True, path_type=Path), help="A Python that has llama_cpp.")
@click.option("--text", type=click.Path(exists=True, path_type=Path), help="Real text. [default: our LICENSE]")
@click.option("--positions", default=200, show_default=True)
@click.option("--first", default=0, show_default=True, help="The position from which on they count.")
@click.option("--tokens", default=32, show_default=True, help="Greedy tokens of each prompt.")
@click.option("--level", help="ISA level. [default: the best]")
def main(
    bundle: Path,
    model: Path,
    peer: Path | None,
    text: Path | None,
    positions: int,
    first: int,
    tokens: int,
    level: str | None,
) -> None:
    """Mean KL divergence to the float32 reference over real text, and where greedy text leaves it."""
    opened = open_bundle(bundle)
    tokenizer = load_tokenizer(opened)
    source = text or Path(__file__).parents[2] / "LICENSE"
    token_ids = tokenizer.encode(source.read_text("utf-8"))[:positions]
    reference = ReferenceModel(model)
    expected = reference.forward(token_ids)[first:]
    program = load_host_program(opened, NUM_BLOCKS, 2, level)
    found = {"rocmforge": program_logits(program, token_ids)}
    if peer:
        with Peer(peer, model, 2, logits_all=True) as other, tempfile.TemporaryDirectory() as scratch:
            found["llama.cpp"] = other.logits(token_ids, Path(scratch))
    for name, every in found.items():
        logits = every[first:]
        divergence = kl_divergence(expected, logits)
        rms = float(np.sqrt(np.mean((logits - expected) ** 2)))
        same = float(np.mean(logits.argmax(axis=-1) == expected.argmax(axis=-1)))
        click.echo(
            f"{name}: mean KL to float32 over {len(logits)} positions {divergence.mean():.5f} "
            f"(median {np.median(divergence):.5f}), logits {rms:.3f} rms away, best token equal at {same:.1%}"
        )
    _report_divergences(reference, program, tokenizer, tokens)
    program.close()


if __name__ == "__main__":
    main()
