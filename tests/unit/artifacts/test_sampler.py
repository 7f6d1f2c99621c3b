"""Arguments of launches as texts, and the launch that draws tokens."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from rocmforge.artifacts.arguments import parse_argument
from rocmforge.artifacts.errors import BundleError, DeviceError
from rocmforge.artifacts.layout import BufferEntry, LaunchEntry, Sampler
from rocmforge.artifacts.layout_file import decode_layout, encode_layout
from rocmforge.tests.support.bundle import LAYOUT, LAYOUT_DATA

PATH = Path("model.rfb/layout.msgpack")


@pytest.mark.parametrize(
    "text", ["tensor:", "buffer:", "tensors:x", "kv:1", "kv:1000000:key", "kv:0:keys", "state:", "state:01", "no"]
)
def test_texts_that_are_no_argument(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        parse_argument(text)


SAMPLED = dataclasses.replace(
    LAYOUT, buffers=(*LAYOUT.buffers, BufferEntry("logits", "float32", 0, 256)), sampler=Sampler(1, "logits")
)


def test_the_sampler_is_kept_and_before_format_1_3_it_is_the_last_launch() -> None:
    assert decode_layout(PATH, encode_layout(SAMPLED), 2304) == SAMPLED
    assert SAMPLED.find_sampler() == Sampler(1, "logits")
    assert decode_layout(PATH, LAYOUT_DATA, 2304).find_sampler() == Sampler(1, "hidden")
    for launches in ((), LAYOUT.launches[:1], (LaunchEntry("a", ()),)):
        with pytest.raises(DeviceError, match="expected a last launch that reads logits, found none"):
            dataclasses.replace(LAYOUT, launches=launches).find_sampler()


@pytest.mark.parametrize(
    "sampler, problem",
    [
        (Sampler(2, "logits"), "sampler.launch: expected one of 2 launches, found 2"),
        (Sampler(-1, "logits"), f"sampler.launch: expected 0 to {2**63 - 1}, found -1"),
        (Sampler(1, "other"), "sampler.logits: expected a buffer of 256 float32, found 'other'"),
        (Sampler(1, "scratch"), "sampler.logits: expected a buffer of 256 float32, found 'scratch'"),
        (Sampler(1, ""), "sampler.logits: expected 1 to 512 characters, found 0"),
    ],
)
def test_a_sampler_that_is_not_there(sampler: Sampler, problem: str) -> None:
    with pytest.raises(BundleError) as caught:
        decode_layout(PATH, encode_layout(dataclasses.replace(SAMPLED, sampler=sampler)), 2304)
    assert str(caught.value) == f"{PATH}: {problem}"
    few = dataclasses.replace(SAMPLED, buffers=(*LAYOUT.buffers, BufferEntry("logits", "float32", 0, 255)))
    with pytest.raises(BundleError, match=r"sampler\.logits"):
        decode_layout(PATH, encode_layout(few), 2304)
