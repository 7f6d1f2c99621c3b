"""A draft model loaded beside the model that it drafts for, on the same device."""

from __future__ import annotations

from dataclasses import replace

from ...artifacts.bundle import Bundle
from ...artifacts.dataclass import dataclass
from ...artifacts.errors import UsageError, printable
from ..device.batch import Program, close_program
from ..device.hip.placement import WeightPlaces
from ..device.hip.program import HipProgram
from ..device.host import HostProgram
from ..device.load import DeviceOptions, Report, load_program
from ..device.memory import KvSize, available_memory, draft_slots
from ..device.parts import load_part
from ..text.tokenizer import Tokenizer
from .draft_head import DraftHead
from .draft_model import DraftModel
from .drafted_program import DraftedProgram
from .drafts import DraftPolicy


@dataclass(frozen=True, slots=True)
class _Loader:
    """Loads what drafts beside the program of a served model, as often as that is loaded.

    Attributes:
        bundle: open, that holds what drafts.
        policy: what chooses its drafts, however often it is loaded.
        prefill_tokens: of prompts, in a step in which others wait.
    """

    bundle: Bundle
    policy: DraftPolicy
    prefill_tokens: int


class DraftLoader(_Loader):
    """The loader of a draft model, from a bundle of its own."""

    __slots__ = ()

    def size(self, size: KvSize) -> KvSize:
        """What is asked for of the served model, with room left for the draft model."""
        layouts = tuple(self.bundle.layouts.values())
        slots = max(draft_slots(layout, available_memory()) for layout in layouts)
        return replace(size, beside=layouts, slots_beside=slots)

    def load(self, program: Program, device: DeviceOptions, size: KvSize, report: Report) -> DraftedProgram:
        """Load it on the device of the served model's program, which is closed where that fails.

        Args:
            program: of the served model.
            device: that was asked for.
            size: that the served model was loaded with.
            report: told what was chosen.

        Raises:
            DeviceError: the draft model's bundle has no code for that device, or memory does not suffice.
            BundleError: it does not compute what its golden record says.
        """
        try:
            tokens = program.num_blocks * program.layout.kv.block_size
            blocks = -(-tokens // min(layout.kv.block_size for layout in self.bundle.layouts.values()))
            own = KvSize(blocks, size.max_context, size.slots_beside or None)
            drafting = load_program(self.bundle, _same_device(device, program), own, report)
        except BaseException:
            close_program(program)
            raise
        model = DraftModel(drafting, self.policy, program.layout.vocab_size, self.prefill_tokens)
        return DraftedProgram(program, model, self.policy)


class HeadLoader(_Loader):
    """The loader of the block that a served model brings: the part of its bundle that the policy's source names."""

    __slots__ = ()

    def size(self, size: KvSize) -> KvSize:
        """See `DraftLoader`; weights that both have are counted once."""
        of_model = {target.arch: self.bundle.layout_of(target) for target in self.bundle.manifest.targets}
        part, beside = self.bundle.part(self.policy.source), []
        for target in part.manifest.targets:
            layout, shared = part.layout_of(target), {tensor.offset for tensor in of_model[target.arch].tensors}
            own = tuple(tensor for tensor in layout.tensors if tensor.offset not in shared)
            beside.append(replace(layout, tensors=own))
        return replace(size, beside=tuple(beside))

    def load(self, program: Program, device: DeviceOptions, size: KvSize, report: Report) -> DraftedProgram:
        """Load it beside the served model's program, which is closed where that fails; see `DraftLoader`."""
        drafting: Program | None = None
        try:
            block = self.bundle.part(self.policy.source).layout.kv.block_size
            blocks = -(-program.num_blocks * program.layout.kv.block_size // block)
            own = KvSize(blocks, size.max_context)
            emulated = device.parsed()[0] == "emulated" and device.graphs != "on"
            graphs = "off" if emulated else device.graphs
            drafting = load_part(self.bundle, self.policy.source, program, own, report, graphs)
            if isinstance(drafting, HipProgram):
                drafting.try_graphs()
        except BaseException:
            close_program(drafting)
            close_program(program)
            raise
        head = DraftHead(drafting, self.policy, program.layout.vocab_size, self.prefill_tokens)
        return DraftedProgram(program, head, self.policy)


def _same_device(asked: DeviceOptions, program: Program) -> DeviceOptions:
    """The device that a program was loaded on, and its threads; all weights of a draft model lie there."""
    asked = replace(asked, places=WeightPlaces(), state_slots=None)
    if isinstance(program, HostProgram):
        return replace(asked, device="host", threads=program.threads)
    if isinstance(program, HipProgram) and asked.parsed()[0] != "emulated":
        return replace(asked, device=f"hip:{program.device.index}")
    return asked


def check_kinds(served: Bundle, draft: Bundle) -> None:
    """Hold a served model and its draft model against what drafts are.

    Raises:
        UsageError: one of them generates no text.
    """
    for bundle in (served, draft):
        if bundle.layout.both_ways:
            raise UsageError(f"--draft: expected models that generate text, found {printable(str(bundle.path))}")


def check_tokens(tokenizer: Tokenizer, others: Tokenizer) -> None:
    """Hold the draft model's tokenizer against the served model's. One may have more tokens than the other.

    Raises:
        UsageError: a token has another text in one than in the other.
    """
    for token in range(min(tokenizer.config.vocab_size, others.config.vocab_size)):
        expected, found = tokenizer.token_bytes(token, False), others.token_bytes(token, False)
        if expected != found:
            texts = [printable(repr(text.decode("utf-8", "replace")), 60) for text in (expected, found)]
            which = f"a model of the same tokenizer, in which token {token} is {texts[0]}"
            raise UsageError(f"--draft: expected {which}, found {texts[1]}")
