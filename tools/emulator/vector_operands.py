"""Operands of the vector ALU: registers and constants with their halves, signs and magnitudes."""

from __future__ import annotations

from .decode import VCC, Instruction
from .lower import HALF_TYPES, Lowering
from .structures import Operand


def modifiers(instruction: Instruction) -> tuple[int, int]:
    """abs and neg bits, from the VOP3 fields or the DPP or SDWA word."""
    where = instruction.extra if "neg" in instruction.extra else instruction.fields
    return where.get("abs", 0), where.get("neg", 0)


def is_short(instruction: Instruction) -> bool:
    """Whether it is of a form of 32 bits."""
    return instruction.format in ("VOP1", "VOP2", "VOPC")


def _half_of(instruction: Instruction, code: int, index: int) -> tuple[int, int]:
    """Register code and bit shift of a 16-bit source: short forms use the register number's bit 7, VOP3 op_sel."""
    if is_short(instruction):
        # The 16-bit forms reach v0 to v127; a higher number is the high half (LLVM: "true16").
        return (code - 128, 16) if code >= 256 + 128 else (code, 0)
    return code, 16 if instruction.fields.get("opsel", 0) >> index & 1 else 0


def operand_of(lowering: Lowering, instruction: Instruction, code: int, kind: str, index: int) -> Operand:
    """Source operand number `index` with its modifiers."""
    shift = 0
    if kind in HALF_TYPES and lowering.rdna:
        code, shift = _half_of(instruction, code, index)
    elif kind in HALF_TYPES and not is_short(instruction):
        shift = 16 if instruction.fields.get("opsel", 0) >> index & 1 else 0
    operand = lowering.source(instruction, code, kind)
    operand.shift = shift
    absolute, negate = modifiers(instruction)
    return lowering.modify(operand, kind, absolute >> index & 1, negate >> index & 1)


def packed_operand(lowering: Lowering, instruction: Instruction, code: int, kind: str, index: int) -> Operand:
    """A source of a packed operation: op_sel chooses a half for the low result, op_sel_hi one for the high."""
    fields = instruction.fields
    operand = lowering.source(instruction, code, "pk f16" if kind in ("f16", "pk") else "pk")
    if instruction.format == "VOP2":
        operand.shift_high = 16
        return operand
    operand.shift = 16 if fields["opsel"] >> index & 1 else 0
    # Two-operand dots in VOP3 (not packed) have no op_sel_hi: their sources are whole words.
    high = fields["opsel_hi"] >> index & 1 if "opsel_hi" in fields else 1
    operand.shift_high = 16 if high else 0
    negate_high = fields.get("neg_hi", fields["neg"])
    operand.xor_mask = (fields["neg"] >> index & 1) << 15 | (negate_high >> index & 1) << 31
    return operand


def codes_of(instruction: Instruction) -> list[int]:
    """Of its sources, in order."""
    return [instruction.fields[key] for key in ("src0", "src1", "src2") if key in instruction.fields]


def destination_shift(instruction: Instruction) -> int:
    """Where a 16-bit result goes in its register: bit 0 or 16."""
    if is_short(instruction):
        return 16 if instruction.fields["vdst"] >= 128 else 0
    return 16 if instruction.fields.get("opsel", 0) & 8 else 0


def _destination_as_source(lowering: Lowering, instruction: Instruction, kind: str, packed: bool) -> Operand:
    row = instruction.fields["vdst"]
    operand = lowering.row(row)
    if packed:
        operand.shift_high = 16
    elif kind in HALF_TYPES and lowering.rdna:
        operand.shift = destination_shift(instruction)
        operand.index = row & 127 if is_short(instruction) else row
    return operand


def _source(lowering: Lowering, instruction: Instruction, code: int, kind: str, index: int, packed: bool) -> Operand:
    make = packed_operand if packed or kind == "pk" else operand_of
    return make(lowering, instruction, code, kind, index)


def sources_of(
    lowering: Lowering, instruction: Instruction, types: tuple[str, ...], order: str, packed: bool
) -> list[Operand]:
    """All source operands, in the order of the handler: 0, 1, the destination `d` or the literal `k`."""
    codes = codes_of(instruction)
    if order:
        literal = lowering.constant(instruction.literal or 0)
        result = []
        for position, where in enumerate(order):
            if where == "k":
                result.append(literal)
            elif where == "d":
                result.append(_destination_as_source(lowering, instruction, types[0], packed))
            else:
                kind = types[position + 1]
                result.append(_source(lowering, instruction, codes[int(where)], kind, int(where), packed))
        return result
    result = []
    for index, kind in enumerate(types[1:]):
        if index >= len(codes):
            # Short forms of three-source operations read VCC; packed ones ignore what they do not use.
            result.append(lowering.scalar(VCC) if kind == "mask" else lowering.constant(0))
        else:
            result.append(_source(lowering, instruction, codes[index], kind, index, packed))
    return result
