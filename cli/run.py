"""Commands that run a bundle here: `rfc run`, `rfc verify`, `rfc profile`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..artifacts.errors import UsageError
from .compile import compiled
from .options import CACHE_DIR, MAX_CONTEXT, NumberRange, on_device, say
from .registry import fetched
from .signing import trust_options

if TYPE_CHECKING:
    from ..artifacts.bundle import Bundle
    from ..runtime.device.load import DeviceOptions


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("prompt", required=False)
@click.option("-n", "--max-tokens", type=click.IntRange(1), default=256, show_default=True)
@click.option("--temperature", type=NumberRange(0, 2), default=0.7, show_default=True, help="0: most likely.")
@click.option("--top-k", type=click.IntRange(0), default=50, show_default=True, help="0: off.")
@click.option("--top-p", type=NumberRange(0, 1), default=0.9, show_default=True)
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="For the same text again.")
@click.option("--adapter", "adapters", multiple=True, metavar="NAME[:SCALE]", help="Of the bundle's; may be several.")
@click.option(
    "--draft",
    type=click.Path(path_type=Path),
    help="Bundle or GGUF of a small model of the same tokenizer that guesses next tokens: faster, and none changes.",
)
@click.option("--image", "images", multiple=True, type=click.Path(path_type=Path), help="Before PROMPT.")
@MAX_CONTEXT
@on_device
@CACHE_DIR
def run(
    bundle: Path,
    prompt: str | None,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    seed: int | None,
    adapters: tuple[str, ...],
    draft: Path | None,
    images: tuple[Path, ...],
    max_context: int | None,
    device: DeviceOptions,
    cache_dir: Path | None,
) -> None:
    """Continue PROMPT with a BUNDLE; without one, chat."""
    from ..runtime.engine.generation import SamplingParams
    from ..runtime.terminal import RunOptions, read_adapter, run_bundle

    sampling = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    path = compiled(bundle, cache_dir, max_context)
    chosen = dict(map(read_adapter, adapters))
    drafting = None if draft is None else compiled(draft, cache_dir, max_context)
    if images and prompt is None:
        raise UsageError("--image: expected a PROMPT beside it, found none")
    run_bundle(RunOptions(path, prompt, max_tokens, sampling, device, max_context, chosen, drafting, images))


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@trust_options
@on_device
def verify(bundle: Path, device: DeviceOptions, check: Callable[[Bundle], None] | None) -> None:
    """Check every digest of a BUNDLE, and its signature where a key is given, and replay its golden records here."""
    from ..runtime.verify import verify as verify_bundle

    verify_bundle(fetched(bundle), device, click.echo, check)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("prompt")
@click.option("-n", "--max-tokens", type=click.IntRange(1), default=32, show_default=True)
@click.option("--device", default="hip", show_default=True, help="hip or hip:INDEX.")
def profile(bundle: Path, prompt: str, max_tokens: int, device: str) -> None:
    """Continue PROMPT with a BUNDLE under AMD's profiler: time and bytes by kernel.

    It needs rocprofv3 or rocprof. The step that checks the model when it is loaded is in the figures.
    """
    from ..runtime.gpu_profile import ProfileOptions, format_profile
    from ..runtime.gpu_profile import profile as profile_bundle

    for line in format_profile(profile_bundle(ProfileOptions(bundle, prompt, max_tokens, device), say)):
        click.echo(line)
