"""A kernel's machine code to linked operations, and what each instruction is called and counted as."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache

from .decode import Decoder, Instruction
from .errors import UnknownInstruction
from .families import Family
from .library import Library
from .lower import Emitted, Lowering
from .lower_matrix import lower_matrix
from .lower_memory import lower_buffer, lower_flat, lower_lds
from .lower_scalar import lower_scalar, lower_scalar_memory
from .lower_vector import lower_vector
from .structures import Op, Operand

CLASSES = ("salu", "branch", "smem", "valu", "dot", "matrix", "vmem", "lds", "scratch")


@dataclass(frozen=True)
class Program:
    """Linked operations of a stretch of code.

    Attributes:
        ops: as native code runs them.
        names: instruction name of each operation.
        classes: index in `CLASSES` of each operation.
        op_of_word: operation index for each dword of the image, 0xFFFFFFFF where none starts.
    """

    ops: ctypes.Array[Op]
    names: list[str]
    classes: list[int]
    op_of_word: ctypes.Array[ctypes.c_uint32]


def class_of(instruction: Instruction) -> int:
    """Index in `CLASSES`. Dual issue counts once, as it issues."""
    name, kind = instruction.name, instruction.format
    if name.startswith(("v_wmma", "v_mfma", "v_smfmac", "v_swmmac")):
        found = "matrix"
    elif name.startswith("v_dot") or ":: v_dot" in name:
        found = "dot"
    elif kind.startswith("V"):
        found = "valu"
    elif kind == "SMEM":
        found = "smem"
    elif kind == "DS":
        found = "lds"
    elif kind == "SCRATCH":
        found = "scratch"
    elif kind in ("FLAT", "GLOBAL"):
        found = "vmem"
    elif "branch" in name or name in ("s_setpc_b64", "s_swappc_b64", "s_call_b64"):
        found = "branch"
    else:
        found = "salu"
    return CLASSES.index(found)


def _lower(lowering: Lowering, instruction: Instruction) -> None:
    if instruction.format == "SMEM":
        lower_scalar_memory(lowering, instruction)
    elif instruction.format.startswith("SOP"):
        lower_scalar(lowering, instruction)
    elif instruction.format == "DS":
        lower_lds(lowering, instruction)
    elif instruction.format in ("FLAT", "GLOBAL", "SCRATCH"):
        lower_flat(lowering, instruction)
    elif instruction.format == "MUBUF":
        lower_buffer(lowering, instruction)
    elif instruction.name.startswith(("v_wmma", "v_mfma", "v_smfmac", "v_swmmac")):
        lower_matrix(lowering, instruction)
    else:
        lower_vector(lowering, instruction)


def _fill(op: Op, emitted: Emitted, library: Library) -> None:
    op.handler = library.handlers[emitted.handler][0]
    for index, source in enumerate(emitted.sources):
        op.s[index] = source
    for index in range(len(emitted.sources), 3):
        op.s[index] = Operand()
    for name in ("dst", "dst2", "clamp", "omod", "dst_shift", "keep_high", "address", "first"):
        setattr(op, name, getattr(emitted, name))
    for index, value in enumerate(emitted.imm):
        op.imm[index] = value


@lru_cache(maxsize=256)  # a model has some 25 kernels; a program that is loaded again has the same
def translate(family: Family, library: Library, image: bytes, ranges: tuple[tuple[int, int], ...]) -> Program:
    """Decode and lower the code in `ranges` (byte offsets in the image, end excluded).

    Raises:
        UnknownInstruction: an instruction that the emulator does not have, by name.
    """
    decoder, lowering = Decoder(family, image), Lowering(family, library)
    starts: dict[int, int] = {}
    names: list[str] = []
    classes: list[int] = []
    for begin, end in ranges:
        address = begin
        while address < end:
            instruction = decoder.decode(address)
            starts[address] = len(lowering.ops)
            lowering.begin(address)
            _lower(lowering, instruction)
            added = len(lowering.ops) - len(names)
            names += [instruction.name] * added
            classes += [class_of(instruction)] * added
            address += instruction.size
        # Running off the end of a function is a fault, not the next function.
        lowering.begin(address)
        lowering.emit("s_trap", imm=[0xFFFF])
        names.append("end of code")
        classes.append(0)
    ops = (Op * len(lowering.ops))()
    for op, emitted in zip(ops, lowering.ops, strict=True):
        _fill(op, emitted, library)
        if emitted.target is not None:
            if emitted.target not in starts:
                raise UnknownInstruction(f"branch at {emitted.address:#x} to {emitted.target:#x}: not an instruction")
            op.imm[0] = starts[emitted.target]
    op_of_word = (ctypes.c_uint32 * (len(image) // 4 + 1))()
    ctypes.memset(op_of_word, 0xFF, ctypes.sizeof(op_of_word))
    for address, index in starts.items():
        op_of_word[address // 4] = index
    library.link(ops)
    return Program(ops, names, classes, op_of_word)
