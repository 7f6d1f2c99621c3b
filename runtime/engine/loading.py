"""An open bundle's tokenizer and chat template, and an engine that runs its model."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...artifacts.bundle import Bundle
from ...artifacts.dataclass import dataclass
from ...artifacts.errors import BundleError, UsageError, printable
from ...artifacts.manifest import RERANK_TEMPLATE
from ...artifacts.merge_table import MERGES_NAME
from ...artifacts.tokenizer_config import TokenizerConfig
from ..device.batch import Program
from ..device.load import DeviceOptions, Report, load_program
from ..device.memory import KvSize
from ..text.chat import ChatTemplate
from ..text.token_models.looked_up import looked_up
from ..text.token_models.model import TokenModel
from ..text.tokenizer import Tokenizer
from .drafts import DEFAULT_DRAFTS, EAGLE, MTP, DraftPolicy
from .engine import Engine, EngineLimits
from .lifecycle import EngineMetrics, Observer

if TYPE_CHECKING:
    from ..device.head import EmbeddingHead
    from .draft_loading import DraftLoader, HeadLoader

# ruff: noqa: PLC0415 - what a bundle may lack, and has to be read for it, is imported where it has it: 8 ms of a start

log = logging.getLogger(__name__)

_TOKENIZER_NAME: Final = "tokenizer.json"
_TEMPLATE_NAME: Final = "chat_template.jinja"


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What to run an engine on, and how large. `max_context` and `kv_tokens` None: from the bundle and the device."""

    device: DeviceOptions
    max_context: int | None = None
    kv_tokens: int | None = None
    limits: EngineLimits = field(default_factory=EngineLimits)


def tokenizer_config(bundle: Bundle) -> TokenizerConfig:
    """The bundle's special tokens."""
    return TokenizerConfig.from_json(bundle.path, bundle.manifest.tokenizer)


def load_tokenizer(bundle: Bundle, at_once: bool = False) -> Tokenizer:
    """The bundle's tokenizer; `at_once`: ready sooner where the bundle has tables for it, and slower for many texts.

    Raises:
        BundleError: the bundle's files are no tokenizer, which such a one may find out only when it has more to do.
    """
    config = tokenizer_config(bundle)
    size = config.vocab_size
    if not at_once or MERGES_NAME not in bundle.manifest.files:
        return Tokenizer(_token_model(bundle.path, bundle.read(_TOKENIZER_NAME), size), config)
    path, data, read = bundle.path, bundle.read(MERGES_NAME), bundle.reader(_TOKENIZER_NAME)
    return Tokenizer(looked_up(path / MERGES_NAME, data, size, lambda: _token_model(path, read(), size)), config)


def _token_model(path: Path, data: bytes, size: int) -> TokenModel:
    from ..text.token_models.choice import token_model

    try:
        return token_model(data.decode(), size)
    except ValueError as error:
        raise BundleError(path, _TOKENIZER_NAME, str(error)) from None


def load_chat_template(bundle: Bundle) -> ChatTemplate:
    """The bundle's chat template, or ChatML."""
    config = tokenizer_config(bundle)
    return ChatTemplate(template_source(bundle), config.bos_token, config.eos_token)


def template_source(bundle: Bundle) -> str | None:
    """The bundle's chat template, unparsed.

    Raises:
        BundleError: it is no text.
    """
    if _TEMPLATE_NAME not in bundle.manifest.files:
        return None
    try:
        return bundle.read(_TEMPLATE_NAME).decode()
    except UnicodeDecodeError as error:
        raise BundleError(bundle.path, _TEMPLATE_NAME, f"expected UTF-8, found {printable(error)}") from error


def rerank_template(bundle: Bundle) -> str | None:
    """How the bundle's model reads a query and a document, where it says so; see `rerank_ids`."""
    template = bundle.manifest.model.metadata.get(RERANK_TEMPLATE)
    return template if isinstance(template, str) else None


def kv_size(bundle: Bundle, options: EngineOptions) -> KvSize:
    """How large a KV cache is asked for, and the longest context.

    Raises:
        UsageError: the context asked for is longer than the bundle's.
    """
    layout = bundle.layout
    max_context = options.max_context or layout.max_seq_len
    if max_context > layout.max_seq_len:
        raise UsageError(f"--max-context: expected at most {layout.max_seq_len} (the bundle's), found {max_context}")
    blocks = None if options.kv_tokens is None else -(-options.kv_tokens // layout.kv.block_size)
    return KvSize(blocks, max_context, options.device.state_slots)


def draft_loader(
    bundle: Bundle, tokenizer: Tokenizer, draft: Bundle | None, limits: EngineLimits
) -> DraftLoader | HeadLoader | None:
    """What loads a draft model beside a bundle's, or the block that it brings; None where there is neither.

    Raises:
        UsageError: it cannot draft for the bundle's model.
    """
    if draft is None and not has_head(bundle, limits):
        return None
    from .draft_loading import DraftLoader, HeadLoader, check_kinds, check_tokens

    if draft is None:
        part = EAGLE if EAGLE in bundle.manifest.parts else MTP
        return HeadLoader(bundle, DraftPolicy(part, limits.draft_tokens, part), limits.prefill_tokens)
    check_kinds(bundle, draft)
    if bundle.manifest.files[_TOKENIZER_NAME] != draft.manifest.files[_TOKENIZER_NAME]:
        check_tokens(tokenizer, load_tokenizer(draft))
    name = Path(os.path.abspath(draft.path)).stem
    return DraftLoader(draft, DraftPolicy(name, limits.draft_tokens), limits.prefill_tokens)


def has_head(bundle: Bundle, limits: EngineLimits) -> bool:
    """Whether the block that a bundle's model brings is to draft for it."""
    return limits.mtp and not bundle.manifest.parts.keys().isdisjoint((EAGLE, MTP))


def draft_limits(limits: EngineLimits, bundle: Bundle, draft: Bundle | None) -> EngineLimits:
    """The same limits; a draft model has drafts made, or the model's own block, however few were asked for."""
    if limits.draft_tokens or (draft is None and not has_head(bundle, limits)):
        return limits
    return replace(limits, draft_tokens=DEFAULT_DRAFTS)


def chosen_device(asked: str, runtime: str) -> str:
    """What to ask for the next time: a GPU that is lost is waited for, not replaced by the CPU.

    Args:
        asked: the first time.
        runtime: that of the GPU which was chosen; empty where none was. See `DeviceFacts`.
    """
    if asked != "auto":
        return asked
    return "hip" if runtime else "host"


def load_engine(
    bundle: Bundle,
    options: EngineOptions,
    tokenizer: Tokenizer,
    metrics: EngineMetrics,
    report: Report = log.info,
    observer: Observer | None = None,
    request_ids: Iterator[int] | None = None,
    draft: Bundle | None = None,
    make_program: Callable[[], Program] | None = None,
) -> Engine:
    """An engine, not yet started, with the bundle's program on its device, and beside it that of a draft model.

    Args:
        bundle, options, draft: what to run, on what, and the draft model.
        tokenizer, metrics, observer, request_ids: see `Engine`.
        report: told what loading comes to.
        make_program: another program, after the device failed; None: the same are loaded again.

    Raises:
        UsageError: the context asked for is longer than the bundle's, or the draft model cannot draft for it.
        DeviceError: the device is unavailable, or its memory does not suffice; nothing was allocated then.
    """
    limits = draft_limits(options.limits, bundle, draft)
    drafts, size = draft_loader(bundle, tokenizer, draft, limits), kv_size(bundle, options)
    if drafts is not None:
        size = drafts.size(size)
    eyes = None
    if bundle.manifest.parts:
        from .eyes import eyes_loader

        eyes = eyes_loader(bundle)
    if eyes is not None:
        size = eyes.size(size)

    def load(device: DeviceOptions) -> tuple[Program, DeviceOptions]:
        with contextlib.ExitStack() as seen:
            if eyes is not None:
                eyes.encoder.close()
            program = load_program(bundle, device, size, report)
            if eyes is not None:
                eyes.load(program, report)
                seen.callback(eyes.encoder.close)
            device = replace(device, device=chosen_device(device.device, program.facts().runtime))
            if drafts is not None:
                program = drafts.load(program, device, size, report)
            seen.pop_all()
        return program, device

    head = embedding_head(bundle)
    program, device = load(options.device)
    return Engine(
        program,
        tokenizer,
        size.max_context,
        metrics,
        limits=limits,
        make_program=make_program or (lambda: load(device)[0]),
        observer=observer,
        request_ids=request_ids,
        head=head,
        policy=None if drafts is None else drafts.policy,
        encoder=None if eyes is None else eyes.encoder,
    )


def embedding_head(bundle: Bundle) -> EmbeddingHead | None:
    """Return the head of the bundle's model; None where it has none. All targets have the same."""
    if bundle.layout.head is None:
        return None
    from ..device.head import EmbeddingHead

    with bundle.map_weights() as weights:
        return EmbeddingHead(bundle.layout.head, bundle.layout, weights)
