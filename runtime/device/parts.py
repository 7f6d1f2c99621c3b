"""Parts of a bundle: programs beside the main one, on its device, that share its tensors where they are the same."""

from __future__ import annotations

import logging

from ...artifacts.bundle import Bundle
from ...artifacts.errors import DeviceError
from ...artifacts.layout import Layout
from .batch import Program
from .hip.open_program import open_program
from .hip.program import HipProgram
from .hip.select import bundle_arches, code_for
from .host import HostProgram, choose_variant, load_host_program
from .load import Report
from .memory import KvSize, available_memory, check_memory, host_state_slots

log = logging.getLogger(__name__)


def load_part(
    bundle: Bundle,
    name: str,
    beside: Program,
    size: KvSize | None = None,
    report: Report = log.info,
    graphs: str = "off",
) -> Program:
    """Load a part of an open bundle on the device of the bundle's program, which has to be closed after it.

    Where weights are asked to be is asked of the model's own layers: a part's lie on the GPU, as far as there is room.

    Args:
        bundle: open.
        name: of the part.
        beside: the bundle's program, as `load_program` returned it.
        size: of its KV cache; None: one whole step.
        report: told what was chosen.
        graphs: of a GPU, one of `artifacts.hip.GRAPH_MODES`; none is tried here.

    Raises:
        BundleError: the bundle has no such part.
        DeviceError: the part has no code for the device, or memory is unavailable.
    """
    part = bundle.part(name)
    if isinstance(beside, HostProgram):
        layout, available = part.layout_of(choose_variant(part.manifest.targets)), available_memory()
        kv = size or whole_step(layout)
        blocks, slots = kv.blocks or 0, host_state_slots(layout, kv.state_slots, available)
        check_memory(layout, blocks, available, slots, kv)
        return load_host_program(part, blocks, beside.threads, None, slots)
    assert isinstance(beside, HipProgram)
    target = code_for(beside.device.arch, part.manifest.targets)
    if target is None:
        have = bundle_arches(part.manifest.targets)
        raise DeviceError(f"{beside.device}: part {name} has no code for {beside.device.arch}; it has code for {have}")
    kv = size or whole_step(part.layout_of(target))
    where = part, beside.api, beside.device, target
    return open_program(*where, kv, report, graphs=graphs, beside=beside)


def whole_step(layout: Layout) -> KvSize:
    """Return a KV cache that takes one step of as many tokens as a step can have, and no more."""
    return KvSize(-(-layout.max_batch_tokens // layout.kv.block_size), layout.max_batch_tokens)
