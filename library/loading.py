"""A bundle loaded on a device."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
from typing import TYPE_CHECKING, cast

from ..artifacts.bundle import Bundle, open_bundle
from ..artifacts.merge_table import MERGES_NAME
from ..runtime.device.load import DeviceOptions, Report
from ..runtime.engine.engine import EngineLimits
from ..runtime.engine.lifecycle import EngineMetrics, NoMetrics
from ..runtime.engine.loading import EngineOptions, load_chat_template, load_engine, load_tokenizer, rerank_template
from .checks import check_count, check_option, checked_path
from .model import Model

if TYPE_CHECKING:
    from ..artifacts.vision import Vision

log = logging.getLogger(__name__)

# A program waits for what it asked for, however long the list.
LIMITS = EngineLimits(max_queue=sys.maxsize, queue_seconds=math.inf)


def load(
    bundle: str | os.PathLike[str],
    *,
    device: str | DeviceOptions = "auto",
    threads: int | None = None,
    max_context: int | None = None,
    contexts: int | None = None,
    limits: EngineLimits = LIMITS,
    report: Report = log.info,
    draft: str | os.PathLike[str] | None = None,
) -> Model:
    """Load a bundle, as `compile` makes it, on a device.

    Args:
        bundle: its path.
        device: `auto` (a GPU that it has code for, else the CPU), `host`, `hip` or `hip:INDEX`; or all there is to say.
        threads: of the CPU; None: as many as are fastest here.
        max_context: most tokens of a sequence; None: as it was compiled.
        contexts: sequences of that length that the KV cache holds at once; None: as many as there is room for, and use.
        limits: of queue and steps; `draft_tokens` has tokens guessed that the model then checks, several in a step.
        report: told in a line what was chosen, and what was passed over.
        draft: bundle of a small model of the same tokenizer, loaded beside it on the same device: it guesses tokens for
            the model to check; `draft_tokens` of `limits` at most, 8 where that is 0.

    Raises:
        BundleError: it is no bundle, or a damaged one.
        DeviceError: there is no such device, or not enough memory.
        UsageError: `device` is none of the forms, a number is none of at least 1, another option is not of its type,
            `max_context` is more than it was compiled for, or the draft model has another tokenizer.
    """
    for name, count in (("threads", threads), ("max_context", max_context), ("contexts", contexts)):
        check_count(name, count)
    check_option("device", device, isinstance(device, str | DeviceOptions), "a name such as auto, host or hip")
    check_option("limits", limits, isinstance(limits, EngineLimits), "EngineLimits")
    check_option("report", report, callable(report), "a function of a text")
    place, draft_place = checked_path("bundle", bundle), None if draft is None else checked_path("draft", draft)
    if isinstance(device, str):
        device = DeviceOptions(device, threads)
    with contextlib.ExitStack() as opened:
        opening = opened.enter_context(open_bundle(place, keep=(MERGES_NAME,)))
        template = opened.enter_context(contextlib.closing(load_chat_template(opening)))
        tokenizer = load_tokenizer(opening, at_once=True)
        length = max_context or opening.layout.max_seq_len
        options = EngineOptions(device, max_context, None if contexts is None else contexts * length, limits)
        drafting = None if draft_place is None else opened.enter_context(open_bundle(draft_place))
        engine = load_engine(opening, options, tokenizer, cast(EngineMetrics, NoMetrics()), report, draft=drafting)
        opened.callback(engine.stop, 0.0)
        engine.start()
        return Model(engine, tokenizer, template, opened.pop_all(), rerank_template(opening), _vision_of(opening))


def _vision_of(bundle: Bundle) -> Vision | None:
    """What is to be known of the eyes of a bundle's model; None where it has none."""
    if not bundle.manifest.parts:
        return None
    from ..artifacts.vision import VISION_PART  # noqa: PLC0415 - few models see
    from ..runtime.pictures.encode import vision_of  # noqa: PLC0415

    return vision_of(bundle) if VISION_PART in bundle.manifest.parts else None
