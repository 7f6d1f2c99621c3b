"""Lowering of WMMA (RDNA3, RDNA4) and MFMA (CDNA3)."""

from __future__ import annotations

import re

from .decode import Instruction
from .lower import ROW_ACC, Lowering
from .structures import Kind

# Element types of native/matrix.c.
_F16, _BF16, _F32, _F64, _I8, _U8, _I4, _U4, _I32, _FP8, _BF8 = range(11)
_TYPES = {"f16": _F16, "bf16": _BF16, "f32": _F32, "f64": _F64, "i32": _I32, "fp8": _FP8, "bf8": _BF8}


def lower_matrix(lowering: Lowering, instruction: Instruction) -> None:
    """Lower a matrix instruction.

    Raises:
        UnknownInstruction: a shape, type or modifier that the emulator does not have.
    """
    if instruction.name.startswith("v_wmma_"):
        _lower_wmma(lowering, instruction)
    else:
        _lower_mfma(lowering, instruction)


def _lower_wmma(lowering: Lowering, instruction: Instruction) -> None:
    match = re.fullmatch(r"v_wmma_(f32|f16|bf16|i32)_16x16x(\d+)_(\w+)", instruction.name)
    if not match:
        raise lowering.refuse(instruction, "the emulator has no such operation")
    out, depth, inputs = match.groups()
    fields = instruction.fields
    generation = 11 if lowering.family.name == "rdna3" else 12
    if generation == 12 and lowering.wave_size != 32:
        raise lowering.refuse(instruction, "on gfx12 only with waves of 32")
    negate = 0
    if inputs in ("iu8", "iu4"):
        unsigned, signed = (_U8, _I8) if inputs == "iu8" else (_U4, _I4)
        types = [signed if fields["neg"] >> i & 1 else unsigned for i in range(2)]
    else:
        names = inputs.split("_")
        types = [_TYPES[names[0]], _TYPES[names[-1]]]
        for i in range(2):
            negate |= (fields["neg"] >> i & 1) << (2 * i) | (fields["neg_hi"] >> i & 1) << (2 * i + 1)
        negate |= (fields["neg"] >> 2 & 1) << 4 | (fields["neg_hi"] >> 2 & 1) << 5
    sources = [lowering.source(instruction, fields[f"src{i}"], "u32") for i in range(2)]
    c = lowering.source(instruction, fields["src2"], "i32" if out == "i32" else "f32")
    c.shift = 16 if fields["opsel"] & 4 else 0
    imm = [int(depth), *types, _TYPES[out], generation, negate]
    lowering.emit("wmma", [*sources, c], dst=fields["vdst"], clamp=fields["clamp"], imm=imm)


def _lower_mfma(lowering: Lowering, instruction: Instruction) -> None:
    match = re.fullmatch(r"v_mfma_(f32|i32|f64)_(\d+)x\2x(\d+)(?:_(\d+)b)?_(\w+)", instruction.name)
    if not match:
        raise lowering.refuse(instruction, "the emulator has no such operation")
    out, rows, depth, blocks, inputs = match.groups()
    fields = instruction.fields
    if fields["cbsz"] or fields["abid"] or fields["blgp"]:
        raise lowering.refuse(instruction, "broadcast and permutation modifiers (cbsz, abid, blgp)")
    if (inputs == "f64" and rows == "4") or inputs == "xf32":
        raise lowering.refuse(instruction, "the emulator has no such operation")
    names = inputs.split("_")
    types = [_I8 if name == "i8" else _TYPES.get(name, -1) for name in (names[0], names[-1])]
    if -1 in types:
        raise lowering.refuse(instruction, f"element type {inputs}")
    sources = []
    for i in range(2):
        operand = lowering.source(instruction, fields[f"src{i}"], "u32")
        operand.index += ROW_ACC if fields["acc"] >> i & 1 else 0
        sources.append(operand)
    c = lowering.source(instruction, fields["src2"], out)
    destination = fields["vdst"]
    if fields["acc_cd"]:
        destination += ROW_ACC
        if c.kind == Kind.VECTOR:
            c.index += ROW_ACC
    imm = [int(rows), int(depth), int(blocks or 1), types[0], _TYPES[out], types[1]]
    lowering.emit("mfma", [*sources, c], dst=destination, imm=imm)
