"""The bundle of a GGUF that is served directly: compiled once, kept beside the build cache."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from .. import __version__
from ..artifacts.bundle import check_replaceable, open_bundle
from ..artifacts.errors import BundleError, InputError, RocmforgeError, printable
from .build_cache import BuildCache, cache_key
from .chat_template import TemplateCheck
from .compile import compile_model
from .golden import GoldenMaker
from .hugging_face.folder import is_folder
from .model import CompileOptions
from .progress import choose_progress
from .sources import source_files


def cached_bundle(
    options: CompileOptions,
    root: Path,
    say: Callable[[str], None],
    make_golden: GoldenMaker,
    check_template: TemplateCheck,
) -> Path:
    """Return the bundle of `options.model` in the cache, compiled now unless a sound one is there.

    Args:
        options: how to compile; `goal` is chosen here.
        root: folder of the cache.
        say: told in a line what is done.
        make_golden: as `compile_model` has it.
        check_template: as `compile_model` has it.

    Raises:
        RocmforgeError: the model cannot be compiled, or the cache not be written.
    """
    model = options.model
    identity = _identity(model)
    files = [options.tokenizer, options.chat_template, *options.changes.files()]
    files += [one for one in (options.mmproj, options.draft_head) if one is not None]
    changed: list[object] = [options.changes.quantize, *(lora.scale for lora in options.changes.loras)]
    changed += [[one.name, one.file.scale] for one in options.changes.adapters]
    decided = [options.archs, options.max_context, options.toolchain, options.kv_dtype, options.tuning.to_json()]
    decided += [] if options.drafts else ["no-mtp"]
    chosen = json.dumps([*decided, *changed, *(_identity_of_file(path) if path else () for path in files)])
    goal = root / "bundles" / f"{cache_key(*identity, chosen, __version__)[:32]}.rfb"
    if os.path.lexists(goal):
        problem = _problem_of(goal)
        if problem is None:
            say(f"{printable(model)}: using its bundle {printable(goal)}")
            return goal
        say(f"its bundle in the cache is damaged, and made anew: {problem}")
        _make_room(goal, say)
    say(f"{printable(model)} is not a bundle: compiling it to {printable(goal)}")
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RocmforgeError(f"cannot write {printable(goal.parent)}: {error.strerror}; see --cache-dir") from None
    with choose_progress(False) as progress:
        compile_model(replace(options, goal=goal), BuildCache(root), progress, make_golden, check_template)
    return goal


def _identity(path: Path) -> tuple[str, ...]:
    """Return what tells this model, as its files are now, from others.

    Raises:
        InputError: it is neither a GGUF file nor a folder of Hugging Face's.
    """
    identity = _identity_of_file(path)
    magic = b""
    if path.is_file():  # opening a FIFO would wait for a writer
        try:
            with path.open("rb") as file:
                magic = file.read(4)
        except OSError as error:
            raise _missing(path, error) from None
    if magic != b"GGUF" and not is_folder(path):
        raise InputError(path, "file", "expected a bundle or a GGUF file, found neither")
    others = (other for other in source_files(path) if other != path)
    return identity + tuple(text for other in others for text in _identity_of_file(other))


def _identity_of_file(path: Path) -> tuple[str, ...]:
    try:
        status = path.stat()
        return str(path.resolve()), str(status.st_size), str(status.st_mtime_ns)
    except OSError as error:
        raise _missing(path, error) from None


def _missing(path: Path, error: OSError) -> InputError:
    return InputError(path, "file", f"expected a bundle or a GGUF file, found: {error.strerror}")


def _problem_of(bundle: Path) -> str | None:
    try:
        open_bundle(bundle).close()
    except BundleError as error:
        return str(error)
    return None


def _make_room(goal: Path, say: Callable[[str], None]) -> None:
    """Leave a damaged bundle to be replaced as any is; move aside, and do not remove, what may be more than one."""
    try:
        check_replaceable(goal)
    except BundleError:
        aside = goal.with_name(f"{goal.name}.{secrets.token_hex(8)}.damaged")
        with contextlib.suppress(OSError):  # where it cannot be moved, the compiler says that it is in the way
            os.rename(goal, aside)
            say(f"what may be more than a bundle was moved aside: {printable(aside)}")
